"""Grids: cases are data, and selections are found or refused."""

from __future__ import annotations

import argparse
import os

import pytest

from benchmarks import bench_loader, grids
from benchmarks.bench_growth import axes
from benchmarks.forecast import minutes


def asked(**changes):
    options = {"grid": "full", "case": None, "cores": None, "files": list(bench_loader.FILES)}
    return bench_loader.cells(argparse.Namespace(**{**options, **changes}))


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (64, [1, 2, 4, 8, 16, 32, 64])]
)
def test_cores_double_up_to_all(most, expected):
    assert grids.cores_up_to(most) == expected


def test_the_full_grid_has_all_fractions_cores_and_both_caches():
    cells, cores = asked(), grids.cores_up_to()
    fractions = {(bench_loader.FILES[c.file].percent, c.cores) for c in cells if c.block.name == "fractions"}
    assert fractions == {(percent, n) for percent in (0, 25, 50, 75, 100) for n in cores}
    assert {cell.cache for cell in cells} == {"warm", "cold"}
    assert len({cell.name for cell in cells}) == len(cells)


def test_quick_is_a_part_of_full():
    quick = {cell.name for cell in asked(grid="quick")}
    assert quick < {cell.name for cell in asked()}
    most = grids.cores_up_to()[-1]
    assert quick == {f"{name}, {most} core{'s' * (most > 1)}" for name in ("JPEG 500 px q90", "raw 256 px")}


def test_a_case_is_asked_for_by_its_name_or_its_blocks():
    name = "50 % JPEG, 500 px, 1 core"
    assert [cell.name for cell in asked(grid="quick", case=[name])] in ([name], [name] * 2)
    assert {cell.block.name for cell in asked(grid="quick", case=["cold"])} == {"cold"}


def test_an_unknown_case_is_refused_with_those_that_exist():
    with pytest.raises(
        ValueError, match=r"'warm' is not known; there are headline, crop-index, fractions, cold, JPEG 500"
    ):
        asked(case=["warm"])


def test_every_row_that_the_grid_names_exists():
    for cell in asked():
        names = [c.name for c in bench_loader.contenders_of(cell, None, "not here")]
        assert bench_loader.REFERENCE in names
        assert set(cell.block.rows) <= set(names)


def test_axes_have_their_reference_among_their_points():
    for axis in axes():
        assert axis.reference in axis.points
        assert axis.rounds > 0


def test_minutes_are_for_people():
    assert [minutes(s) for s in (0.4, 59, 60, 485)] == ["0 s", "59 s", "1 min 00 s", "8 min 05 s"]


def test_cores_up_to_all_of_this_process():
    assert grids.cores_up_to()[-1] == len(os.sched_getaffinity(0))
