"""Calls of libturbojpeg 3 from compiled code: by a fake of C callbacks with ``turbojpeg.h``'s prototypes."""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, c_int, c_size_t, c_void_p
from typing import Any, ClassVar

import numpy as np
import pytest

from ffcv_gpu.kernels.jpeg_turbo_cpu import FUNCTIONS, NO_MEMORY, REFUSED, decodable, decode
from ffcv_gpu.native.turbojpeg import tjregion

HANDLE, TJSAMP_420, TJSAMP_444 = 0x7EDC_BA98_7654_3210, 2, 0
HEIGHT, WIDTH = 100, 160
#: an image's row: where it is, its size in bytes, where its pixels go, height, width, and all of it
WHOLE = [0x1234_5678_9ABC, 5_000_000_000, 0x2345_6789_ABCD, HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH]

Call = tuple[Any, ...]
Part = tuple[int, int, int, int]


class FakeLibrary:
    """Records its calls; `answers` are the results, by the function's name."""

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
        self._kept = [self.PROTOTYPES[name](self._function(name)) for name in FUNCTIONS]
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
        decode(self.addresses, np.array(rows, np.int64), fast, outcome)
        return outcome.tolist()


@pytest.fixture
def fake() -> FakeLibrary:
    return FakeLibrary()


BEGIN = [("tj3Init", 1), ("tj3Set", HANDLE, 0, 1), ("tj3DecompressHeader", HANDLE, WHOLE[0], WHOLE[1])]
END = [("tj3Destroy", HANDLE)]


def decompress(to: int) -> list[Call]:
    return [("tj3Decompress8", HANDLE, WHOLE[0], WHOLE[1], to, 3 * WIDTH, 0)]


def test_a_whole_image(fake: FakeLibrary) -> None:
    assert fake.decode(WHOLE) == [0]
    assert fake.calls == BEGIN + decompress(WHOLE[2]) + END


def test_the_fast_dct(fake: FakeLibrary) -> None:
    assert fake.decode(WHOLE, fast=1) == [0]
    assert fake.calls[2] == ("tj3Set", HANDLE, 10, 1)
    assert fake.calls[:2] + fake.calls[3:] == BEGIN + decompress(WHOLE[2]) + END


def test_a_part_goes_to_its_place_in_the_whole_image(fake: FakeLibrary) -> None:
    assert fake.decode([*WHOLE[:5], 10, 40, 30, 90]) == [0]
    # x - 1 down to a multiple of 16; right + 2
    region = [("tj3SetCroppingRegion", HANDLE, (32, 10, 92 - 32, 20))]
    assert fake.calls == BEGIN + region + decompress(WHOLE[2] + 3 * (10 * WIDTH + 32)) + END


def test_a_refused_part_is_decoded_whole(fake: FakeLibrary) -> None:
    fake.answers["tj3SetCroppingRegion"] = -1
    assert fake.decode([*WHOLE[:5], 10, 40, 30, 90]) == [0]
    assert fake.calls[-2:] == decompress(WHOLE[2]) + END


@pytest.mark.parametrize("failing", ["tj3DecompressHeader", "tj3Decompress8"])
def test_what_the_library_refuses(fake: FakeLibrary, failing: str) -> None:
    fake.answers[failing] = -1
    assert fake.decode(WHOLE, WHOLE) == [REFUSED, REFUSED]
    assert [call for call in fake.calls if call[0] == "tj3Destroy"] == 2 * END


@pytest.mark.parametrize("parameter", [5, 6])
def test_an_image_of_another_size_is_not_decoded(fake: FakeLibrary, parameter: int) -> None:
    fake.header[parameter] += 1
    assert fake.decode(WHOLE) == [REFUSED]
    assert fake.calls == BEGIN + END


def test_no_memory_for_a_handle(fake: FakeLibrary) -> None:
    fake.answers["tj3Init"] = 0
    assert fake.decode(WHOLE) == [NO_MEMORY]
    assert fake.calls == BEGIN[:1]


def test_no_image_no_call(fake: FakeLibrary) -> None:
    decode(fake.addresses, np.empty((0, 9), np.int64), 0, np.empty(0, np.int8))
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
