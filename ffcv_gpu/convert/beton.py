"""A ``.beton`` file as a dataset: any sample by its number, as the value that was written.

For looking at samples, for PyTorch's DataLoader, and for writing a file again: resized, filtered, with fields
added. To train from a file, use `ffcv_gpu.loader.Loader`, which does far less work per sample.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.decode import decode_jpegs
from ffcv_gpu.errors import DecodeError, FfcvGpuError, PipelineError, ReadError
from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.format import crc32c, has_crop_index
from ffcv_gpu.readers import is_url

__all__ = ["BetonDataset"]

#: attributes that another process reads from the file again
_IN_FILE = frozenset({"_file", "path", "fields", "source_ids"})


class BetonDataset(Sequence[tuple[Any, ...]]):
    """``dataset[i]`` is a tuple with one value per field, in the file's order of fields.

    Values are what the fields accept: `int`, `float`, `bytes`, documents, NumPy arrays and, of a
    `TorchTensorField`, CPU tensors. They own their memory. An image is uint8 (height, width, 3), or whatever
    its `ImageField` holds, (height, width, channels); JPEGs are decoded as by the Loader. Thread-safe; can be
    pickled, and used in forked processes.

    Parameters
    ----------
    path : str or os.PathLike, or list of these
        A local file, or several with the same fields, one after another.
    fields : iterable of str, optional
        Names of the fields to return, in this order. Default: all.
    decode : bool, keyword only
        False: JPEGs are returned as `bytes`, exactly as stored. Written again, they stay as they are.
    custom_fields : mapping of str to Field class, keyword only, optional
        As for the Loader; the classes must define `restore`.

    Attributes
    ----------
    path : str
        Of several files, the first one's and how many more there are.
    fields : dict of str to Field
        What `DatasetWriter` needs to write the values again.
    classes : tuple of str, or None
        Class names by label, if a file has them.
    source_ids : sequence of str, or None
        Where each sample came from, if a file has it; "" for the samples of one that has not.

    Raises
    ------
    FormatError
        If the file is not a valid ``.beton`` file.
    ReadError
        If it cannot be read; from ``dataset[i]``, if a payload cannot be read or does not match its checksum.
    DecodeError
        From ``dataset[i]``, if a JPEG or a document cannot be decoded.
    PipelineError
        If there is no such field or one is named twice, or a custom field has no class or cannot be restored.
    IndexError
        If there is no such sample.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        fields: Iterable[str] | None = None,
        *,
        decode: bool = True,
        custom_fields: Mapping[str, Any] | None = None,
    ) -> None:
        names = [path] if isinstance(path, str | os.PathLike) else path
        paths = [os.fspath(name) for name in names]
        for name in filter(is_url, paths):
            raise PipelineError(f"BetonDataset reads local files, not {name}; download it first")
        if not paths:
            raise PipelineError("BetonDataset: path is an empty list; give at least one")
        if isinstance(fields, str):
            raise PipelineError(f"fields must be a list of names: [{fields!r}]")
        self._custom, self._decode = dict(custom_fields or {}), decode
        self._open(paths, None if fields is None else list(fields))
        self._absolute = list(map(os.path.abspath, paths))  # another process may have another folder
        self.classes = self._file.beton.class_names

    def _open(self, paths: list[str], names: list[str] | None) -> None:
        """Open the files and choose their fields `names`, by default all."""
        self._file = Dataset(paths, self._custom, os_cache=True)
        self.path = self._file.path
        names = list(self._file.fields) if names is None else names
        for name in names:
            if name not in self._file.fields:
                known = ", ".join(map(repr, self._file.fields))
                raise PipelineError(f"{self.path} has no field {name!r}; its fields are {known}")
        name, times = Counter(names).most_common(1)[0] if names else ("", 0)
        if times > 1:
            raise PipelineError(f"fields names {name!r} twice; a sample has each value once")
        self.fields = {name: self._field(name) for name in names}
        self.source_ids = self._file.beton.source_ids

    def _field(self, name: str) -> Any:
        """Return the field that writes values as they are stored here, JPEGs with an index for crops."""
        field = self._file.fields[name]
        if type(field) is RGBImageField and has_crop_index(self._file.beton.facts(name)):
            return RGBImageField(crop_index=True)
        return field

    @property
    def fingerprint(self) -> str:
        """Identifies the file's contents; the writer uses it to notice that the source was replaced."""
        return self._file.fingerprint()

    def __len__(self) -> int:
        return len(self._file)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        try:
            sample = range(len(self))[index]
        except IndexError:
            raise IndexError(f"{self.path} has {len(self)} samples, and none at {index}") from None
        self._file.check_files()
        return tuple(self._value(name, sample) for name in self.fields)

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return all values of a field of numbers, (N,), newly allocated: labels to split or weigh by.

        Raises
        ------
        PipelineError
            If there is no such field, or it does not hold numbers.
        """
        numbers = [each for each in self.fields if self._file.payloads(each) is None]
        if name not in numbers:
            known = ", ".join(map(repr, numbers)) or "none"
            raise PipelineError(f"{self.path}: {name!r} is no field of numbers; these are: {known}")
        self._file.check_files()
        return np.array(self._file.beton.column(name))

    def __repr__(self) -> str:
        if not hasattr(self, "fields"):  # a debugger or a traceback shows it
            return "BetonDataset: its constructor has not finished"
        return f"BetonDataset({self.path!r}): {len(self):,} samples of {', '.join(self.fields)}"

    def __getstate__(self) -> dict[str, Any]:
        """Return all attributes, those of a subclass too, except what `_open` finds in the file again."""
        found = {"fields": list(self.fields)}
        return {name: value for name, value in vars(self).items() if name not in _IN_FILE} | found

    def __setstate__(self, state: dict[str, Any]) -> None:
        names = state.pop("fields")
        vars(self).update(state)
        self._open(self._absolute, names)

    def _value(self, name: str, sample: int) -> Any:
        field, payloads = self.fields[name], self._file.payloads(name)
        record = self._file.beton.column(name)[sample]
        if payloads is None:
            return field.restore(record, None)
        offset, length = int(payloads.offsets[sample]), int(payloads.lengths[sample])
        try:
            payload = self._file.reader.view(offset, length)
            expected = -1 if payloads.checksums is None else int(payloads.checksums[sample])
            if expected >= 0 and crc32c(payload) != expected:
                raise ReadError(
                    "it does not match its checksum: the file was damaged after it was written; restore it"
                    " from a copy, or write it again"
                )
            value = field.restore(record, payload)
            return self._pixels(value) if self._decode and isinstance(field, RGBImageField) else value
        except (ReadError, DecodeError) as error:
            offset -= self._file.file_of(sample).base
            own = self._file.name_of(sample)
            place = f"{own}, field {name!r}: payload of {length} bytes at byte {offset}"
            raise _located(error, place, sample, name, offset) from error

    def _pixels(self, image: bytes | npt.NDArray[np.uint8]) -> Any:
        if not isinstance(image, bytes):
            return image
        images, _ = decode_jpegs([image], device="cpu", output="numpy", on_error="raise", num_workers=1)
        return images[0]


def _located(error: FfcvGpuError, place: str, sample: int, field: str, offset: int) -> FfcvGpuError:
    """Return the same kind of error, which says where it occurred."""
    found = type(error)(f"{place}: {error}")
    found.sample, found.field, found.offset = sample, field, offset
    return found
