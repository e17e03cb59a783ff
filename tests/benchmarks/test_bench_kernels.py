"""``kernels`` on a tiny run: its contenders make the same picture, and every row has its turns."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_kernels as bench
from benchmarks.photos import find_photos

OPENCV = [kind for kind in bench.KINDS if kind.by == "opencv"]


@pytest.mark.long
def test_every_row_has_its_turns_its_peer_and_its_bound(tmp_path: Path) -> None:
    options = {"data": None, "work": tmp_path, "images": 12, "side": 224, "longest": 500, "rounds": 2}
    record = bench.BENCH.run(argparse.Namespace(**options))
    assert len(record.rows) % (len(bench.KINDS) + len(bench.DTYPES)) == 0
    for row in record.rows:
        assert len(row.repeats) == 2
        assert row.values["CPU per image"]["min"] > 0
        output, _, _ = row.name.partition(":")
        has_peer = row.settings["by"] == "kernel" and "float16" not in output
        assert row.reference.startswith(f"{output}: cv2" if has_peer else "")
        assert bool(row.reference) == has_peer
        share = row.values["of the copy bound"]
        assert share["min"] > 0
        if row.settings["by"] == "copy":
            assert share == {"median": 100, "min": 100, "max": 100, "spread": 0}
    copies = [row for row in record.rows if row.name.startswith("uint8: a copy")]
    assert sum(row.repeats[0]["images"] for row in copies) == 12


@pytest.mark.parametrize("kind", OPENCV, ids=lambda kind: kind.output)
def test_opencv_makes_the_same_picture(tmp_path: Path, kind: bench.Kind) -> None:
    images = [bench.read(path, 500) for path in find_photos(None, tmp_path).paths[:6]]
    boxes = bench.crops(images)
    (own,) = [k for k in bench.KINDS if k.output == kind.output and k.name == "kernel"]
    work = bench.contenders(images, boxes, 96)
    # One grey level, in what the channels are divided by.
    level = 1 if kind.dtype == "uint8" else 1 / bench.STD.min()
    for n in range(len(images)):
        theirs, ours = work[kind](n).astype(np.float64), work[own](n).astype(np.float64)
        assert theirs.std() > 0.1
        np.testing.assert_allclose(ours, theirs, atol=level * 1.001)


def test_the_bound_moves_as_many_bytes_as_the_kernel() -> None:
    boxes = np.array([[3, 4, 100, 50], [0, 0, 7, 9]], np.int32)
    moved = bench.moved_bytes(boxes, 32, "float16")
    assert moved.tolist() == [100 * 50 * 3 + 32 * 32 * 3 * 2, 7 * 9 * 3 + 32 * 32 * 3 * 2]


def test_a_photograph_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no JPEG")
    with pytest.raises(ValueError, match=r"a\.jpg cannot be decoded"):
        bench.read(tmp_path / "a.jpg", 500)


def test_cases_part_the_images() -> None:
    boxes = np.array([[0, 0, 300, 224], [0, 0, 100, 100], [0, 0, 300, 100], [0, 0, 100, 300]], np.int32)
    found = {name: chosen.tolist() for name, chosen in bench.cases(boxes, 224)}
    assert found == {
        "both axes shrink": [True, False, False, False],
        "both axes grow": [False, True, False, False],
        "one of each": [False, False, True, True],
    }
