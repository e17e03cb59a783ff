"""One object in an object store, read by ranges: the only module that knows obstore."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from ffcv_gpu.errors import BackendUnavailable, PipelineError, ReadError

__all__ = ["ObjectLost", "RemoteObject", "Version", "is_url"]

#: How long a server may be silent, and how often and how long a request is tried again: what does not answer
#: is an error after a minute or two. A slow line is none, so a request that goes on may take as long as
#: `SLOWEST`: longer than obstore's own 30 seconds, in which 16 connections would want 4.5 MB/s together.
CONNECT: Final = timedelta(seconds=10)
SILENCE: Final = timedelta(seconds=20)
SLOWEST: Final = timedelta(minutes=10)
RETRIES: Final = 6
RETRY_FOR: Final = timedelta(seconds=60)
#: the process that was the first to use obstore
_USED_BY: dict[str, int] = {}
#: bytes that a download hands over at a time
CHUNK_BYTES: Final = 1 << 20


def is_url(path: str) -> bool:
    """True for what names an object in a store: ``s3://bucket/train.beton``."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


class ObjectLost(ReadError):
    """No byte of the object can be had any more: replaced, deleted, or access denied."""


@dataclass(frozen=True)
class Version:
    """Which object it is: its size in bytes, and its ETag, or where there is none when it was changed."""

    size: int
    tag: str


class RemoteObject:
    """An object that ranges are read of, as it was when this was made; any number of threads may read.

    Credentials, region and endpoint are found by obstore in the environment (``AWS_ACCESS_KEY_ID``,
    ``AWS_ENDPOINT``, ``GOOGLE_APPLICATION_CREDENTIALS``, ``AZURE_STORAGE_ACCOUNT_NAME``, ...) or asked of the
    machine it runs on.

    Parameters
    ----------
    url : str

    Attributes
    ----------
    version : Version

    Raises
    ------
    BackendUnavailable
        If obstore is not installed.
    PipelineError
        If obstore knows no such kind of store, or the URL names no object.
    ReadError
        If the object cannot be asked about.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        folder, _, self._name = url.rpartition("/")
        if not self._name or folder.endswith(":/"):
            raise PipelineError(f"{url} names no object; it should look like s3://bucket/folder/train.beton")
        if "?" in url:
            raise PipelineError(
                f"{url}: a URL with a query (a link signed for one request) cannot be read by ranges; give "
                "the object's own URL, and credentials in the environment"
            )
        self._refusals = _refusals()
        _check_process(url)
        self._store = self._opened(folder)
        try:
            self.version = _version(self._store.head(self._name))
        except self._refusals as error:
            raise self._why(error, "cannot be opened") from error

    def _opened(self, folder: str) -> Any:
        from obstore import store

        from_url: Any = store.from_url  # its types want to know which kind of store it will be
        patience = {"connect_timeout": CONNECT, "read_timeout": SILENCE, "timeout": SLOWEST}
        retries = {"max_retries": RETRIES, "retry_timeout": RETRY_FOR}
        options = {**patience, "allow_http": _plain_http(folder)}
        try:
            return from_url(folder, client_options=options, retry_config=retries)
        except self._refusals as error:
            raise PipelineError(f"{self.url} cannot be opened: {_in_brief(error)}") from error

    def read(self, begin: int, end: int) -> Iterator[bytes]:
        """Yield bytes [begin, end) of the object piece by piece; without the GIL while it waits.

        Raises
        ------
        ReadError
            If they cannot be read in full; names URL, offset and what to do. `ObjectLost` if that concerns
            the whole object, one that was replaced included.
        """
        what, done = f"cannot fetch {end - begin} bytes at {begin}", begin
        try:
            result = self._store.get(self._name, options={"range": (begin, end)})
            if (found := _version(result.meta)) != self.version:
                raise ObjectLost(
                    f"{self.url} was replaced while it was being read (it had {self.version.size} bytes and "
                    f"tag {self.version.tag}, now {found.size} and {found.tag}); open it again"
                )
            for piece in result.stream(CHUNK_BYTES):
                yield piece
                done += len(piece)
        except self._refusals as error:
            raise self._why(error, what) from error
        if done != end:
            raise ReadError(f"{self.url}: {what}: only {done - begin} came; try again")

    def _why(self, error: Exception, what: str) -> ReadError:
        from obstore import exceptions

        said = f"{self.url}: {what}: {_in_brief(error)}"
        if isinstance(error, FileNotFoundError):
            return ObjectLost(f"{said}; is the URL right, and the object still there?")
        if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
            return ObjectLost(f"{said}; give credentials that may read it, in the environment")
        if isinstance(error, exceptions.NotSupportedError):
            return ObjectLost(f"{said}; the server must answer requests for ranges of bytes")
        return ReadError(
            f"{said}; look at the network and the server, and begin again: what was fetched is kept"
        )


def _refusals() -> tuple[type[Exception], ...]:
    """Return the exceptions by which obstore says that something cannot be had."""
    try:
        from obstore.exceptions import BaseError
    except ImportError as error:
        raise BackendUnavailable(
            f"reading from a URL needs obstore ({error}); pip install 'ffcv-gpu[remote]'"
        ) from error
    return (BaseError, FileNotFoundError, ValueError)


def _check_process(url: str) -> None:
    """Raise in a forked child of a process that used obstore: it would wait for threads left behind."""
    if (first := _USED_BY.setdefault("process", os.getpid())) != os.getpid():
        raise ReadError(
            f"{url}: this process was forked from one (number {first}) that has read from a URL, and no "
            "connection survives a fork; start it by 'spawn', or open URLs only after the fork"
        )


def _plain_http(folder: str) -> bool:
    """True if the connection need not be encrypted; our own options hide what the environment says of it."""
    said = (os.environ.get(f"{cloud}_ALLOW_HTTP", "") for cloud in ("AWS", "AZURE", "GOOGLE"))
    return folder.lower().startswith("http://") or any(word.lower() in ("1", "true") for word in said)


def _version(meta: Any) -> Version:
    return Version(int(meta["size"]), str(meta["e_tag"] or meta["last_modified"].isoformat()))


def _in_brief(error: Exception) -> str:
    """Return obstore's message without the dump of its structures that follows."""
    return " ".join(str(error).partition("\n\nDebug source")[0].split()).rstrip(": ")
