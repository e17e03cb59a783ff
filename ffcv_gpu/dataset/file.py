"""`OpenFile`: one open ``.beton`` file, local or remote, and its place in a dataset of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ffcv_gpu.dataset.stored import stored_fields
from ffcv_gpu.dataset.watch import FileWatch
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.format import crc32c
from ffcv_gpu.readers import MappedReader, MirroredReader, Reader, RemoteFile, is_url

__all__ = ["OpenFile", "open_files"]

#: URLs opened at the same time: each waits for several answers, one after the other
OPENED_AT_ONCE = 16


def open_files(
    paths: Sequence[str], custom_fields: Mapping[str, Any], os_cache: bool, cache_dir: str | None
) -> list[OpenFile]:
    """Open several files, URLs at the same time; see `OpenFile`. The first file's error is raised."""

    def opened(path: str) -> OpenFile:
        return OpenFile(path, custom_fields, os_cache, cache_dir)

    if len(paths) == 1 or not any(map(is_url, paths)):
        return [opened(path) for path in paths]
    pool = ThreadPoolExecutor(OPENED_AT_ONCE, thread_name_prefix="ffcv_gpu-open")
    try:
        return list(pool.map(opened, paths))
    finally:
        pool.shutdown(wait=False)  # after an error or Ctrl-C, a silent server is not waited for


class OpenFile:
    """One open ``.beton`` file.

    Parameters
    ----------
    path : str
        A file, or a URL, which is read through a memory map of a copy in `cache_dir`.
    custom_fields : mapping of str to Field class
        For fields of type 255; a class given here takes precedence over the type stored in the file.
    os_cache : bool
        A URL needs True.
    cache_dir : str, optional
        The folder for copies of remote files.

    Attributes
    ----------
    path : str
    remote : RemoteFile or None
    fields : dict of str to Field
    beton : Beton
    first, base : int
        The number of the file's first sample in its dataset, and the offset of its first byte; 0 for the
        first file.

    Raises
    ------
    FormatError, ReadError, PipelineError
        As for `Dataset`.
    """

    def __init__(
        self, path: str, custom_fields: Mapping[str, Any], os_cache: bool, cache_dir: str | None
    ) -> None:
        self.path, self.first, self.base = path, 0, 0
        self.remote = self._open_remote(os_cache, cache_dir) if is_url(path) else None
        self._local = path if self.remote is None else self.remote.path
        self._watch = FileWatch(self._local)
        stored = stored_fields(self._local, custom_fields)
        self.fields, self.beton = dict(stored.fields), stored.open(name=self.place)
        self._fingerprint: str | None = None

    def _open_remote(self, os_cache: bool, cache_dir: str | None) -> RemoteFile:
        if not os_cache:
            raise PipelineError(
                f"os_cache=False does not work with a URL: {self.path} is read through a memory map of its "
                "local copy; pass os_cache=True"
            )
        return RemoteFile(self.path, cache_dir)

    @property
    def place(self) -> str:
        """The file's name in messages about its bytes; for a remote file, with its local copy."""
        copied = f"{self.path} (local copy: {self._local}; delete it to fetch it again)"
        return self.path if self.remote is None else copied

    def mapped_reader(self) -> Reader:
        """Return a reader of the memory map; of a remote file, it fetches what is read."""
        mapped = MappedReader(self.place, self.beton.data)
        return mapped if self.remote is None else MirroredReader(self.remote, mapped)

    def check_name(self) -> None:
        """Raise `ReadError` if the name now refers to another file: several readers open it by name."""
        self._watch.check_name()

    def check(self) -> None:
        """Raise `ReadError` if the file was truncated since it was opened: mapped bytes may be gone.

        Or if the rest of a remote file is no longer available.
        """
        self._watch.check_size()
        if self.remote is not None:
            self.remote.check()

    def changed(self) -> bool:
        """Return whether somebody else has written to the file since it was opened."""
        return self.remote is None and self._watch.changed()

    def version(self) -> str:
        """Return an identifier of this version of the file: another one has replaced it if it differs."""
        return self._watch.identity() if self.remote is None else self.remote.identity

    def fingerprint(self) -> str:
        """Return an identifier of the file's content: the CRC32C of all but its payloads, and its size."""
        if self._fingerprint is None:
            beton = self.beton
            sums = (crc32c(beton.data[: beton.layout.data_offset]), crc32c(beton.data[beton.data_end :]))
            self._fingerprint = "-".join([*(f"{part:08x}" for part in sums), str(beton.size_bytes)])
        return self._fingerprint
