"""E5: JPEG decoding on the SMs, as on GPUs without engines: by batch size, format, states; one by one."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.decoders import INTERPOLATE, Handle
from benchmarks.gpu.speed import by_batches, by_singles, lanes_of

__all__ = ["run"]

LARGE = (1224, 1632)


def run(bench: Bench) -> Iterator[Row]:
    """Measure; the CPU time per image should fall for batches of more than 50."""
    library, files = bench.gpu.library(), bench.photos()
    handle = Handle(library, "gpu_hybrid", INTERPOLATE)
    for size in bench.scale.gpu_batches:
        pictures = bench.rotation(size, files=files)
        yield from by_batches(bench, f"natural, batch {size}", lanes_of(bench, handle, pictures), batch=size)
    size = bench.scale.gpu_batches[0]
    pictures = bench.rotation(size, files=files)
    for states in (2, 3):
        lanes = lanes_of(bench, handle, pictures, count=states)
        yield from by_batches(bench, f"{states} states, one thread, batch {size}", lanes)
    lanes = lanes_of(bench, handle, pictures, count=2)
    yield from by_batches(bench, f"two threads, batch {size}", lanes, threads=True)
    yield from by_batches(bench, f"yuv, batch {size}", lanes_of(bench, handle, pictures, "yuv"))
    plain = Handle(library, "gpu_hybrid")
    yield from by_batches(bench, f"no interpolation, batch {size}", lanes_of(bench, plain, pictures))
    yield from _one_by_one(bench, handle)


def _one_by_one(bench: Bench, handle: Handle) -> Iterator[Row]:
    """Decode small and large photographs with both decoupled decoders: when is GPU Huffman faster?"""
    count = bench.scale.images
    high, wide = LARGE if not bench.scale.side else (96, 128)
    sets = {
        "natural": bench.rotation(count, sets=2),
        f"{wide} x {high}": bench.rotation(count, files=bench.made(high, wide, count), sets=2),
    }
    for name, pictures in sets.items():
        for decoder in ("gpu_hybrid", "hybrid"):
            for states in [n for n in (1, 4, 8) if n <= bench.scale.threads[-1]]:
                case = f"{name}, one by one, {decoder}, {states} threads"
                yield from by_singles(bench, case, handle, decoder, pictures, states=states, threads=True)
