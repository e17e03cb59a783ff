"""Calls of libturbojpeg 3 from compiled code: by a fake of C callbacks with ``turbojpeg.h``'s prototypes."""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, c_int, c_size_t, c_void_p
from typing import Any, ClassVar

import numpy as np
import pytest

from ffcv_gpu.kernels.jpeg_turbo_cpu import (
    CROPPING,
    FACTS,
    NO_MEMORY,
    REFUSED,
    WHOLE,
    decodable,
    decode_cropped,
    decode_whole,
)
from ffcv_gpu.native.turbojpeg import tjregion

HANDLE, TJSAMP_420, TJSAMP_444 = 0x7EDC_BA98_7654_3210, 2, 0
HEIGHT, WIDTH = 100, 160
#: an image's row: where it is, its size in bytes, where its pixels go, height, width, and all of it
ROW = [0x1234_5678_9ABC, 5_000_000_000, 0x2345_6789_ABCD, HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH]

Call = tuple[Any, ...]
Part = tuple[int, int, int, int]


class FakeLibrary:
    """A library of 3.0 that records its calls; `answers` are the results, by the function's name."""

    PROTOTYPES: ClassVar[dict[str, Any]] = {
        "tj3Init": CFUNCTYPE(c_void_p, c_int),
        "tj3Set": CFUNCTYPE(c_int, c_void_p, c_int, c_int),
        "tj3DecompressHeader": CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t),
        "tj3Get": CFUNCTYPE(c_int, c_void_p, c_int),
        "tj3SetCroppingRegion": CFUNCTYPE(c_int, c_void_p, tjregion),
        "tj3Decompress8": CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, c_void_p, c_int, c_int),
        "tj3Destroy": CFUNCTYPE(None, c_void_p),
    }

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answers: dict[str, int] = {"tj3Init": HANDLE}
        #: TJPARAM_JPEGHEIGHT, _JPEGWIDTH, _SUBSAMP
        self.header = {6: HEIGHT, 5: WIDTH, 4: TJSAMP_420}
        self._kept = [self.PROTOTYPES[name](self._function(name)) for name in CROPPING]
        pointers = [ctypes.cast(one, c_void_p).value for one in self._kept]
        self.addresses = np.array(pointers, np.int64)

    def _function(self, name: str) -> Any:
        def called(*arguments: Any) -> Any:
            if name == "tj3Get":
                return self.header[arguments[1]]
            plain = [(a.x, a.y, a.w, a.h) if isinstance(a, tjregion) else a for a in arguments]
            self.calls.append((name, *plain))
            return None if name == "tj3Destroy" else self.answers.get(name, 0)

        return called

    def decode(self, *rows: list[int], fast: int = 0) -> list[int]:
        """Decode images by it; return the outcomes."""
        outcome = np.full(len(rows), 9, np.int8)
        decode_cropped(self.addresses, np.array(rows, np.int64), fast, outcome)
        return outcome.tolist()


@pytest.fixture
def fake() -> FakeLibrary:
    return FakeLibrary()


BEGIN = [("tj3Init", 1), ("tj3Set", HANDLE, 0, 1), ("tj3DecompressHeader", HANDLE, ROW[0], ROW[1])]
END = [("tj3Destroy", HANDLE)]
#: also for the whole image: it bounds what is written if somebody changes the JPEG after its header was read
ALL = [("tj3SetCroppingRegion", HANDLE, (0, 0, WIDTH, HEIGHT))]


def decompress(to: int) -> list[Call]:
    return [("tj3Decompress8", HANDLE, ROW[0], ROW[1], to, 3 * WIDTH, 0)]


def test_a_whole_image(fake: FakeLibrary) -> None:
    assert fake.decode(ROW) == [0]
    assert fake.calls == BEGIN + ALL + decompress(ROW[2]) + END


@pytest.mark.parametrize("subsampling", [-1, 7])
def test_a_subsampling_of_which_the_library_decodes_no_parts(fake: FakeLibrary, subsampling: int) -> None:
    fake.header[4] = subsampling
    assert fake.decode([*ROW[:5], 10, 40, 30, 90]) == [0]
    assert fake.calls == BEGIN + decompress(ROW[2]) + END


def test_the_fast_dct(fake: FakeLibrary) -> None:
    assert fake.decode(ROW, fast=1) == [0]
    assert fake.calls[2] == ("tj3Set", HANDLE, 10, 1)
    assert fake.calls[:2] + fake.calls[3:] == BEGIN + ALL + decompress(ROW[2]) + END


def test_a_part_goes_to_its_place_in_the_whole_image(fake: FakeLibrary) -> None:
    assert fake.decode([*ROW[:5], 10, 40, 30, 90]) == [0]
    # x - 1 down to a multiple of 16; right + 2
    region = [("tj3SetCroppingRegion", HANDLE, (32, 10, 92 - 32, 20))]
    assert fake.calls == BEGIN + region + decompress(ROW[2] + 3 * (10 * WIDTH + 32)) + END


@pytest.mark.parametrize("failing", ["tj3DecompressHeader", "tj3SetCroppingRegion", "tj3Decompress8"])
def test_what_the_library_refuses(fake: FakeLibrary, failing: str) -> None:
    fake.answers[failing] = -1
    assert fake.decode(ROW, ROW) == [REFUSED, REFUSED]
    assert [call for call in fake.calls if call[0] == "tj3Destroy"] == 2 * END


@pytest.mark.parametrize("parameter", [5, 6])
def test_an_image_of_another_size_is_not_decoded(fake: FakeLibrary, parameter: int) -> None:
    fake.header[parameter] += 1
    assert fake.decode(ROW) == [REFUSED]
    assert fake.calls == BEGIN + END


def test_no_memory_for_a_handle(fake: FakeLibrary) -> None:
    fake.answers["tj3Init"] = 0
    assert fake.decode(ROW) == [NO_MEMORY]
    assert fake.calls == BEGIN[:1]


def test_no_image_no_call(fake: FakeLibrary) -> None:
    decode_cropped(fake.addresses, np.empty((0, 9), np.int64), 0, np.empty(0, np.int8))
    assert not fake.calls


@pytest.mark.parametrize(
    ("subsampling", "part", "expected"),
    [
        (TJSAMP_444, (10, 41, 30, 90), (10, 40, 30, 90)),
        (TJSAMP_420, (10, 41, 30, 90), (10, 32, 30, 92)),
        (TJSAMP_420, (10, 48, 30, 159), (10, 32, 30, 160)),  # the pixel left of a block's edge, too
        (TJSAMP_420, (0, 0, 1, 1), (0, 0, 1, 3)),
    ],
)
def test_which_part_is_decoded(subsampling: int, part: Part, expected: Part) -> None:
    assert decodable(subsampling, HEIGHT, WIDTH, *part) == expected


@pytest.mark.parametrize("subsampling", [-1, 7])
def test_all_is_decoded_with_a_subsampling_that_nobody_knows(subsampling: int) -> None:
    assert decodable(subsampling, HEIGHT, WIDTH, 10, 41, 30, 90) == (0, 0, HEIGHT, WIDTH)


BEYOND = [(-1, 0, 9, 9), (0, -1, 9, 9), (0, 0, HEIGHT + 1, 9), (0, 0, 9, WIDTH + 1)]
EMPTY = [(5, 5, 5, 9), (5, 5, 9, 5)]


@pytest.mark.parametrize("part", BEYOND + EMPTY)
def test_all_is_decoded_for_a_part_that_is_not_inside(part: Part) -> None:
    assert decodable(TJSAMP_444, HEIGHT, WIDTH, *part) == (0, 0, HEIGHT, WIDTH)


# ---- 2.0's functions


class FakeOldLibrary:
    """The same of 2.0."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answers = {"tjInitDecompress": HANDLE}
        self.size = WIDTH, HEIGHT
        handle, int_, facts = c_void_p, c_int, ctypes.POINTER(c_int)
        types = [
            CFUNCTYPE(handle),
            CFUNCTYPE(int_, handle, c_void_p, ctypes.c_ulong, facts, facts, facts, facts),
            CFUNCTYPE(int_, handle, c_void_p, ctypes.c_ulong, c_void_p, *[int_] * 5),
            CFUNCTYPE(int_, handle),
        ]
        self._kept = [type_(self._function(name)) for name, type_ in zip(WHOLE, types, strict=True)]
        pointers = [ctypes.cast(one, c_void_p).value for one in self._kept]
        self.addresses = np.array(pointers, np.int64)

    def _function(self, name: str) -> Any:
        def called(*arguments: Any) -> int:
            self.calls.append((name, *(a for a in arguments if isinstance(a, int))))
            if name == "tjDecompressHeader3":
                for place, value in zip(arguments[3:], (*self.size, TJSAMP_420, 1), strict=True):
                    place[0] = value
            return self.answers.get(name, 0)

        return called

    def decode(self, *rows: list[int], fast: int = 0) -> list[int]:
        """Decode images by it; return the outcomes."""
        outcome, facts = np.full(len(rows), 9, np.int8), np.zeros(FACTS, np.int32)
        decode_whole(self.addresses, np.array(rows, np.int64), fast, outcome, facts, facts.ctypes.data)
        return outcome.tolist()


@pytest.fixture
def old() -> FakeOldLibrary:
    return FakeOldLibrary()


OLD_BEGIN = [("tjInitDecompress",), ("tjDecompressHeader3", HANDLE, ROW[0], ROW[1])]
OLD_END = [("tjDestroy", HANDLE)]


@pytest.mark.parametrize(("fast", "flags"), [(0, 8192 + 4096), (1, 8192 + 2048)])
def test_whole_images(old: FakeOldLibrary, fast: int, flags: int) -> None:
    part = [*ROW[:5], 10, 40, 30, 90]  # ignored
    assert old.decode(ROW, part, fast=fast) == [0, 0]
    decompress = [("tjDecompress2", HANDLE, *ROW[:3], WIDTH, 3 * WIDTH, HEIGHT, 0, flags)]
    assert old.calls == 2 * (OLD_BEGIN + decompress + OLD_END)


@pytest.mark.parametrize("failing", ["tjDecompressHeader3", "tjDecompress2"])
def test_what_an_old_library_refuses(old: FakeOldLibrary, failing: str) -> None:
    old.answers[failing] = -1
    assert old.decode(ROW, ROW) == [REFUSED, REFUSED]
    assert [call for call in old.calls if call[0] == "tjDestroy"] == 2 * OLD_END


@pytest.mark.parametrize("size", [(WIDTH + 1, HEIGHT), (WIDTH, HEIGHT - 1), (HEIGHT, WIDTH)])
def test_an_image_of_another_size_is_not_scaled(old: FakeOldLibrary, size: tuple[int, int]) -> None:
    old.size = size
    assert old.decode(ROW) == [REFUSED]
    assert old.calls == OLD_BEGIN + OLD_END


def test_no_memory_for_an_old_handle(old: FakeOldLibrary) -> None:
    old.answers["tjInitDecompress"] = 0
    assert old.decode(ROW, ROW) == [NO_MEMORY, NO_MEMORY]
    assert old.calls == 2 * OLD_BEGIN[:1]
