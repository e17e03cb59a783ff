"""The kernels' benchmark on a tiny run: what it compares is the same picture, and every row has its turns."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks import bench_kernels_cpu as bench


def test_every_case_compares_with_opencv(tmp_path: Path) -> None:
    options = {"data": None, "work": tmp_path, "images": 12, "side": 224, "longest": 500, "rounds": 2}
    record = bench.BENCH.run(argparse.Namespace(**options))
    assert len(record.rows) % 6 == 0
    for row in record.rows:
        assert len(row.repeats) == 2
        assert row.values["CPU per image"]["min"] > 0
        assert row.reference == ("" if row.name.startswith("cv2") else "cv2.resize, flip")
    assert sum(row.repeats[0]["images"] for row in record.rows if row.name.startswith("cv2")) == 12


def test_cases_part_the_images() -> None:
    boxes = np.array([[0, 0, 300, 224], [0, 0, 100, 100], [0, 0, 300, 100], [0, 0, 100, 300]], np.int32)
    found = {name: chosen.tolist() for name, chosen in bench.cases(boxes, 224)}
    assert found == {
        "both axes shrink": [True, False, False, False],
        "both axes grow": [False, True, False, False],
        "one of each": [False, False, True, True],
    }
