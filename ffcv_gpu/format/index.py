"""Opens a ``.beton`` file and refuses one that cannot be trusted, without reading payloads."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Mapping
from typing import Any

import numpy as np

from ffcv_gpu.errors import FormatError
from ffcv_gpu.format.beton import Beton
from ffcv_gpu.format.faults import sum_problems
from ffcv_gpu.format.layout import FieldDescriptor, FieldDescType, HeaderType, unpack_descriptors
from ffcv_gpu.format.payloads import check_table

__all__ = ["open_at_once", "open_beton", "read_descriptors"]


def open_beton(
    path: str | os.PathLike[str],
    record_dtypes: Mapping[str, np.dtype[Any]] | None = None,
    *,
    check_sums: bool = True,
    name: str | None = None,
) -> Beton:
    """Open a ``.beton`` file for reading and check that its structure can be trusted.

    Parameters
    ----------
    path
        a local file
    record_dtypes
        the record of each custom field (type id 255) by name; overrides a stored type id
    check_sums
        compare header, descriptors, metadata and table with the file's checksums, if it has any.
        Reads metadata and table once, under 10 ms for 1.28 million samples.
    name
        what messages call the file, where that is not its path: the URL that it is a copy of

    Returns
    -------
    Beton
        stays valid if the file is later replaced by another one, or deleted

    Raises
    ------
    FormatError
        if this is not a version 2 file, its writing was interrupted, or it is truncated or damaged
    OSError
        if it cannot be opened
    """
    path = os.fspath(path)
    with open(path, "rb", opener=open_at_once) as file:
        size = _size_of_regular(file.fileno(), path)
        if size < HeaderType.itemsize:
            raise FormatError(f"{path}: {size} bytes is too short for a .beton file: its header alone has 24")
        # The map keeps the inode: a file that later replaces this one under its name has no effect.
        data = np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)
    name = path if name is None else name
    beton = Beton(name, data, record_dtypes or {})
    check_table(beton.allocations, beton.region)
    if check_sums:
        for problem in sum_problems(beton):
            raise FormatError(f"{name}: {problem}; the file is damaged, write or fetch it again")
    return beton


def read_descriptors(path: str | os.PathLike[str]) -> tuple[FieldDescriptor, ...]:
    """Return the field descriptors of a file, to learn which fields are custom before opening it.

    Raises
    ------
    FormatError
        if the file ends before they do, or their names are invalid
    OSError
        if it cannot be opened
    """
    path = os.fspath(path)
    with open(path, "rb", opener=open_at_once) as file:
        size = _size_of_regular(file.fileno(), path)
        header = file.read(HeaderType.itemsize)
        count = int(np.frombuffer(header, HeaderType)[0]["num_fields"]) if len(header) == 24 else 1 << 16
        length = count * FieldDescType.itemsize
        if HeaderType.itemsize + length > size:
            raise FormatError(
                f"{path}: {size} bytes end before its field descriptors do: truncated, or not a .beton file"
            )
        data = file.read(length)
    try:
        return unpack_descriptors(data)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def open_at_once(path: str, flags: int) -> int:
    """Open a file, as `open(opener=)`: opening a named pipe would block until somebody writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _size_of_regular(fd: int, path: str) -> int:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(f"{path}: not a regular file, so not a .beton file")
    return status.st_size
