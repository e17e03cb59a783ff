"""An open file in an object store: the object, its mirror on the local disk, and the downloads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ffcv_gpu.errors import FormatError, PipelineError
from ffcv_gpu.format import ALLOC_TABLE_TYPE, CURRENT_VERSION, HeaderType
from ffcv_gpu.readers.base import EpochRanges
from ffcv_gpu.readers.remote.downloads import Downloads
from ffcv_gpu.readers.remote.mirror import Mirror
from ffcv_gpu.readers.remote.schedule import Plan, blocks_of, plan_blocks
from ffcv_gpu.readers.remote.store import RemoteObject
from ffcv_gpu.steps import IntArray

__all__ = ["RemoteFile"]

#: bytes per step of `RemoteFile.bring_all`
STEP_BYTES = 16 << 20


class RemoteFile:
    """A ``.beton`` file in an object store; opening it fetches everything but the payloads.

    One request at opening asks whether the object has changed; if so, it gets a new copy.

    Parameters
    ----------
    url : str
        As for ``obstore.store.from_url``: s3, gs, az, http(s), file. See `RemoteObject` for credentials.
    cache_dir : str or None
        The existing folder of the local copy.

    Attributes
    ----------
    path : str
        The local copy; what has not been fetched reads as zeros.
    identity : str
        Changes when the object does.
    downloads : Downloads

    Raises
    ------
    PipelineError
        If `cache_dir` is None, or the URL cannot be read.
    BackendUnavailable
        If obstore is not installed.
    FormatError
        If the object is not a ``.beton`` file.
    ReadError
        If the object cannot be read, or the copy cannot be written.
    """

    def __init__(self, url: str, cache_dir: str | None) -> None:
        if cache_dir is None:
            raise PipelineError(
                f"{url} is read through a copy on the local disk; name a folder for it: cache_dir='/nvme'"
                " (--cache-dir on the command line)"
            )
        source = RemoteObject(url)
        self.url, self.identity = url, f"{source.version.size} {source.version.tag}"
        self._mirror = Mirror(cache_dir, url, source.version)
        self.path, self.downloads = self._mirror.path, Downloads(source, self._mirror)
        self._bring_description()

    def _bring_description(self) -> None:
        """Fetch header, metadata, section and table: what is before the first payload and after the last.

        Only the beginning of what is not a ``.beton`` file is fetched, which is enough to reject it.
        """
        size = self._mirror.size
        self.bring_range(0, min(HeaderType.itemsize, size))
        with open(self.path, "rb") as copy:
            start = copy.read(HeaderType.itemsize)
        header = np.frombuffer(start.ljust(HeaderType.itemsize, b"\0"), HeaderType)[0]
        if header["version"] != CURRENT_VERSION or not header["alloc_table_ptr"]:
            raise FormatError(f"{self.url} is not a complete .beton file: it begins with {start[:16]!r}")
        table = min(int(header["alloc_table_ptr"]), size)
        self.bring_range(table, size)
        entries = np.fromfile(self.path, ALLOC_TABLE_TYPE, offset=table)
        entries = entries[entries["size"] > 0]
        first = min(int(entries["ptr"].min(initial=table)), table)
        last = min(int((entries["ptr"] + entries["size"]).max(initial=first)), table)
        self.bring_range(0, first)
        self.bring_range(last, table)

    def bring_range(self, begin: int, end: int) -> None:
        """Fetch bytes [begin, end), and wait for them."""
        self.bring(np.array([begin]), np.array([end - begin]))

    def bring(self, offsets: IntArray, lengths: IntArray, ended: Callable[[], bool] = lambda: False) -> None:
        """Fetch ranges, and wait until they are on the local disk; those outside the file are ignored.

        Raises
        ------
        ReadError
            If one cannot be fetched; names URL, offset and what to do.
        concurrent.futures.CancelledError
            Once `ended` returns True; see `Downloads.bring`.
        """
        inside = (offsets >= 0) & (lengths >= 0) & (lengths <= self._mirror.size - offsets)
        self.downloads.bring(blocks_of(offsets[inside], lengths[inside]), ended)

    def bring_all(self) -> Iterator[int]:
        """Fetch the whole file; yield the number of bytes that are there from its beginning.

        Raises
        ------
        ReadError
            If a part cannot be fetched, or the disk is too small.
        """
        self.check_room()
        begins = np.arange(0, self._mirror.size, STEP_BYTES)
        ends = np.minimum(begins + STEP_BYTES, self._mirror.size)
        steps = EpochRanges(list(np.arange(begins.size)[:, None]), [(begins, ends - begins)], 1)
        plan = self.plan(steps)
        self.downloads.retry()
        try:
            for step, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
                self.downloads.ask(plan, step)
                self.bring_range(begin, end)
                yield end
        finally:
            self.downloads.drop(plan)

    def check(self) -> None:
        """Raise `ReadError` if no more can be fetched: replaced, deleted, access denied, disk full."""
        if (lost := self.downloads.lost) is not None:
            raise type(lost)(*lost.args) from lost

    def check_room(self) -> bool:
        """Raise `ReadError` if the disk has no room for the rest of the file; see `Mirror.check_room`."""
        return self._mirror.check_room()

    def plan(self, ranges: EpochRanges) -> Plan:
        """Return what must be fetched for an epoch."""
        return plan_blocks(ranges, self._mirror.absent, self.downloads.ahead_blocks)

    def there_and_size(self) -> tuple[int, int]:
        """Return how many bytes of the file are on the local disk, and how many it has."""
        return self._mirror.present_bytes, self._mirror.size

    def describe(self) -> str:
        """Return a line of text that says how much of the file is on the local disk, and where."""
        there, size = self.there_and_size()
        return f"remote: {there / 1e6:,.1f} of {size / 1e6:,.1f} MB are on the local disk, in {self.path}"
