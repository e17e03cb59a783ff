"""Reads byte ranges of one object in an object store; the only module that imports obstore."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from urllib.parse import unquote

from ffcv_gpu.errors import BackendUnavailable, PipelineError, ReadError

__all__ = ["ObjectLost", "RemoteObject", "Version", "is_url"]

#: A server that does not answer is an error after a minute or two: how long connecting takes at most, how
#: long a server may be silent, and how often and for how long a request is retried. A slow connection is no
#: error, so a request that makes progress may take `SLOWEST`. obstore's default of 30 seconds would require
#: 4.5 MB/s for 16 connections.
CONNECT: Final = timedelta(seconds=10)
SILENCE: Final = timedelta(seconds=20)
SLOWEST: Final = timedelta(minutes=10)
RETRIES: Final = 6
RETRY_FOR: Final = timedelta(seconds=60)
#: the first process to use obstore
_USED_BY: dict[str, int] = {}
#: bytes per piece of a download
CHUNK_BYTES: Final = 1 << 20
#: characters of obstore's message that are shown: it may contain a whole HTML page
SHOWN: Final = 500
#: what the messages of obstore contain if a request is for a range behind the end of the object; if a
#: machine's metadata service was asked for credentials (AWS, Google, Azure); if retrying is of no use
BEYOND_THE_END: Final = re.compile(r"status code: 416|object was only \d+ bytes")
ASKED_THE_MACHINE: Final = re.compile(r"/latest/(api/token|meta-data)|computeMetadata|/metadata/identity")
REFUSED: Final = re.compile(r"status code: 4(?!08|29)\d\d")


def is_url(path: str) -> bool:
    """Return True for a URL such as ``s3://bucket/train.beton``, False for a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


class ObjectLost(ReadError):
    """The rest of the object cannot be read or stored at all: replaced, deleted, no access, a full disk."""


@dataclass(frozen=True)
class Version:
    """Identifies the contents of an object: its size in bytes, and its ETag or else its modification time."""

    size: int
    tag: str


class RemoteObject:
    """An object in a store, as it was at construction; any number of threads may read it.

    obstore takes credentials, region and endpoint from the environment (``AWS_ACCESS_KEY_ID``,
    ``AWS_ENDPOINT``, ``GOOGLE_APPLICATION_CREDENTIALS``, ``AZURE_STORAGE_ACCOUNT_NAME``, ...) or from the
    metadata service of the cloud machine.

    Parameters
    ----------
    url : str
        Percent-encoded or not.

    Attributes
    ----------
    version : Version

    Raises
    ------
    BackendUnavailable
        If obstore is not installed.
    PipelineError
        If obstore does not support the kind of store, or the URL does not name an object.
    ReadError
        If the object does not exist or cannot be accessed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        folder, _, name = url.rpartition("/")
        if not name or folder.endswith(":/"):
            raise PipelineError(f"{url} names no object; it should look like s3://bucket/folder/train.beton")
        if "?" in url:
            raise PipelineError(
                f"{url}: a URL with a query (a link signed for one request) cannot be read by ranges; give "
                "the object's own URL, and credentials in the environment"
            )
        self._name = unquote(name)  # obstore decodes `folder` itself, but takes the name literally
        self._refusals = _refusals()
        _check_process(url)
        self._store = self._opened(folder)
        try:
            self.version = _version(self._store.head(self._name))
        except self._refusals as error:
            raise self._why(error, "cannot be opened") from error

    def _opened(self, folder: str) -> Any:
        from obstore import store

        from_url: Any = store.from_url  # its type hints have one overload per kind of store
        patience = {"connect_timeout": CONNECT, "read_timeout": SILENCE, "timeout": SLOWEST}
        retries = {"max_retries": RETRIES, "retry_timeout": RETRY_FOR}
        options = {**patience, "allow_http": _plain_http(folder)}
        try:
            return from_url(folder, client_options=options, retry_config=retries)
        except self._refusals as error:
            known = "; s3, gs, az, https and file are known" if "to recogni" in str(error) else ""
            raise PipelineError(f"{self.url} cannot be opened: {_in_brief(error)}{known}") from error

    def read(self, begin: int, end: int) -> Iterator[bytes]:
        """Yield bytes [begin, end) of the object in pieces; releases the GIL while waiting.

        Raises
        ------
        ReadError
            If they cannot be read in full; names URL, offset and what to do. `ObjectLost` if nothing else
            of the object can be read either, for example because it was replaced.
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

        full, said = str(error), f"{self.url}: {what}: {_in_brief(error)}"
        if ASKED_THE_MACHINE.search(full):
            return ObjectLost(
                f"{said}; no credentials were found: set them in the environment (AWS_ACCESS_KEY_ID, ...), or"
                " for a public bucket AWS_SKIP_SIGNATURE=true (GOOGLE_SKIP_SIGNATURE, AZURE_SKIP_SIGNATURE)"
            )
        if isinstance(error, FileNotFoundError):
            return ObjectLost(f"{said}; is the URL right, and the object still there?")
        if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
            return ObjectLost(f"{said}; set credentials that may read it in the environment")
        if isinstance(error, exceptions.NotSupportedError):
            return ObjectLost(f"{said}; the server must support requests for byte ranges")
        if BEYOND_THE_END.search(full):
            return ObjectLost(f"{said}; it is shorter than when it was opened: open it again")
        if REFUSED.search(full):
            return ObjectLost(
                f"{said}; are the credentials, which may have expired, and the region right for this URL?"
            )
        return ReadError(
            f"{said}; check the network and the server, then run again: what was fetched is kept"
        )


def _refusals() -> tuple[type[Exception], ...]:
    """Return the exceptions that obstore raises when something cannot be read."""
    try:
        from obstore.exceptions import BaseError
    except ImportError as error:
        raise BackendUnavailable(
            f"reading from a URL needs obstore ({error}); pip install 'ffcv-gpu[remote]'"
        ) from error
    return (BaseError, FileNotFoundError, ValueError)


def _check_process(url: str) -> None:
    """Raise in a forked child of a process that used obstore: its threads do not exist here."""
    if (first := _USED_BY.setdefault("process", os.getpid())) != os.getpid():
        raise ReadError(
            f"{url}: this process was forked from process {first}, which has read from a URL, and no "
            "connection survives a fork; start it by 'spawn', or open URLs only after the fork"
        )


def _plain_http(folder: str) -> bool:
    """Return whether http is allowed: our options override the environment's, so its setting is read here."""
    said = (os.environ.get(f"{cloud}_ALLOW_HTTP", "") for cloud in ("AWS", "AZURE", "GOOGLE"))
    return folder.lower().startswith("http://") or any(word.lower() in ("1", "true") for word in said)


def _version(meta: Any) -> Version:
    return Version(int(meta["size"]), str(meta["e_tag"] or meta["last_modified"].isoformat()))


def _in_brief(error: Exception) -> str:
    """Return obstore's message, shortened, without the dump of its structures that follows."""
    said = str(error).partition("\n\nDebug source")[0]
    return textwrap.shorten(said, SHOWN, placeholder="...").rstrip(": ")
