"""`Dataset`: an open file, its fields by name, its columns, and where each payload is."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.dataset.facts import FactsStore
from ffcv_gpu.dataset.facts_file import FactsFile
from ffcv_gpu.dataset.stored import BUILTIN_FIELDS, stored_fields
from ffcv_gpu.dataset.watch import FileWatch
from ffcv_gpu.errors import FormatError, PipelineError
from ffcv_gpu.fields import ImageField
from ffcv_gpu.format import ImageMode, crc32c
from ffcv_gpu.plan import ImagePayloads, Payloads
from ffcv_gpu.readers import (
    Bundled,
    EpochRanges,
    EpochReader,
    MappedReader,
    MirroredReader,
    PagedReader,
    PageFile,
    PositionedReader,
    RangeReader,
    Reader,
    RemoteFile,
    Unscheduled,
    is_url,
)
from ffcv_gpu.steps import IntArray, Source

__all__ = ["DEFAULT_CACHE_GB", "Dataset", "checked_folder"]

#: The pages that QUASI_RANDOM keeps open (64 of 8 MiB: 0.54), and as many to read ahead.
DEFAULT_CACHE_GB = 1.1


class Dataset:
    """An open ``.beton`` file.

    Parameters
    ----------
    path : str
        A file, or a URL, which is read through a memory map of a copy in `cache_dir`.
    custom_fields : mapping of str to Field class
        For fields of type 255; a class given here takes precedence over the type stored in the file.
    os_cache : bool
        True: payloads are read through a memory map. False: page by page into memory of our own.
    cache_gb : float, optional
        The size of that memory, in 10**9 bytes; default `DEFAULT_CACHE_GB`.
    sharers : int
        Processes that read the file at the same time, each its share of one order. If there are several,
        pages are read through the system's page cache, which they share.
    cache_dir : str or os.PathLike, optional
        Folder for JPEG facts that the file does not contain, and for copies of remote files; see
        `checked_folder`.

    Attributes
    ----------
    remote : RemoteFile or None
    reading : EpochReader
        Reads the batches of the epoch that `in_epoch` started.

    Raises
    ------
    FormatError
        If the file is not a valid ``.beton`` file.
    ReadError
        If it cannot be read, or was replaced by another while it was being opened.
    PipelineError
        If a custom field of the file has no class, a class has no field, or `cache_gb` is less than a page.
    """

    def __init__(
        self,
        path: str,
        custom_fields: Mapping[str, Any],
        os_cache: bool,
        cache_gb: float | None = None,
        sharers: int = 1,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.path, self._cache_dir = path, checked_folder(cache_dir)
        self.remote = self._open_remote(os_cache) if is_url(path) else None
        self._local = path if self.remote is None else self.remote.path
        self._watch = FileWatch(self._local)
        stored = stored_fields(self._local, custom_fields)
        self.fields, self.beton = dict(stored.fields), stored.open(name=self.place)
        self.reader = self._make_reader(os_cache, DEFAULT_CACHE_GB if cache_gb is None else cache_gb, sharers)
        self.reading: EpochReader = Unscheduled(self.reader)
        self._watch.check_name()
        self._payloads: dict[str, Payloads] = {}
        self._scalars: dict[tuple[str, ...], npt.NDArray[Any]] = {}
        self._memos: dict[str, dict[Any, Any]] = {}
        self._found: dict[str, FactsStore] = {}
        self._fingerprint: str | None = None

    def _open_remote(self, os_cache: bool) -> RemoteFile:
        if not os_cache:
            raise PipelineError(
                f"os_cache=False does not work with a URL: {self.path} is read through a memory map of its "
                "local copy; pass os_cache=True"
            )
        return RemoteFile(self.path, self._cache_dir)

    def _make_reader(self, os_cache: bool, cache_gb: float, sharers: int) -> Reader:
        if os_cache:
            mapped = MappedReader(self.place, self.beton.data)
            return mapped if self.remote is None else MirroredReader(self.remote, mapped)
        page, cache = self.beton.page_size, int(cache_gb * 1e9)
        if 0 < cache < page:
            raise PipelineError(
                f"cache_gb={cache_gb:g} is less than one page of {self.path}, {page} bytes; pass at least "
                f"{np.ceil(page / 1e5) / 1e4:.4f}, or 0 to read payload by payload"
            )
        ranges = PositionedReader(self.path)
        pages = PageFile(self.path, ranges.descriptor, direct=sharers == 1)
        sizes = {"page_bytes": page, "cache_bytes": cache, "sharers": sharers}
        return PagedReader(self.path, ranges, pages, **sizes)

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
        return self.reader if self.remote is None else self.reading.batch(batch)

    @property
    def place(self) -> str:
        """The file's name in messages about its bytes; for a remote file, with its local copy."""
        copied = f"{self.path} (local copy: {self._local}; delete it to fetch it again)"
        return self.path if self.remote is None else copied

    def __len__(self) -> int:
        return self.beton.num_samples

    def __fspath__(self) -> str:
        """Return the path: a Loader that is given an open file instead of a path reads just that file."""
        return self.path

    def check_file(self) -> None:
        """Raise `ReadError` if the file was truncated since it was opened: mapped bytes may be gone.

        Or if the rest of a remote file is no longer available.
        """
        self._watch.check_size()
        if self.remote is not None:
            self.remote.check()

    def fingerprint(self) -> str:
        """Return an identifier of the file's content: the CRC32C of all but its payloads, and its size."""
        if self._fingerprint is None:
            beton = self.beton
            sums = (crc32c(beton.data[: beton.layout.data_offset]), crc32c(beton.data[beton.data_end :]))
            self._fingerprint = "-".join([*(f"{part:08x}" for part in sums), str(beton.size_bytes)])
        return self._fingerprint

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
                f"{self.path}: sample {k}, field {name!r}: {lengths[k]} bytes are not an image of "
                f"{widths[k]} x {heights[k]} pixels of {self.pixel_bytes(name)} bytes: damaged metadata; "
                "write the file again"
            )

    def source(self, name: str, indices: IntArray) -> Source:
        """Return what decoders need to know about a field, for the samples `indices`."""
        payloads = self.payloads(name)
        known: dict[str, Any] = {"records": self.beton.column(name), "data": self.beton.data}
        known |= {"allocations": self.beton.allocations, "memo": self._memos.setdefault(name, {})}
        if isinstance(payloads, ImagePayloads):
            known |= {"heights": payloads.heights[indices], "widths": payloads.widths[indices]}
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
        if self.remote is None:
            file, version = os.path.realpath(self.path), self._watch.identity()
        else:
            file, version = self.path, self.remote.identity
        return FactsFile(self._cache_dir, file, name, f"{version} {self.fingerprint()}")

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
