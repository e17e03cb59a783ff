"""`Dataset`: one or several open files, their fields by name, their columns, and where each payload is."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.dataset.facts import FactsStore
from ffcv_gpu.dataset.facts_file import FactsFile
from ffcv_gpu.dataset.file import OpenFile, open_files
from ffcv_gpu.dataset.joined import JoinedBeton, place_side_by_side
from ffcv_gpu.dataset.stored import BUILTIN_FIELDS
from ffcv_gpu.errors import FormatError, PipelineError
from ffcv_gpu.fields import ImageField
from ffcv_gpu.format import Beton, ImageMode, crc32c
from ffcv_gpu.limits import max_pixels, too_many_pixels
from ffcv_gpu.plan import ImagePayloads, Payloads
from ffcv_gpu.readers import (
    Bundled,
    EpochRanges,
    EpochReader,
    JoinedPages,
    JoinedReader,
    PagedReader,
    PageFile,
    PositionedReader,
    RangeReader,
    Reader,
    RemoteFile,
    Unscheduled,
)
from ffcv_gpu.steps import IntArray, Source

__all__ = ["DEFAULT_CACHE_GB", "Dataset", "checked_folder"]

#: The pages that QUASI_RANDOM keeps open (64 of 8 MiB: 0.54), and as many to read ahead.
DEFAULT_CACHE_GB = 1.1


class Dataset:
    """An open ``.beton`` file, or several with the same fields, one after another.

    Samples are numbered from file to file, and so are bytes: the offset of a payload is that in its file
    plus the file's `OpenFile.base`.

    Parameters
    ----------
    paths : str or sequence of str
        A file or several; or URLs, which are read through memory maps of copies in `cache_dir`.
    custom_fields : mapping of str to Field class
        For fields of type 255; a class given here takes precedence over the type stored in the file.
    os_cache : bool
        True: payloads are read through memory maps. False: page by page into memory of our own.
    cache_gb : float, optional
        The size of that memory, in 10**9 bytes; default `DEFAULT_CACHE_GB`.
    sharers : int
        Processes that read the files at the same time, each its share of one order. If there are several,
        pages are read through the system's page cache, which they share.
    cache_dir : str or os.PathLike, optional
        Folder for JPEG facts that the files do not contain, and for copies of remote files; see
        `checked_folder`.

    Attributes
    ----------
    paths : str or list of str
        As given.
    path : str
        In messages: the file's path, or the first one's and how many more there are.
    files : list of OpenFile
    fields : dict of str to Field
    beton : Beton or JoinedBeton
    remotes : list of RemoteFile
        One for each file that is read from an object store.
    reading : EpochReader
        Reads the batches of the epoch that `in_epoch` started.

    Raises
    ------
    FormatError
        If a file is not a valid ``.beton`` file.
    ReadError
        If it cannot be read, or was replaced by another while it was being opened.
    PipelineError
        If a custom field of a file has no class, a class has no field, `cache_gb` is less than a page, or the
        files' fields or class names differ.
    """

    def __init__(
        self,
        paths: str | Sequence[str],
        custom_fields: Mapping[str, Any],
        os_cache: bool,
        cache_gb: float | None = None,
        sharers: int = 1,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.paths = paths if isinstance(paths, str) else list(paths)
        names = [self.paths] if isinstance(self.paths, str) else self.paths
        more = len(names) - 1
        self.path = names[0] + (f" and {more} more file{'s' if more > 1 else ''}" if more else "")
        self._cache_dir = checked_folder(cache_dir)
        self.files = open_files(names, custom_fields, os_cache, self._cache_dir)
        place_side_by_side(self.files)
        self._firsts = np.array([file.first for file in self.files])
        self.fields = self.files[0].fields
        self.beton: Beton | JoinedBeton = JoinedBeton(self.files) if more else self.files[0].beton
        self.remotes: list[RemoteFile] = [file.remote for file in self.files if file.remote is not None]
        for remote in self.remotes:
            remote.downloads.share(len(self.remotes))
        self.reader = self._make_reader(os_cache, DEFAULT_CACHE_GB if cache_gb is None else cache_gb, sharers)
        self.reading: EpochReader = Unscheduled(self.reader)
        for file in self.files:
            file.check_name()
        self._payloads: dict[str, Payloads] = {}
        self._scalars: dict[tuple[str, ...], npt.NDArray[Any]] = {}
        self._memos: dict[str, dict[Any, Any]] = {}
        self._found: dict[str, FactsStore] = {}

    def _make_reader(self, os_cache: bool, cache_gb: float, sharers: int) -> Reader:
        if os_cache:
            return self._one_reader([file.mapped_reader() for file in self.files])
        page, cache = self.beton.page_size, int(cache_gb * 1e9)
        if 0 < cache < page:
            raise PipelineError(
                f"cache_gb={cache_gb:g} is less than one page of {self.path}, {page} bytes; pass at least "
                f"{np.ceil(page / 1e5) / 1e4:.4f}, or 0 to read payload by payload"
            )
        ranges = [PositionedReader(file.path) for file in self.files]
        pages = [
            PageFile(file.path, reader.descriptor, direct=sharers == 1)
            for file, reader in zip(self.files, ranges, strict=True)
        ]
        whole = pages[0] if len(pages) == 1 else JoinedPages(pages, [file.base for file in self.files])
        sizes = {"page_bytes": page, "cache_bytes": cache, "sharers": sharers}
        return PagedReader(self.path, self._one_reader(ranges), whole, **sizes)

    def _one_reader(self, readers: Sequence[Reader]) -> Reader:
        if len(readers) == 1:
            return readers[0]
        return JoinedReader(readers, np.array([file.base for file in self.files]), self._firsts)

    def in_epoch(
        self, bundles: Sequence[IntArray], fields: Iterable[str], bundle: int, in_flight: int
    ) -> Dataset:
        """Return a copy whose `reading` knows which samples of which fields each `bundle` batches read.

        At most `in_flight` bundles are read at the same time.
        """
        payloads = [found for name in fields if (found := self.payloads(name)) is not None]
        where = [(found.offsets, found.lengths) for found in payloads]
        epoch = copy.copy(self)
        reading = self.reader.begin(EpochRanges(bundles, where, in_flight))
        epoch.reading = reading if bundle == 1 else Bundled(reading, bundle)
        return epoch

    def one_by_one(self, batch: int) -> RangeReader:
        """Return the reader for single payloads of a batch, which bypasses the pages that an epoch keeps."""
        return self.reading.batch(batch) if self.remotes else self.reader

    def file_of(self, sample: int) -> OpenFile:
        """Return the file that a sample is in."""
        return self.files[int(np.searchsorted(self._firsts, sample, side="right")) - 1]

    def name_of(self, sample: int, *, copy: bool = False) -> str:
        """Return a sample's file and its number in it, as text; `copy`: and a remote file's local copy."""
        file = self.file_of(sample)
        more = f" (row {sample} of the {len(self.files)} files)" if len(self.files) > 1 else ""
        return f"{file.place if copy else file.path}: sample {sample - file.first}{more}"

    def __len__(self) -> int:
        return self.beton.num_samples

    def __fspath__(self) -> str:
        """Return the path: a Loader that is given open files instead of paths reads just these."""
        return self.path

    def check_files(self) -> None:
        """Raise `ReadError` if a file can no longer be read; see `OpenFile.check`."""
        for file in self.files:
            file.check()

    def check_room(self) -> None:
        """Raise `ReadError` if the local disk has no room for the rest of the URLs' copies."""
        for remote in self.remotes:
            if remote.check_room():
                return  # the first copy that lacks something has counted what all of them lack

    def fingerprint(self) -> str:
        """Return an identifier of the files' content; see `OpenFile.fingerprint`."""
        each = [file.fingerprint() for file in self.files]
        return each[0] if len(each) == 1 else f"{crc32c(' '.join(each).encode()):08x}-{len(each)} files"

    def is_image(self, name: str) -> bool:
        """Return whether the field's record has the members of an image."""
        names = self.beton.column(name).dtype.names or ()
        return {"mode", "width", "height", "data_ptr"} <= set(names)

    def payloads(self, name: str) -> Payloads | None:
        """Return where the payloads of all samples are, as arrays (num_samples,); None for scalars."""
        if not self.fields[name].pointers:
            return None
        if name not in self._payloads:
            self._payloads[name] = self._locate(name)
        return self._payloads[name]

    def _locate(self, name: str) -> Payloads:
        beton, column = self.beton, self.beton.column(name)
        own_record = self.fields[name].type_id not in BUILTIN_FIELDS
        pointer = self.fields[name].pointers[0] if own_record else None
        where = (beton.offsets(name, pointer), beton.lengths(name, pointer), beton.checksums(name, pointer))
        if not self.is_image(name):
            return Payloads(*where)
        heights, widths = column["height"].astype(np.int64), column["width"].astype(np.int64)
        if isinstance(self.fields[name], ImageField):
            self._check_sides(name, where[1], heights, widths)
        # Copied: if the file is truncated while in use, touching the memory map kills the process.
        facts = None if (noted := beton.facts(name)) is None else np.array(noted)
        return ImagePayloads(*where, np.ascontiguousarray(column["mode"]), heights, widths, facts)

    def bring(self, batch: int, name: str, ids: IntArray) -> None:
        """Download the payloads of a batch that a user-defined decoder reads directly from a remote file."""
        builtin = self.fields[name].type_id in BUILTIN_FIELDS
        for pointer in self.fields[name].pointers:
            which = None if builtin else pointer
            offsets, lengths = self.beton.offsets(name, which), self.beton.lengths(name, which)
            self.reading.batch(batch).locate(offsets[ids], lengths[ids])

    def pixel_bytes(self, name: str) -> int:
        """Return the bytes per pixel of an image field's raw images."""
        return int(getattr(self.fields[name], "pixel_bytes", 3))

    def _check_sides(self, name: str, lengths: IntArray, heights: IntArray, widths: IntArray) -> None:
        wrong = np.flatnonzero(lengths != heights * widths * self.pixel_bytes(name))
        if wrong.size:
            k = wrong[0]
            raise FormatError(
                f"{self.name_of(int(k))}, field {name!r}: {lengths[k]} bytes are not an image of "
                f"{widths[k]} x {heights[k]} pixels of {self.pixel_bytes(name)} bytes: damaged metadata; "
                "write the file again"
            )

    def _check_pixels(
        self, name: str, payloads: ImagePayloads, indices: IntArray, heights: IntArray, widths: IntArray
    ) -> None:
        """Raise `FormatError` for a JPEG that is too large; only the bytes of raw images prove their size."""
        large = np.flatnonzero(heights * widths > max_pixels())
        large = large[payloads.modes[indices[large]] == ImageMode.JPEG]
        if large.size:
            k = large[0]
            raise FormatError(
                f"{self.name_of(int(indices[k]))}, field {name!r}:"
                f" {too_many_pixels(int(heights[k]), int(widths[k]))}; or leave the sample out by indices="
            )

    def source(self, name: str, indices: IntArray) -> Source:
        """Return what decoders need to know about a field, for the samples `indices`.

        Raises
        ------
        FormatError
            If one of them is a JPEG with too many pixels (`ffcv_gpu.limits`).
        """
        payloads = self.payloads(name)
        known: dict[str, Any] = {"records": self.beton.column(name), "data": self.beton.data}
        known |= {"allocations": self.beton.allocations, "memo": self._memos.setdefault(name, {})}
        if isinstance(payloads, ImagePayloads):
            known |= {"heights": payloads.heights[indices], "widths": payloads.widths[indices]}
            self._check_pixels(name, payloads, indices, known["heights"], known["widths"])
            field = self.fields[name]
            if isinstance(field, ImageField):
                known |= {"channels": field.channels, "dtype": field.dtype, "nearest": field.nearest}
        elif payloads is not None:
            known["max_bytes"] = int(payloads.lengths.max(initial=0))
        return Source(name, self.fields[name], **known)

    def found_facts(self, name: str) -> FactsStore:
        """Return the store of JPEG facts of a field whose file has none; filled while the loader reads."""
        if name not in self._found:
            self._found.setdefault(name, FactsStore(len(self), self._facts_file(name)))
        return self._found[name]

    def _facts_file(self, name: str) -> FactsFile | None:
        if self._cache_dir is None:
            return None
        places = [os.path.realpath(file.path) if file.remote is None else file.path for file in self.files]
        version = " ".join(file.version() for file in self.files)
        return FactsFile(self._cache_dir, "\n".join(places), name, f"{version} {self.fingerprint()}")

    def keep_facts(self) -> None:
        """Save the JPEG facts found so far, if there is a `cache_dir`."""
        for store in list(self._found.values()):
            store.keep()

    def forget_memos(self) -> None:
        """Discard what steps have cached: user-defined operations are compiled again."""
        self._memos.clear()

    def scalars(
        self, names: Sequence[str], ids: IntArray, allocate: Callable[..., npt.NDArray[Any]] = np.empty
    ) -> list[npt.NDArray[Any]]:
        """Return the values of fields without payloads, (N, 1) each, in memory of `allocate`."""
        key = tuple(dict.fromkeys(names))
        if key not in self._scalars:
            self._scalars[key] = self._records(key)
        found = self._scalars[key].take(ids)
        values = [allocate((ids.size, 1), found.dtype[name]) for name in names]
        for name, value in zip(names, values, strict=True):
            value[:, 0] = found[name]
        return values

    def _records(self, names: Sequence[str]) -> npt.NDArray[Any]:
        """Return copies of some columns (see `_locate`), those of one sample side by side.

        Random samples of ten columns of 200,000 numbers are found 5 times as fast as in columns of their own:
        each column would cost a cache miss.
        """
        columns = {name: self.beton.column(name) for name in names}
        records = np.empty(len(self), [(name, column.dtype) for name, column in columns.items()])
        for name, column in columns.items():
            records[name] = column
        return records

    def mean_pixel_bytes(self, name: str, indices: IntArray) -> float:
        """Return the mean size of a decoded image, in bytes."""
        payloads = self.payloads(name)
        assert isinstance(payloads, ImagePayloads)
        pixels = payloads.heights[indices] * payloads.widths[indices]
        return float(self.pixel_bytes(name) * pixels.mean())

    def jpeg_share(self, name: str, indices: IntArray) -> float:
        """Return the fraction of the samples `indices` that are stored as JPEG; 0 if there are none."""
        payloads = self.payloads(name)
        if not isinstance(payloads, ImagePayloads) or indices.size == 0:
            return 0.0
        return float((payloads.modes[indices] == ImageMode.JPEG).mean())


def checked_folder(folder: str | os.PathLike[str] | None) -> str | None:
    """Return `folder` as an absolute path, created if missing; `PipelineError` if that fails."""
    if folder is None:
        return None
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise PipelineError(f"cache_dir={os.fspath(folder)!r} cannot be created: {error}") from error
    return os.path.abspath(folder)
