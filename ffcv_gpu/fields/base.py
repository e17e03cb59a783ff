"""The base class of fields: FFCV's protocol, and what the writer and the loader need beyond it."""

from __future__ import annotations

import importlib
import json
import operator
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import FormatError, PipelineError, SampleError
from ffcv_gpu.format import ARGUMENT_BYTES, RECORD_DTYPES, TypeId
from ffcv_gpu.format.index import open_at_once
from ffcv_gpu.steps import Decoder, Source

__all__ = [
    "ARG_TYPE",
    "ByteString",
    "EncodeNote",
    "Field",
    "Malloc",
    "OwnField",
    "Plain",
    "at_old_path",
    "checked_dtype",
    "checked_shape",
    "own_description",
    "plain_number",
    "read_file",
    "wrong_field",
]

ARG_TYPE = np.dtype([("", "<u1", ARGUMENT_BYTES)])
#: start of the argument bytes of an `OwnField`; a JSON object follows
OWN_MAGIC = b"ffcv_gpu\0"

#: ``malloc(n) -> (pointer, uint8 (n,) to fill)``. Store the pointer unchanged in the record: the writer
#: replaces it with the offset in the file once that is known.
Malloc = Callable[[int], tuple[int, npt.NDArray[np.uint8]]]


@dataclass(frozen=True, slots=True)
class EncodeNote:
    """What the writer records about how one value was stored.

    Attributes
    ----------
    mode : str
        How it was stored, as in the writer's report ("raw", "jpeg pass-through", ...).
    facts : tuple of int, optional
        One row of `ffcv_gpu.format.JPEG_FACTS`.
    reason : str, optional
        Why the JPEG bytes could not be stored unchanged.
    rotated : bool
        The source has an EXIF rotation.
    turned : bool
        The rotation was applied to the pixels.
    """

    mode: str
    facts: tuple[int, int, int, int, int] | None = None
    reason: str | None = None
    rotated: bool = False
    turned: bool = False


class Field(ABC):
    """One column of a dataset: how a value becomes a record of fixed size and, if needed, a payload.

    A custom field needs only FFCV's five members: `metadata_type`, `from_binary`, `to_binary`, `encode` and
    `get_decoder_class`.

    Attributes
    ----------
    type_id : int
        The type's number in the file. A subclass gets `TypeId.CUSTOM` unless it sets its own, as in FFCV.
    pointers : tuple of str
        The members of the record that hold a file offset; ``""`` is the record itself. A custom class may
        leave it empty: the writer then finds them by the pointers that `malloc` returned.
    default_decoder : str
        Name of the class in `ffcv_gpu.fields.decoders` that reads the field unless a pipeline names another.
    """

    type_id: ClassVar[int] = TypeId.CUSTOM
    pointers: ClassVar[tuple[str, ...]] = ()
    default_decoder: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "type_id" not in cls.__dict__:
            cls.type_id = TypeId.CUSTOM

    @property
    @abstractmethod
    def metadata_type(self) -> np.dtype[Any]:
        """The dtype of one record."""

    @staticmethod
    @abstractmethod
    def from_binary(binary: Any) -> Field:
        """Return the field that `to_binary` stored; `binary` is uint8 (1024,)."""

    @abstractmethod
    def to_binary(self) -> Any:
        """Return one `ARG_TYPE` record: the 1024 bytes from which `from_binary` restores this field."""

    @abstractmethod
    def encode(self, destination: npt.NDArray[Any], value: Any, malloc: Malloc) -> None:
        """Store one value.

        Parameters
        ----------
        destination : ndarray of `metadata_type`, shape (1,)
            The sample's record, to be filled in.
        value
            The value from the dataset.
        malloc : callable
            ``malloc(n)`` returns a pointer to store in the record, and uint8 (n,) to fill with the payload.
            All payloads of a sample share one page.

        Raises
        ------
        SampleError
            If the value cannot be stored; the writer adds the sample and the field.
        """

    def get_decoder_class(self) -> Any:
        """Return the class of the decoder that reads this field unless a pipeline names another."""
        if not self.default_decoder:
            raise TypeError(f"{type(self).__name__} must define get_decoder_class()")
        return getattr(importlib.import_module("ffcv_gpu.fields.decoders"), self.default_decoder)

    @property
    def record_dtype(self) -> np.dtype[Any]:
        """`metadata_type` as a dtype object."""
        return np.dtype(self.metadata_type)

    def encode_sample(
        self, index: int, destination: npt.NDArray[Any], value: Any, malloc: Malloc
    ) -> EncodeNote | None:
        """Call `encode` for sample `index` of the file; the writer calls this method."""
        self.encode(destination, value, malloc)
        return None

    def restore(self, record: Any, payload: npt.NDArray[np.uint8] | None) -> Any:
        """Return the value of one sample: one that `encode` stores again as it is.

        Parameters
        ----------
        record : scalar of `metadata_type`
        payload : uint8 (n,), or None
            The sample's bytes, for a field with `pointers`. The value does not share its memory.

        Raises
        ------
        PipelineError
            If a custom field does not define this method.
        """
        raise PipelineError(
            f"{type(self).__name__} cannot restore single values: define restore(record, payload), or leave"
            " out the field"
        )

    def expect(self, samples: int) -> None:  # noqa: B027 - most fields have nothing to load
        """Load what pays off for this many samples per process; must not change what is stored.

        The writer calls it before it forks its worker processes, which then share it.
        """

    def write_settings(self) -> Mapping[str, Any]:
        """Return the constructor's arguments as JSON-compatible values; stored in the file for `info`."""
        return {}

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.write_settings().items())
        return f"{type(self).__name__}({settings})"


class Plain(Field):
    """Base of fields without settings."""

    def to_binary(self) -> Any:
        """Return 1024 zeros."""
        return np.zeros(1, dtype=ARG_TYPE)[0]


class ByteString(Plain):
    """Base of fields whose payload is a byte string of any length."""

    pointers = ("ptr",)
    default_decoder = "BytesDecoder"

    @property
    def metadata_type(self) -> np.dtype[Any]:
        """Members ``ptr`` and ``size``, uint64."""
        return RECORD_DTYPES[TypeId.BYTES]

    def restore(self, record: Any, payload: npt.NDArray[np.uint8] | None) -> Any:
        """Return the byte string."""
        assert payload is not None
        return payload.tobytes()

    def store(self, destination: npt.NDArray[Any], content: npt.NDArray[np.uint8], malloc: Malloc) -> None:
        """Store uint8 (n,)."""
        destination["ptr"], storage = malloc(content.size)
        destination["size"] = content.size
        storage[:] = content


class OwnField(Field):
    """Base of our fields that FFCV has no type for.

    The file stores type id 255, and the class and its settings in the argument bytes, so that our loader
    creates them without ``custom_fields``. (FFCV rejects the whole file unless it is given a class for them.)
    """

    def to_binary(self) -> Any:
        """Return the class's name and `write_settings`, from which `from_binary` restores the field."""
        text = json.dumps({"class": type(self).__name__, "settings": dict(self.write_settings())})
        raw = OWN_MAGIC + text.encode("ascii")
        if len(raw) > ARGUMENT_BYTES:
            raise PipelineError(f"{self!r}: its settings take more than {ARGUMENT_BYTES} bytes")
        return np.frombuffer(raw.ljust(ARGUMENT_BYTES, b"\0"), ARG_TYPE)[0]

    @classmethod
    def described(cls, binary: Any) -> Any:
        """Return the field that the argument bytes describe; `FormatError` if it is not a valid `cls`."""
        name, settings = own_description(np.asarray(binary).tobytes())
        try:
            return cls(**settings)
        except (TypeError, ValueError, OverflowError) as error:
            raise FormatError(f"a field is described as {name} with settings {settings}: {error}") from error


def own_description(arguments: bytes) -> tuple[str, dict[str, Any]]:
    """Return class and settings of an `OwnField` from its 1024 argument bytes; ("", {}) for other fields."""
    if not arguments.startswith(OWN_MAGIC):
        return "", {}
    text = arguments[len(OWN_MAGIC) :].rstrip(b"\0")
    try:
        found = json.loads(text)
        return str(found["class"]), dict(found["settings"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"a field of ours is described as {text[:80]!r}: {error}; damaged?") from error


def wrong_field(decoder: Decoder, decodes: str, source: Source) -> PipelineError:
    """Return the error for a decoder that cannot read its field."""
    kind = type(source.field).__name__
    home = getattr(source.field, "default_decoder", "")
    own = f"; {home} reads it" if home else ""
    return PipelineError(
        f"{type(decoder).__name__} decodes {decodes}, but the class of field {source.name!r} is {kind}{own}"
    )


def checked_dtype(dtype: Any, who: str, hint: str = "") -> np.dtype[Any]:
    """Return a numpy dtype; raise `PipelineError`, which ends with `hint`, if `dtype` is none."""
    try:
        found: np.dtype[Any] = np.dtype(dtype)
        return found
    except (TypeError, ValueError, SyntaxError) as error:  # the last is numpy's, of texts like "(1,4,i4"
        raise PipelineError(f"{who}: {dtype!r} is not a dtype ({error}){hint}") from error


def checked_shape(shape: Any, who: str) -> tuple[int, ...]:
    """Return the sides of an array, of which there may be only one; `PipelineError` unless they are whole."""
    try:
        return tuple(map(operator.index, (shape,) if isinstance(shape, (int, np.integer)) else shape))
    except TypeError as error:
        raise PipelineError(f"{who}: shape must be whole numbers, not {shape!r}") from error


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file that a sample names; `SampleError` if it cannot be read."""
    try:
        with open(path, "rb", buffering=0, opener=open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SampleError(f"{os.fspath(path)!r} is a pipe or a device, not a file; correct the path")
            return file.readall()
    except OSError as error:
        raise SampleError(f"cannot read {os.fspath(path)!r}: {error.strerror}; correct the path") from error


def plain_number(value: Any) -> Any:
    """Return the Python number in a numpy scalar, a 0-d array or tensor, or a one-element array."""
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "item") and all(side == 1 for side in shape):
        return value.item()
    return value


#: names that FFCV's field modules also have, and the modules that define them here
_PROTOCOL = {
    **dict.fromkeys(("AllocationQuery", "Compiler", "Operation", "State"), "ffcv_gpu.compat"),
    **dict.fromkeys(("imdecode", "memcpy", "resize_crop"), "ffcv_gpu.libffcv"),
}


def at_old_path(module: str, *names: str, **homes: str) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` for names that FFCV has in that module and that are elsewhere here.

    Parameters
    ----------
    module : str
    *names : str
        Decoders.
    **homes : str
        Other names, and the modules that define them.
    """
    homes = {**dict.fromkeys(names, "ffcv_gpu.fields.decoders"), **homes, **_PROTOCOL}

    def found(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        # Imported on first use: siblings do not import each other, and no layer imports one above it.
        return getattr(importlib.import_module(homes[name]), name)

    return found
