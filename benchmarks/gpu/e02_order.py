"""E2: does a decoder wait for earlier work on its stream, and does later work wait for it?

A stream is kept busy, then fills the destination, then a batch is decoded into it without a host wait in
between. If the fill ends last, the decoder has overtaken its stream, without any error.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu.bench import Bench, Row, check, fact
from benchmarks.gpu.decoders import Batch, Handle, Job, Refusal
from benchmarks.gpu.pictures import FORMATS, Arena

__all__ = ["run"]

BUSY_MILLISECONDS, FILLED = 5.0, 0xAA
IMAGES = {"hardware": 16, "gpu_hybrid": 64}


def run(bench: Bench) -> Iterator[Row]:
    """Test the engines and the SMs."""
    for backend in IMAGES:
        try:
            yield from _ask(bench, backend)
        except Refusal as refusal:
            yield fact(f"{backend} is not available", words=str(refusal))


def _ask(bench: Bench, backend: str) -> Iterator[Row]:
    gpu, output = bench.gpu, FORMATS["rgbi"]
    size = min(IMAGES[backend], bench.scale.images)
    pictures = bench.rotation(size, sets=1)[0]
    batch = Batch(Handle(gpu.library(), backend), size, output)
    arena, right = (Arena(gpu, pictures.sizes, output) for _ in "ab")
    copied = gpu.memory(arena.memory.size)
    stream, other = gpu.stream(), gpu.stream()
    job = Job.of(pictures, arena)

    for target, into in ((right, Job.of(pictures, right)), (arena, job)):  # the first also warms up
        target.blank(gpu, FILLED)
        status = batch.decode(into, gpu.handle(stream))
        bench.wait(stream)
        yield check(f"{backend}: a batch can be decoded", status == 0, status=status)
    same = gpu.equal(arena.memory, right.memory)
    yield check(f"{backend}: the same batch gives the same pixels", same)
    if not same:
        return

    def before() -> bool:
        gpu.spin(BUSY_MILLISECONDS, stream)
        gpu.fill(arena.memory, FILLED, stream)
        batch.decode(job, gpu.handle(stream))
        gpu.synchronize()
        return gpu.equal(arena.memory, right.memory)

    def after() -> bool:
        arena.blank(gpu, FILLED)
        batch.decode(job, gpu.handle(stream))
        gpu.copy(arena.memory, copied, stream)
        gpu.synchronize()
        return gpu.equal(copied, right.memory)

    def elsewhere() -> bool:
        arena.blank(gpu, FILLED)
        batch.decode(job, gpu.handle(stream))
        event = gpu.event()
        gpu.record(event, stream)
        gpu.wait(other, event)
        gpu.copy(arena.memory, copied, other)
        gpu.synchronize()
        return gpu.equal(copied, right.memory)

    questions = (
        ("waits for earlier work of its stream before it writes", before, False),
        ("is done when later work of its stream begins", after, True),
        ("is done when an event behind it is reached, for another stream", elsewhere, True),
    )
    for words, attempt, must in questions:
        good = sum(attempt() for _ in range(bench.scale.repeats))
        yield check(f"{backend} {words}", good == bench.scale.repeats, must=must, right=good,
                    of=bench.scale.repeats)  # fmt: skip
