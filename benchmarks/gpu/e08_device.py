"""E8: compressed bytes copied to the GPU in one piece: does that save CPU time?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks.gpu.bench import Bench, Row, check, collected, fact, timed
from benchmarks.gpu.decoders import Batch, Handle, Job, Refusal
from benchmarks.gpu.device import Memory
from benchmarks.gpu.pictures import FORMATS, Arena, Pictures
from benchmarks.gpu.speed import Lane, by_batches, lanes_of, totals

__all__ = ["run"]

PAIRS = (("hardware", "hardware_device"), ("gpu_hybrid", "gpu_hybrid_device"))


def run(bench: Bench) -> Iterator[Row]:
    """Measure each backend that reads host memory, then its variant that reads GPU memory."""
    size = max(bench.scale.batch, 64)
    pictures = bench.rotation(size)
    for usual, device in PAIRS:
        try:
            # Without interpolation, mixed subsampling costs the engines nothing (E15).
            handle = Handle(bench.gpu.library(), usual)
            twin = Handle(bench.gpu.library(), device)
            lanes = lanes_of(bench, handle, pictures)
            yield from by_batches(bench, f"{usual}, bytes on the host", lanes, keep=True)
            yield from _from_device(bench, twin, device, pictures, lanes[0])
            lanes[0].batch.give_up()
        except Refusal as refusal:
            yield fact(f"{device} is not available", words=str(refusal))


def _from_device(
    bench: Bench, handle: Handle, name: str, pictures: Sequence[Pictures], host: Lane
) -> Iterator[Row]:
    gpu, form = bench.gpu, FORMATS["rgbi"]
    stream, batch = gpu.stream(), Batch(handle, pictures[0].count, form)
    blobs: list[Memory] = [gpu.memory(p.blob.size) for p in pictures]
    jobs = []
    for p, blob in zip(pictures, blobs, strict=True):
        there = replace(p, addresses=p.addresses - int(p.blob.ctypes.data) + blob.address)
        jobs.append(Job.of(there, Arena(gpu, p.sizes, form)))
    batch.initialize()
    yield fact(f"{name}: tables given", status=batch.tables(pictures[0].data(0)))

    def turn() -> dict[str, float]:
        for p, blob, job in zip(pictures, blobs, jobs, strict=True):
            gpu.upload(p.blob, blob, stream)
            # The engine does not wait for its stream: the bytes must be there.
            bench.wait(stream)
            if status := batch.decode(job, gpu.handle(stream)):
                raise Refusal("nvjpegDecodeBatched", status)
            bench.wait(stream)
        return totals(pictures)

    done: list[Row] = []
    yield from collected(timed(bench, f"{name}, bytes on the GPU", turn), done)
    if done:
        host.all()  # kept cases of an earlier run have decoded nothing in this one
        turn()
        same = _same(bench, jobs[0].arena, host.jobs[0].arena)
        yield check(f"{name}: the same pixels", same, must=False)


def _same(bench: Bench, one: Arena, other: Arena) -> bool:
    """Compare the images, without the memory between them."""
    a, b = bench.gpu.download(one.memory), bench.gpu.download(other.memory)
    return all(
        (x == y).all()
        for i in range(len(one.sizes))
        for x, y in zip(one.image(a, i), other.image(b, i), strict=True)
    )
