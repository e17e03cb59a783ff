"""A file in an object store, opened: the object, its mirror on the local disk, and downloads between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.format import ALLOC_TABLE_TYPE, CURRENT_VERSION, HeaderType
from ffcv_gpu.readers.base import EpochRanges
from ffcv_gpu.readers.remote.downloads import Downloads
from ffcv_gpu.readers.remote.mirror import Mirror
from ffcv_gpu.readers.remote.schedule import Plan, blocks_of, plan_blocks
from ffcv_gpu.readers.remote.store import RemoteObject
from ffcv_gpu.steps import IntArray

__all__ = ["RemoteFile"]

#: bytes that `RemoteFile.bring_all` waits for at a time
STEP_BYTES = 16 << 20


class RemoteFile:
    """A ``.beton`` file in an object store, of which all but the payloads is on the local disk.

    One request at opening asks whether the object is still what it was; a changed one gets another copy.

    Parameters
    ----------
    url : str
        What ``obstore.store.from_url`` knows: s3, gs, az, http(s). Credentials are found in the environment.
    cache_dir : str or None
        The folder of the local copy, which exists.

    Attributes
    ----------
    path : str
        The local copy; what was not brought reads as zeros.
    downloads : Downloads

    Raises
    ------
    PipelineError
        Without a folder, or if the URL is none that can be read.
    BackendUnavailable
        If obstore is not installed.
    ReadError
        If the object cannot be read, or the disk has too little room for the copy.
    """

    def __init__(self, url: str, cache_dir: str | None) -> None:
        if cache_dir is None:
            raise PipelineError(
                f"{url} is read through a copy on the local disk; say in which folder: cache_dir='/nvme'"
                " (--cache-dir on the command line)"
            )
        self.url = url
        source = RemoteObject(url)
        self._mirror = Mirror(cache_dir, url, source.version)
        self.path, self.downloads = self._mirror.path, Downloads(source, self._mirror)
        self._bring_description()

    def _bring_description(self) -> None:
        """Bring header, metadata, section and table: what lies before the first payload or behind the last.

        Of what is no ``.beton`` file, only its beginning, by which it will be refused.
        """
        size = self._mirror.size
        self.bring_range(0, min(HeaderType.itemsize, size))
        header = np.fromfile(self.path, HeaderType, 1)
        if not header.size or header["version"][0] != CURRENT_VERSION or not header["alloc_table_ptr"][0]:
            return
        table = min(int(header["alloc_table_ptr"][0]), size)
        self.bring_range(table, size)
        entries = np.fromfile(self.path, ALLOC_TABLE_TYPE, offset=table)
        entries = entries[entries["size"] > 0]
        first = min(int(entries["ptr"].min(initial=table)), table)
        last = min(int((entries["ptr"] + entries["size"]).max(initial=first)), table)
        self.bring_range(0, first)
        self.bring_range(last, table)

    def bring_range(self, begin: int, end: int) -> None:
        """Wait until bytes [begin, end) are on the local disk."""
        self.bring(np.array([begin]), np.array([end - begin]))

    def bring(self, offsets: IntArray, lengths: IntArray, ended: Callable[[], bool] = lambda: False) -> None:
        """Wait until ranges are on the local disk; those outside the file are passed over.

        Raises
        ------
        ReadError
            If one cannot be fetched; names URL, offset and what to do.
        concurrent.futures.CancelledError
            Once `ended` returns true; see `Downloads.bring`.
        """
        inside = (offsets >= 0) & (lengths >= 0) & (lengths <= self._mirror.size - offsets)
        self.downloads.bring(blocks_of(offsets[inside], lengths[inside]), ended)

    def bring_all(self) -> Iterator[int]:
        """Bring the whole file; yield how many bytes are there from its beginning on."""
        begins = np.arange(0, self._mirror.size, STEP_BYTES)
        ends = np.minimum(begins + STEP_BYTES, self._mirror.size)
        steps = EpochRanges(list(np.arange(begins.size)[:, None]), [(begins, ends - begins)], 1)
        plan = self.plan(steps)
        self.downloads.follow(plan)
        try:
            for step, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
                self.downloads.ask(plan, step)
                self.bring_range(begin, end)
                yield end
        finally:
            self.downloads.drop(plan)

    def check(self) -> None:
        """Raise `ReadError` if no block can be had any more: replaced, deleted, or access denied."""
        if (lost := self.downloads.lost) is not None:
            raise type(lost)(*lost.args) from lost

    def plan(self, ranges: EpochRanges) -> Plan:
        """Return what has to be fetched for an epoch."""
        return plan_blocks(ranges, self._mirror.absent)

    def describe(self) -> str:
        """Return, as text, how much of the file is on the local disk, and where."""
        there, size = self._mirror.present_bytes, self._mirror.size
        return f"remote: {there / 1e6:,.1f} of {size / 1e6:,.1f} MB are on the local disk, in {self.path}"
