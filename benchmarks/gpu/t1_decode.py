"""T1: JPEG bytes to pixels on the GPU, by the public call, beside bare nvJPEG and beside torchvision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.bench import Bench, fact
from benchmarks.gpu.decoders import Handle, Refusal
from benchmarks.gpu.speed import INTERPOLATE, by_batches, lanes_of, measured, totals

__all__ = ["bare", "run"]

Row = dict[str, Any]
STATES = 2


def run(bench: Bench) -> Iterator[Row]:
    """The same batches through each, and the ratios."""
    from ffcv_gpu import decode_jpegs

    found: dict[str, float] = {}
    pictures = bench.rotation(bench.scale.batch)
    lists = [list(p.files) for p in pictures]

    def ours() -> dict[str, float]:
        for files in lists:
            decode_jpegs(files, device=bench.gpu.name)
        bench.gpu.synchronize()
        return totals(pictures)

    contenders = [
        ("bare nvJPEG", bare(bench, pictures)),
        ("decode_jpegs", measured(bench, "decode_jpegs", ours)),
    ]
    theirs = bench.gpu.torchvision_decode()
    if theirs is None:
        yield fact("torchvision's decode_jpeg is not to be had")
    else:
        contenders.append(
            ("torchvision", measured(bench, "torchvision decode_jpeg", _peer(bench, theirs, lists, pictures)))
        )
    for name, rows in contenders:
        for row in rows:
            if row["row"] == "result":
                found[name] = max(found.get(name, 0.0), row["images_per_second"])
            yield row
    for name in ("bare nvJPEG", "torchvision"):
        if name in found and "decode_jpegs" in found:
            yield fact(f"decode_jpegs / {name}", ratio=round(found["decode_jpegs"] / found[name], 3))


def bare(bench: Bench, pictures: Sequence[Any]) -> Iterator[Row]:
    """Measure what this GPU's best decoder does with nothing around it."""
    for backend in ("hardware", "gpu_hybrid"):
        try:
            handle = Handle(bench.gpu.library(), backend, INTERPOLATE)
            lanes = lanes_of(bench, handle, pictures, count=STATES)
        except Refusal as refusal:
            yield fact(f"{backend} is not to be had", words=str(refusal))
            continue
        yield from by_batches(bench, f"bare nvJPEG, {backend}, {STATES} states", lanes)


def _peer(bench: Bench, decode: Callable[[list[Any]], Any], lists: Sequence[Sequence[bytes]],
          pictures: Sequence[Any]) -> Callable[[], dict[str, float]]:  # fmt: skip
    arrays = [[np.frombuffer(file, np.uint8).copy() for file in files] for files in lists]

    def turn() -> dict[str, float]:
        for files in arrays:
            decode(files)
        bench.gpu.synchronize()
        return totals(pictures)

    return turn
