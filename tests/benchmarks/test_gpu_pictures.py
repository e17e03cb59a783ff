"""Destinations, their guard bytes, and the comparison of pixels."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gpu.host_device import HostGpu
from benchmarks.gpu.pictures import FORMATS, Arena, Pictures, Size, difference, pixels, reference, size_of
from benchmarks.gpu.variants import encode, variants


@pytest.fixture
def gpu():
    return HostGpu()


def test_pictures_lie_one_behind_the_other(gpu, make_photo):
    files = [encode(make_photo(20 + k, 31), kind) for k, kind in enumerate(("420", "gray", "444"))]
    found = Pictures.of(gpu, files)
    assert [bytes(found.data(i)) for i in range(3)] == files
    assert [(s.height, s.width, s.subsampling, s.components) for s in found.sizes] == [
        (20, 31, 2, 3),
        (21, 31, 6, 1),
        (22, 31, 0, 3),
    ]
    assert found.facts["megapixels"] == pytest.approx(31 * (20 + 21 + 22) / 1e6)


@pytest.mark.parametrize("output", ["rgbi", "rgb", "yuv", "y", "unchanged"])
def test_planes_are_those_that_a_decoder_writes(gpu, make_photo, output):
    for file in variants([make_photo(37, 51)], sizes=()):
        expected = reference(file.data, FORMATS[output], interpolate=True)
        arena = Arena(gpu, [size_of(file.data)], FORMATS[output])
        shapes = [plane.shape for plane in arena.image(gpu.download(arena.memory), 0)]
        if expected is not None:
            assert shapes == [plane.shape for plane in expected], file.name


def test_a_byte_outside_a_destination_is_seen(gpu):
    arena = Arena(gpu, [Size(5, 7), Size(3, 200)], FORMATS["rgbi"])
    arena.blank(gpu)
    memory = gpu.download(arena.memory)
    assert arena.spilled(memory) == 0
    assert arena.untouched(memory, 0) and arena.untouched(memory, 1)
    for i in range(2):
        for plane in arena.image(memory, i):
            plane[:] = 1
    assert arena.spilled(memory) == 0
    assert not arena.untouched(memory, 1)
    memory[3 * 7] = 1  # between the end of the first row and the second row
    memory[-1] = 1
    assert arena.spilled(memory) == 2


def test_rows_of_the_table_are_nvjpeg_images(gpu):
    arena = Arena(gpu, [Size(4, 300, 2)], FORMATS["yuv"])
    channels, pitches = arena.table[0, :4], arena.table[0, 4:]
    assert pitches.tolist() == [512, 256, 256, 0]
    assert channels[0] == arena.memory.address
    assert channels[1] >= channels[0] + 4 * 512 and channels[2] >= channels[1] + 2 * 256
    assert channels[3] == 0


def test_difference_is_counted_over_all_planes():
    zero = np.zeros((2, 5), np.uint8)
    other = zero.copy()
    other[0, 0], other[1, 1] = 3, 1
    assert difference([zero, zero], [zero, other]) == {"mean": 0.2, "max": 3.0, "share_over_2": 0.05}
    assert difference([zero], [zero[:1]])["max"] == 255
    assert difference([], [zero])["max"] == 255


def test_what_libjpeg_refuses_has_no_pixels():
    assert pixels(b"no JPEG") is None
    assert reference(b"no JPEG", FORMATS["rgbi"], interpolate=True) is None
