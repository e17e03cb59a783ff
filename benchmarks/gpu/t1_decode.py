"""T1: JPEG bytes to pixels on the GPU, by ``decode_jpegs`` and by bare nvJPEG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.gpu.bench import Bench, Row, best, collected, fact, timed
from benchmarks.gpu.decoders import INTERPOLATE, Handle, Refusal
from benchmarks.gpu.peers import PIXELS
from benchmarks.gpu.pictures import Pictures
from benchmarks.gpu.speed import alike_lanes, by_batches, lanes_of, totals

__all__ = ["bare", "public_call", "run"]

STATES = 2


def run(bench: Bench) -> Iterator[Row]:
    """Decode the same batches with each, and yield the ratio to the fastest of nvJPEG's decoders."""
    pictures = bench.rotation(bench.scale.batch)
    theirs: list[Row] = []
    ours: list[Row] = []
    yield from collected(bare(bench, pictures), theirs)
    yield from collected(public_call(bench, pictures), ours)
    if theirs and ours:
        yield fact("decode_jpegs / bare nvJPEG", ratio=round(best(ours) / best(theirs), 3))


def bare(bench: Bench, pictures: Sequence[Pictures]) -> Iterator[Row]:
    """Measure this GPU's bare decoders."""
    for backend in ("hardware", "gpu_hybrid"):
        try:
            handle = Handle(bench.gpu.library(), backend, INTERPOLATE)
            lanes = lanes_of(bench, handle, pictures, count=STATES)
        except Refusal as refusal:
            yield fact(f"{backend} is not available", words=str(refusal))
            continue
        yield from by_batches(bench, f"bare nvJPEG, {backend}, {STATES} states", lanes, kind=PIXELS)
        if backend == "hardware":
            case = f"bare nvJPEG, {backend}, a state a subsampling"
            yield from by_batches(bench, case, alike_lanes(bench, handle, pictures), kind=PIXELS)


def public_call(bench: Bench, pictures: Sequence[Pictures]) -> Iterator[Row]:
    """Measure ``decode_jpegs`` with the same batches."""
    from ffcv_gpu import decode_jpegs

    lists = [list(p.files) for p in pictures]

    def turn() -> dict[str, float]:
        for files in lists:
            decode_jpegs(files, device=bench.gpu.name)
        bench.gpu.synchronize()
        return totals(pictures)

    yield from timed(bench, "decode_jpegs", turn, kind=PIXELS)
