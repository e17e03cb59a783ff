"""E12: the smallest and largest image of each decoder, one by one and mixed in a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.bench import Bench, Row, check, fact
from benchmarks.gpu.decoders import INTERPOLATE, Batch, Handle, Job, Refusal, Single, status_name
from benchmarks.gpu.e01_kinds import batched, decoded, one_by_one
from benchmarks.gpu.pictures import FORMATS, Arena, Pictures, difference, reference
from benchmarks.gpu.variants import encode, stretched

__all__ = ["run"]

#: mean difference, of 255, up to which two decodes are the same image
NEAR = 1.0


def run(bench: Bench) -> Iterator[Row]:
    """Try all sizes on the engines, on the SMs one by one (a batch of the largest would not fit), mixed."""
    image = bench.images(1)[0]
    files = {size: encode(stretched(image, *size)) for size in bench.scale.odd_sizes}
    library, output = bench.gpu.library(), FORMATS["rgbi"]
    wanted = {size: reference(data, output, interpolate=True) for size, data in files.items()}
    ways = {
        "hardware": lambda: batched(bench, Batch(Handle(library, "hardware", INTERPOLATE), 1, output)),
        "gpu_hybrid, one by one": lambda: one_by_one(
            bench, Single(bench.gpu, Handle(library, "gpu_hybrid", INTERPOLATE), "gpu_hybrid", output)
        ),
        "gpu_hybrid, a batch of one": lambda: batched(
            bench, Batch(Handle(library, "gpu_hybrid", INTERPOLATE), 1, output)
        ),
    }
    takes: dict[str, list[tuple[int, int]]] = {}
    for name, make in ways.items():
        try:
            decode = make()
        except Refusal as refusal:
            yield fact(f"{name} is not available", words=str(refusal))
            continue
        takes[name] = []
        for (height, width), data in files.items():
            status, planes, spilled = decoded(bench, decode, data, "rgbi")
            expected = wanted[height, width]
            apart = difference(planes, expected) if status == 0 and expected is not None else {}
            if status == 0 and apart.get("mean", 0) <= NEAR:
                takes[name].append((height, width))
            what = f"{name}: {width} x {height}"
            yield fact(what, status=status_name(status), **apart)
            yield check(f"{what}: inside its destination", spilled == 0, bytes=spilled)
            yield check(f"{what}: right if the call succeeds", apart.get("mean", 0) <= NEAR, must=False)
    yield from _mixed(bench, files, wanted, takes)


def _mixed(bench: Bench, files: dict[tuple[int, int], bytes], wanted: dict[tuple[int, int], Any],
           takes: dict[str, list[tuple[int, int]]]) -> Iterator[Row]:  # fmt: skip
    """Decode, in one batch, the images that the decoder accepted one by one."""
    gpu, output = bench.gpu, FORMATS["rgbi"]
    for name, backend in (("hardware", "hardware"), ("gpu_hybrid, a batch of one", "gpu_hybrid")):
        sizes = [size for size in takes.get(name, []) if size[0] * size[1] < 4_000_000]
        if not sizes:
            continue
        least = 64 if backend == "gpu_hybrid" else 0
        sizes *= -(-least // len(sizes)) or 1
        pictures = Pictures.of(gpu, [files[size] for size in sizes])
        arena = Arena(gpu, pictures.sizes, output)
        arena.blank(gpu)
        stream, batch = gpu.stream(), Batch(Handle(gpu.library(), backend, INTERPOLATE), len(sizes), output)
        status = batch.decode(Job.of(pictures, arena), gpu.handle(stream))
        bench.wait(stream)
        memory = gpu.download(arena.memory)
        wrong = sorted({
            f"{width} x {height}" for i, (height, width) in enumerate(sizes)
            if difference(arena.image(memory, i), wanted[height, width])["mean"] > NEAR
        })  # fmt: skip
        yield check(f"{backend}: all these sizes in one batch", status == 0 and not wrong, must=False,
                    status=status_name(status), images=len(sizes), wrong=wrong)  # fmt: skip
