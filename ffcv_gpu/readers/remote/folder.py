"""The folder of local copies: their names, which of them are in use, and which may be removed.

A copy is two files, ``NAME-URL-VERSION.beton`` and the same with ``.map``, where URL and VERSION are hashes.
A process that has a copy open holds a shared lock on the first byte of the map. Deleting a copy is safe at
any time: whoever has it open keeps both files, and whoever opens it next begins another one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from ffcv_gpu.readers.remote.store import Version

__all__ = ["copy_name", "exclusive", "in_use", "lock", "others_in_use", "remove_older", "set_in_use"]

logger = logging.getLogger(__name__)

#: Linux's ``struct flock`` for F_OFD_SETLK: type, whence, start, length, pid (0)
FLOCK: Final = struct.Struct("@hhqqi4x")
#: characters of the object's name in a copy's: with 4 bytes each, the longest name has 197 of 255 bytes
NAME_CHARACTERS: Final = 40
HASH_CHARACTERS: Final = 10


def copy_name(url: str, version: Version) -> str:
    """Return the file name of the copy of one version of an object."""
    plain = re.sub(r"[^\w.-]", "_", url.rpartition("/")[2].removesuffix(".beton"))[:NAME_CHARACTERS]
    sums = (hashlib.sha256(text.encode()).hexdigest() for text in (url, f"{version.size} {version.tag}"))
    return "-".join([plain, *(text[:HASH_CHARACTERS] for text in sums)]) + ".beton"


@contextmanager
def exclusive(folder: str) -> Iterator[None]:
    """Keep other processes from creating, opening or removing copies in a folder."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def lock(descriptor: int, kind: int, byte: int) -> bool:
    """Lock or unlock one byte of a file; False if it is locked otherwise, `OSError` if locks do not work.

    A lock belongs to the open file, not to the process: two loaders in one process exclude each other. It
    ends with the last descriptor, so also if the process is killed.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def set_in_use(descriptor: int) -> None:
    """Mark a copy, whose map is open, as in use until `descriptor` is closed, if the file system can."""
    with suppress(OSError):
        lock(descriptor, fcntl.F_RDLCK, 0)


def in_use(path: str) -> bool:
    """Return whether a copy is in use; True if that cannot be determined."""
    try:
        file = os.open(f"{path}.map", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return not lock(file, fcntl.F_WRLCK, 0)
    except OSError:
        return True
    finally:
        os.close(file)


def others_in_use(path: str) -> list[str]:
    """Return the paths of all other copies in the folder of `path` that are in use."""
    folder, name = os.path.split(path)
    maps = (file.removesuffix(".map") for file in os.listdir(folder) if file.endswith(".beton.map"))
    others = (os.path.join(folder, copy) for copy in maps if copy != name)
    return [other for other in others if in_use(other)]


def remove_older(path: str) -> None:
    """Remove copies of other versions of the same object that are not in use."""
    folder, name = os.path.split(path)
    stem = re.escape(name.removesuffix(".beton")[:-HASH_CHARACTERS])
    pattern = re.compile(rf"({stem}[0-9a-f]{{{HASH_CHARACTERS}}}\.beton)(\.map)?(\.part)?")
    found = {match[1] for file in os.listdir(folder) if (match := pattern.fullmatch(file))}
    for copy in (os.path.join(folder, older) for older in found - {name}):
        if in_use(copy):
            continue
        for ending in (".map", "", ".part", ".map.part"):  # without a map, a copy is not trusted
            with suppress(FileNotFoundError, PermissionError):
                os.unlink(copy + ending)
        logger.info("removed %s, the copy of an older version", copy)
