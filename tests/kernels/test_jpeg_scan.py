"""The compiled scan of JPEG headers against the one in Python: equal on every input, to the byte blamed."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ffcv_gpu.errors import DecodeError
from ffcv_gpu.format import JpegFlag
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.kernels import jpeg_scan
from ffcv_gpu.kernels.jpeg_scan import COLUMNS, WRONG_AT

MakeJpeg = Callable[..., bytes]
MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Between images lies what a reader beyond the end would take for its continuation.
TRAP = b"\xff\xd9" * 8


def lay_out(files: Sequence[bytes]) -> tuple[Any, Any, Any]:
    lengths = np.array([len(data) for data in files], np.int64)
    offsets = len(TRAP) + np.concatenate([[0], np.cumsum(lengths + len(TRAP))[:-1]]).astype(np.int64)
    return np.frombuffer(TRAP + TRAP.join(files) + TRAP, np.uint8), offsets, lengths


def scan(files: Sequence[bytes]) -> npt.NDArray[np.int64]:
    rows = np.full((len(files), COLUMNS), 77, np.int64)
    jpeg_scan.scan(*lay_out(files), rows, 0, len(files))
    return rows


def in_python(data: bytes) -> list[int]:
    """Return what a row must begin with: the header, or only the byte that is wrong."""
    try:
        return [*scan_jpeg(data), -1]
    except DecodeError as error:
        place = re.match(r"JPEG, byte (\d+):", str(error))
        assert place
        return [int(place[1])]


def check_agreement(files: Sequence[bytes]) -> npt.NDArray[np.int64]:
    rows = scan(files)
    for data, row in zip(files, rows[:, : WRONG_AT + 1].tolist(), strict=True):
        expected = in_python(data)
        assert row[-len(expected) :] == expected, data[:800]
    return rows


def grey_jpeg(plane: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(plane).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def multi_scan_jpeg(planes: Sequence[npt.NDArray[np.uint8]]) -> bytes:
    """Return a baseline JPEG with a scan for each of three planes, put together from three grey ones."""
    head, scans = b"", b""
    for number, data in enumerate(map(grey_jpeg, planes), start=1):
        frame, start = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
        components = b"".join(bytes((k, 0x11, 0)) for k in (1, 2, 3))
        size, tables = data[frame + 4 : frame + 9], data[frame + 13 : start]
        head = data[:frame] + b"\xff\xc0\0\x11" + size + b"\x03" + components + tables
        scans += b"\xff\xda\0\x08\x01" + bytes((number, 0, 0, 63, 0)) + data[start + 10 : -2]
    return head + scans + b"\xff\xd9"


def test_photographs_as_published(imagenet_jpegs: list[Path]) -> None:
    rows = check_agreement([path.read_bytes() for path in imagenet_jpegs])
    assert (rows[:, WRONG_AT] == -1).all()
    for row, path in list(zip(rows, imagenet_jpegs, strict=True))[::50]:
        with Image.open(path) as image:
            assert (row[jpeg_scan.WIDTH], row[jpeg_scan.HEIGHT]) == image.size


@pytest.fixture(scope="module")
def variants(make_jpeg: MakeJpeg, make_photo: Callable[..., npt.NDArray[np.uint8]]) -> dict[str, bytes]:
    photo = make_photo(41, 59)
    named = ("444", "422", "420", "440", "411", "Gray")
    files = {name: simplejpeg.encode_jpeg(photo, 90, "RGB", name) for name in named}
    files |= {f"exif {turn}": make_jpeg(24, 32, orientation=turn) for turn in range(1, 9)}
    options: dict[str, dict[str, Any]] = {
        "progressive": {"progressive": True},
        "restart": {"restart_marker_rows": 1},
        "progressive restart": {"progressive": True, "restart_marker_rows": 1},
        "rgb": {"keep_rgb": True},
        "rgb 4:4:4": {"keep_rgb": True, "subsampling": "4:4:4"},
        "grey": {"mode": "L"},
        "cmyk": {"mode": "CMYK"},
        "comment": {"comment": b"\xff\xd9 not the end \xff\xda"},
        "icc": {"icc_profile": bytes(70_000)},
        "extra exif": {"orientation": 5, "progressive": True},
    }
    files |= {name: make_jpeg(40, 56, **said) for name, said in options.items()}
    files["multi-scan"] = multi_scan_jpeg([photo[..., k].copy() for k in range(3)])
    return files | {"trailer": files["420"] + b"trailer" * 9}


def test_every_kind(variants: dict[str, bytes]) -> None:
    rows = check_agreement(list(variants.values()))
    assert (rows[:, WRONG_AT] == -1).all()
    found = dict(zip(variants, rows.tolist(), strict=True))
    assert [found[name][jpeg_scan.SUBSAMPLING] for name in ("444", "422", "420", "440", "411", "Gray")] == [
        0, 1, 2, 3, 4, 6,
    ]  # fmt: skip
    assert [found[f"exif {turn}"][jpeg_scan.EXIF_ORIENTATION] for turn in range(1, 9)] == [*range(1, 9)]
    flags = {name: JpegFlag(row[jpeg_scan.FLAGS]) for name, row in found.items()}
    assert flags["rgb"] == flags["rgb 4:4:4"] == JpegFlag.RGB_CODED
    assert flags["restart"] == JpegFlag.RESTART
    assert flags["cmyk"] == JpegFlag.CMYK
    assert flags["multi-scan"] == JpegFlag.MULTI_SCAN
    assert flags["420"] == flags["grey"] == 0


def test_the_multi_scan_file_is_a_good_one(make_photo: Callable[..., npt.NDArray[np.uint8]]) -> None:
    planes = [make_photo(41, 59, seed)[..., 0].copy() for seed in range(3)]
    with Image.open(io.BytesIO(multi_scan_jpeg(planes))) as image:
        image.draft("YCbCr", image.size)  # planes as they are coded
        decoded = np.asarray(image)
    for k, plane in enumerate(planes):
        np.testing.assert_array_equal(decoded[..., k], np.asarray(Image.open(io.BytesIO(grey_jpeg(plane)))))


@pytest.mark.parametrize("name", ["420", "exif 6", "rgb", "cmyk", "multi-scan", "restart"])
def test_cut_at_every_byte(variants: dict[str, bytes], name: str) -> None:
    data = variants[name]
    rows = check_agreement([data[:length] for length in range(len(data))])
    assert (rows[:, WRONG_AT] >= 0).all()


def test_every_bit_of_the_headers_flipped(variants: dict[str, bytes]) -> None:
    for name in ("exif 3", "rgb"):
        data = variants[name]
        flipped = []
        for bit in range(8 * scan_jpeg(data).scan_offset):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            flipped.append(bytes(damaged))
        check_agreement(flipped)


@given(data=st.data())
@MANY
def test_random_damage(variants: dict[str, bytes], data: st.DataObject) -> None:
    jpeg = bytearray(variants[data.draw(st.sampled_from(sorted(set(variants) - {"icc"})))])
    for _ in range(data.draw(st.integers(1, 8))):
        jpeg[data.draw(st.integers(0, min(900, len(jpeg) - 1)))] = data.draw(st.integers(0, 255))
    check_agreement([bytes(jpeg)])


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
@MANY
@example([b""])
@example([b"\xff\xd8\xff", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xda\0", b"\xff\xd8" + b"\xff" * 9])
def test_garbage(tails: list[bytes]) -> None:
    check_agreement([*tails, *(b"\xff\xd8\xff" + tail for tail in tails)])


# ---- whole files drawn segment by segment: mostly sound, most with one lie


class Forger:
    """Draws header segments; `pick` takes one of its arguments, the first half of the time."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def pick(self, usual: Any, *others: Any) -> Any:
        return usual if not others or self.rng.random() < 0.5 else others[self.rng.integers(len(others))]

    def frame(self) -> tuple[int, bytes]:
        names = self.pick(b"RGB!", b"\1\2\3\4", b"RGC\0")
        luma = self.pick(0x11, 0x21, 0x12, 0x22, 0x41, 0x42, 0x24, 0x31, 0x33, 0x66)
        chroma = self.pick(0x11, 0x21, 0x12, 0x22, 0x33)
        factors = [luma, chroma, self.pick(chroma, chroma, chroma, 0x11, 0x01, 0x10), 0x11]
        components = self.pick(3, 1, 2, 4)
        table = b"".join(bytes((names[k], factors[k], k)) for k in range(components))
        said = self.pick(components, *[components] * 9, components + 1, 0)
        size = self.pick((33, 44), (65535, 1), (257, 3), *[(1, 1)] * 9, (0, 7), (7, 0))
        marker = self.pick(0xC0, 0xC1, 0xC2, 0xC9, 0xCF)
        return marker, struct.pack(">BHHB", self.pick(8, 12), *size, said) + table

    def exif(self) -> tuple[int, bytes]:
        order = self.pick("<", ">")
        head = self.pick(order, *order * 9, "<", ">").translate({60: "II*\0", 62: "MM\0*"}).encode()
        entries = b"".join(
            struct.pack(
                f"{order}HHIHxx",
                self.pick(0x0112, 0x0100),
                self.pick(3, 3, 3, 4),
                1,
                self.rng.integers(10),
            )
            for _ in range(self.pick(1, 0, 2, 3))
        )
        count = self.pick(len(entries) // 12, 0, 1, 65535)
        size = 10 + len(entries)
        at = self.pick(8, *[8] * 9, 0, 9, size - 1, size - 2, size, size + 1, 2**31, 2**32 - 1)
        block = b"Exif\0\0" + head + struct.pack(f"{order}IH", at, count) + entries
        cut = self.pick(len(block), *[len(block)] * 3, *(len(block) - k for k in (1, 2, 4, 5)), 8, 12, 13, 15)
        return 0xE1, block[:cut]

    def adobe(self) -> tuple[int, bytes]:
        return 0xEE, (b"Adobe" + bytes(6) + bytes((self.pick(0, 1, 2),)))[: self.pick(12, 11, 4)]

    def jfif(self) -> tuple[int, bytes]:
        whole = b"JFIF\0\1\1\0\0\1\0\1\0\0"
        return 0xE0, self.pick(whole, whole, whole[:13], b"JFIF", b"JFIF\0", b"JFXX" + whole[4:])

    def interval(self) -> tuple[int, bytes]:
        return 0xDD, self.pick(b"\0\0", b"\0\1", b"\1\0", b"\0\0\0\1", b"")

    def tables(self) -> tuple[int, bytes]:
        narrow, wide = b"\0" + bytes(64), b"\x11" + bytes(128)
        return 0xDB, self.pick(narrow, narrow + wide, wide, b"\x01" + b"\x11" * 64, b"\x11", b"")

    def other(self) -> tuple[int, bytes]:
        return int(self.rng.integers(256)), self.rng.bytes(self.rng.integers(12))

    def piece(self, marker: int, payload: bytes, lies: float) -> bytes:
        lie = int(self.rng.choice([1, -1, -2, 7, 300])) if self.rng.random() < lies else 0
        return (
            b"\xff" * self.pick(1, 1, 3)
            + bytes((marker,))
            + struct.pack(">H", len(payload) + 2 + lie)
            + payload
        )

    def file(self) -> bytes:
        kinds = (self.jfif, self.adobe, self.exif, self.exif, self.tables, self.interval, self.other)
        drawn = [kind() for kind in kinds if self.rng.random() < 0.3]
        drawn += [self.frame() for _ in range(self.pick(1, 1, 1, 1, 0, 2))]
        self.rng.shuffle(drawn)
        scan = 0xDA, self.pick(b"\3rest", b"\1rest", b"\2", b"\4", b"", b"JFIF\0", b"\3\xff")
        data = b"\xff\xd8" + b"".join(
            self.piece(int(kind), payload, 0.03) for kind, payload in [*drawn, scan]
        )
        data += self.pick(b"data\xff\xd9", b"\xff\xd9", b"d\xff\xd9\xff\xd9tail", b"\xd9", b"d\xff", b"")
        return data if self.rng.random() < 0.8 else data[: self.rng.integers(len(data))]


def forged(seed: int, count: int) -> list[bytes]:
    forger = Forger(seed)
    return [forger.file() for _ in range(count)]


def test_files_drawn_segment_by_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFCV_GPU_MAX_PIXELS", str(2**32))  # the limit is above the kernel
    rows = check_agreement(forged(0, 20_000))
    good = rows[rows[:, WRONG_AT] == -1]
    assert 0.2 < len(good) / len(rows) < 0.8
    # every value that a column can have came up
    assert set(good[:, jpeg_scan.SUBSAMPLING]) == {-1, 0, 1, 2, 3, 4, 5, 6}
    assert set(good[:, jpeg_scan.EXIF_ORIENTATION]) == set(range(9))
    assert np.bitwise_or.reduce(good[:, jpeg_scan.FLAGS]) == 31


# ---- where it reads and writes


def test_only_the_rows_asked_for_are_written(variants: dict[str, bytes]) -> None:
    memory = list(variants.values())
    rows = np.full((len(memory), COLUMNS), 77, np.int64)
    jpeg_scan.scan(*lay_out(memory), rows, 3, 9)
    assert (rows[:3] == 77).all()
    assert (rows[9:] == 77).all()
    np.testing.assert_array_equal(rows[3:9], scan(memory)[3:9])


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 4), (0, 101), (100, 1), (0, -1), (2**62, 2**62), (101, 0), (2**63 - 1, 1)]
)
def test_an_image_outside_the_memory_is_refused(offset: int, length: int) -> None:
    rows = np.zeros((2, COLUMNS), np.int64)
    stored = np.frombuffer(bytes(100), np.uint8)
    with pytest.raises(ValueError, match="outside the memory"):
        jpeg_scan.scan(stored, np.array([0, offset]), np.array([100, length]), rows, 0, 2)
    assert rows[0, WRONG_AT] == 0


@pytest.mark.parametrize(("rows", "lo", "hi"), [((2, COLUMNS), -1, 2), ((1, COLUMNS), 0, 2), ((2, 4), 0, 2)])
def test_arrays_that_do_not_fit_are_refused(rows: tuple[int, int], lo: int, hi: int) -> None:
    two = np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="do not fit"):
        jpeg_scan.scan(np.frombuffer(b"ab", np.uint8), two, two, np.zeros(rows, np.int64), lo, hi)


def test_threads_share_a_table(variants: dict[str, bytes]) -> None:
    memory = list(variants.values()) * 20
    rows = np.zeros((len(memory), COLUMNS), np.int64)
    arguments = lay_out(memory)
    with ThreadPoolExecutor(4) as pool:
        for lo in range(0, len(memory), 16):
            pool.submit(jpeg_scan.scan, *arguments, rows, lo, min(lo + 16, len(memory)))
    np.testing.assert_array_equal(rows, scan(memory))


def bounds_checked(folder: str) -> None:
    """Scan, in this process, what lies in `folder`; every index is checked against the image's bytes."""
    memory = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    damaged = forged(1, 10_000)
    damaged += [data[:cut] for data in [*memory, *damaged[:100]] for cut in range(min(len(data), 800))]
    damaged += [b"\xff\xd8" + b"\xff" * 9, b"\xff\xd8\xff", b"\xff\xd8\xff\xc0\0\x03\x08"]
    rows = scan(memory + damaged)
    print(len(damaged), int((rows[: len(memory), WRONG_AT] == -1).sum()))


PROGRAM = """
import importlib.util, sys
import numpy as np
from ffcv_gpu.kernels import _numba
from numba import njit

@_numba.loop
def beyond(array):
    return array[array.size]

try:
    beyond(np.zeros(3, np.uint8)[:2])
except IndexError:
    print("checked")
spec = importlib.util.spec_from_file_location("mine", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.bounds_checked(sys.argv[2])
"""


@pytest.mark.long  # compiles everything anew, with checks of bounds
def test_nothing_outside_an_image_is_read(variants: dict[str, bytes], tmp_path: Path) -> None:
    chosen = ("420", "exif 6", "rgb", "cmyk", "progressive restart")
    (tmp_path / "files").mkdir()
    for name in chosen:
        (tmp_path / "files" / name).write_bytes(variants[name])
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, __file__, str(tmp_path / "files")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    checked, damaged, good = done.stdout.split()
    assert checked == "checked"
    assert int(damaged) > 10_000
    assert int(good) == len(chosen)
