"""Files made to do harm: refused in one sentence, at once, with no more memory than they have bytes."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc

import numpy as np
import pytest

from ffcv_gpu.errors import FormatError
from ffcv_gpu.format import FieldDescType, open_beton, read_descriptors


@pytest.mark.parametrize("open_it", [open_beton, read_descriptors])
def test_a_pipe_does_not_wait_for_a_writer(open_it, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="pipe: not a regular file"):
        open_it(tmp_path / "pipe")


@pytest.mark.parametrize("open_it", [open_beton, read_descriptors])
def test_a_device_and_a_folder_are_no_files(open_it, tmp_path):
    with pytest.raises(FormatError, match="/dev/zero: not a regular file"):
        open_it("/dev/zero")
    with pytest.raises(IsADirectoryError):
        open_it(tmp_path)


def test_as_many_fields_as_a_header_can_name(tmp_path):
    """65535 descriptors, 68 MB, of which the last two have one name: found in seconds, not minutes."""
    fields = np.zeros(65535, FieldDescType)
    fields["type_id"] = 1
    names = np.array([f"{k:016x}" for k in range(65535)], "S16")
    names[-1] = names[-2]
    fields["name"] = names.view(np.uint8).reshape(-1, 16)
    path = tmp_path / "x"
    path.write_bytes(struct.pack("<HHIQQ", 2, 65535, 1 << 21, 1, 0) + fields.tobytes() + bytes(8 * 65535))
    for open_it in (open_beton, read_descriptors):
        began = time.process_time()
        with pytest.raises(FormatError, match="two fields are called '000000000000fffd'"):
            open_it(path)
        assert time.process_time() - began < 10


def test_a_sparse_file_of_a_terabyte(tmp_path, files):
    path = files.write(tmp_path / "x", files.small(), section=False)
    os.truncate(path, 1 << 40)  # the table now has 46 thousand million entries, all zero, none on the disk
    with open(path, "rb") as file:
        header = file.read(24)
    tracemalloc.start()
    try:
        files.patch(path, 16, struct.pack("<Q", (1 << 40) - 24 * 15))  # ... or 15
        open_beton(path)
        files.patch(path, 8, struct.pack("<Q", 1 << 36))
        with pytest.raises(FormatError, match="metadata of 68719476736 samples ends at byte"):
            open_beton(path)
        files.patch(path, 0, header[:16] + struct.pack("<Q", (1 << 40) + 1))
        with pytest.raises(FormatError, match="the file ends at 1099511627776: truncated"):
            open_beton(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1, 23, 24, 25, 1064, 1065])
def test_descriptors_of_a_file_that_ends_too_early(size, tmp_path, files):
    path = files.write(tmp_path / "x", [("a", 1, [1, 2])])
    os.truncate(path, size)
    if size == 1065:
        assert [field.name for field in read_descriptors(path)] == ["a"]
        return
    with pytest.raises(FormatError, match=f"x: {size} bytes end before its field descriptors do"):
        read_descriptors(path)


def test_descriptors_that_cannot_be_right_name_the_file(tmp_path, files):
    path = files.patch(files.write(tmp_path / "x", [("a", 1, [1])]), 25, b"\xe9")
    with pytest.raises(FormatError, match="x: field 0, byte 24: its name"):
        read_descriptors(path)


@pytest.mark.parametrize("shape", [(5,), (1 << 40,), (1 << 63, 1 << 63), ((1 << 64) - 1,) * 32, (7, 3)])
def test_arrays_of_a_shape_that_nobody_has_stored(shape, tmp_path, files):
    """A reader would make room for it."""
    path = files.write(tmp_path / "x", [("v", 4, [bytes(12), bytes(12)])], section=False)
    for good in ((3,), (12,), (1, 2, 2)):
        files.patch(path, 24 + 17, struct.pack("<3Q", *good, *[0] * (3 - len(good))))
        assert open_beton(path).lengths("v").tolist() == [12, 12]
    files.patch(path, 24 + 17, struct.pack(f"<{len(shape)}Q", *shape))
    with pytest.raises(FormatError, match=r"sample 0, field 'v': its payload .* is not an array of shape"):
        open_beton(path).lengths("v")


@pytest.mark.parametrize(
    "text", ['[["", "(1,4,i4"]]', "[" * 760, '[["", {}]]', '{"a":1}', '[["", "|O"]]', "\0"]
)
def test_dtypes_that_are_none(text):
    from ffcv_gpu.fields import NDArrayField

    arguments = struct.pack("<32QQ", 2, *[0] * 31, len(text)) + text.encode()
    with pytest.raises(FormatError, match="an array field's dtype is stored as"):
        NDArrayField.from_binary(np.frombuffer(arguments.ljust(1024, b"\0"), np.uint8))
