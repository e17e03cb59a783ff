"""E15: what slows the engines down in a batch of different images: subsampling, size, order, interpolation?

E3's first run on an H200 gave 5,500 images/s for a natural batch with interpolated chroma, 18,800 without,
and 37,000 to 57,000 for batches of one small size: differences between images have a cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.bench import Bench, Row, fact, unless_refused
from benchmarks.gpu.decoders import INTERPOLATE, Handle, Refusal
from benchmarks.gpu.pictures import Pictures, size_of
from benchmarks.gpu.speed import Lane, alike_lanes, by_batches, lanes_of

__all__ = ["run"]

#: by nvjpegChromaSubsampling_t
NAMES = {0: "444", 2: "420"}
#: number of functions shown, those with the most time
SHOWN = 12


def run(bench: Bench) -> Iterator[Row]:
    """Profile calls, then measure sets of one subsampling, then mixtures in several orders."""
    library = bench.gpu.library()
    try:
        handles = {
            "interpolated": Handle(library, "hardware", INTERPOLATE),
            "plain": Handle(library, "hardware"),
        }
    except Refusal as refusal:
        yield fact("no engine", words=str(refusal))
        return
    size, files = bench.scale.batch, bench.photos()
    natural = bench.rotation(size, files=files)
    if bench.part == "states":
        yield from _states(bench, handles["interpolated"], natural, files)
        return
    yield from unless_refused(bench, "profiles", _profiles(bench, handles, natural))
    by_kind = {name: [f for f in files if size_of(f).subsampling == kind] for kind, name in NAMES.items()}
    sets = {name: bench.rotation(size, files=found) for name, found in by_kind.items() if found}
    for name, pictures in sets.items():
        for how, handle in handles.items():
            yield from by_batches(bench, f"{name}, {how}", lanes_of(bench, handle, pictures))
            yield from by_batches(
                bench, f"{name}, {how}, sorted", lanes_of(bench, handle, pictures, in_order=True)
            )
        yield from by_batches(bench, f"{name}, yuv", lanes_of(bench, handles["plain"], pictures, "yuv"))
    grouped = [_grouped(bench, pictures) for pictures in natural]
    for how, handle in handles.items():
        yield from by_batches(bench, f"mixed, {how}", lanes_of(bench, handle, natural))
        yield from by_batches(bench, f"mixed, {how}, grouped", lanes_of(bench, handle, grouped))
        yield from by_batches(bench, f"mixed, {how}, sorted", lanes_of(bench, handle, natural, in_order=True))
        reserve = _largest(natural)
        lanes = lanes_of(bench, handle, natural, reserve=reserve, in_order=True)
        yield from by_batches(bench, f"mixed, {how}, sorted, reserved", lanes)
    yield from by_batches(
        bench, "mixed, yuv, sorted", lanes_of(bench, handles["plain"], natural, "yuv", in_order=True)
    )
    yield from _one_size(bench, handles)


def _states(bench: Bench, engine: Handle, natural: list[Pictures], files: list[bytes]) -> Iterator[Row]:
    """Split batches by subsampling, one state each; and measure re-initialising a state for every call."""
    case = "mixed, interpolated, a state a subsampling"
    yield from by_batches(bench, case, alike_lanes(bench, engine, natural))
    lanes = alike_lanes(bench, engine, natural)
    yield from by_batches(bench, f"{case}, each in a thread", lanes, threads=True)
    pairs = [*alike_lanes(bench, engine, natural[::2]), *alike_lanes(bench, engine, natural[1::2])]
    yield from by_batches(bench, f"{case}, two slots", pairs)
    alike = [file for file in files if size_of(file).subsampling == 0]
    pictures = bench.rotation(bench.scale.batch, files=alike)
    for again in (False, True):
        lanes = lanes_of(bench, engine, pictures, in_order=True, initialize=again)
        words = ", initialised each time" if again else ""
        yield from by_batches(bench, f"444, interpolated, sorted{words}", lanes)


def _grouped(bench: Bench, pictures: Pictures) -> Pictures:
    """Return the same images sorted by subsampling, not by size."""
    order = np.argsort([size.subsampling for size in pictures.sizes], kind="stable")
    return Pictures.of(bench.gpu, [pictures.files[i] for i in order])


def _largest(pictures: Sequence[Pictures]) -> tuple[int, int]:
    sizes = [size for each in pictures for size in each.sizes]
    return max(size.width for size in sizes), max(size.height for size in sizes)


def _one_size(bench: Bench, handles: dict[str, Handle]) -> Iterator[Row]:
    """Measure images of one size, with one subsampling, and with two in alternation."""
    count = bench.scale.batch
    height, width = bench.scale.sides[0][:2] if bench.gpu.rehearsal else (375, 500)
    made = {name: bench.made(height, width, count, name, 94) for name in NAMES.values()}
    made["in turn"] = [file for pair in zip(*made.values(), strict=True) for file in pair]
    for name, files in made.items():
        batch = [files[i % len(files)] for i in range(count)]
        pictures = [Pictures.of(bench.gpu, batch) for _ in range(2)]
        for how, handle in handles.items():
            case = f"{width} x {height}, {name}, {how}"
            yield from by_batches(bench, case, lanes_of(bench, handle, pictures))
        yield from by_batches(
            bench, f"{width} x {height}, {name}, yuv", lanes_of(bench, handles["plain"], pictures, "yuv")
        )


def _profiles(bench: Bench, handles: dict[str, Handle], pictures: list[Pictures]) -> Iterator[Row]:
    """Count nvJPEG's calls of the CUDA runtime and their time, in a batch after warm-up."""
    cases: tuple[tuple[str, Handle, dict[str, Any]], ...] = (
        ("mixed, interpolated", handles["interpolated"], {}),
        ("mixed, interpolated, sorted", handles["interpolated"], {"in_order": True}),
        ("mixed, plain", handles["plain"], {}),
        ("mixed, yuv", handles["plain"], {"output": "yuv"}),
    )
    for name, handle, settings in cases:
        lane = lanes_of(bench, handle, pictures, **settings)[0]
        for _ in range(2):
            lane.all()
        found = bench.gpu.activities(lambda lane=lane: _once(lane))
        for what, rows in found.items():
            most = sorted(rows.items(), key=lambda row: -row[1][1])[:SHOWN]
            yield fact(f"{what} in a batch of {pictures[0].count}: {name}", **{k: list(v) for k, v in most})
        lane.batch.give_up()


def _once(lane: Lane) -> None:
    lane.start(lane.jobs[0])
    lane.wait()
