"""E9: a batch with one bad image: the status, the other images, and whether the state stays usable."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu.bench import Bench, Row, check, fact, still_works
from benchmarks.gpu.decoders import INTERPOLATE, Batch, Handle, Job, Refusal, status_name
from benchmarks.gpu.pictures import FORMATS, Arena, Pictures, difference, reference, size_of
from benchmarks.gpu.variants import damaged, encode

__all__ = ["run"]

#: mean difference, of 255, up to which two decodes are the same image
NEAR = 1.0


def run(bench: Bench) -> Iterator[Row]:
    """Put the part's kind of bad image first, in the middle and last."""
    for backend, size in (("hardware", bench.scale.images), ("gpu_hybrid", max(64, bench.scale.images))):
        images = bench.images(min(size, 16))
        good = [encode(images[i % len(images)]) for i in range(size)]
        try:
            batch = Batch(Handle(bench.gpu.library(), backend, INTERPOLATE), size, FORMATS["rgbi"])
        except Refusal as refusal:
            yield fact(f"{backend} is not available", words=str(refusal))
            continue
        for place in (0, size // 2 - 1, size - 1):
            bad = damaged(good[place], images[place % len(images)], bench.part)
            yield from _one_place(bench, backend, batch, good, bad, place)
    yield from _without_initialize(bench)


def _one_place(bench: Bench, backend: str, batch: Batch, good: list[bytes], bad: bytes,
               place: int) -> Iterator[Row]:  # fmt: skip
    files = [*good[:place], bad, *good[place + 1 :]]
    status, right, untouched = _decode(bench, batch, files, good, place)
    fine = len(files) - 1
    what = f"{backend}: {bench.part} at {place}"
    yield fact(what, status=status_name(status), others_right=right, of=fine, untouched=untouched)
    yield still_works(bench.gpu, what)
    if status == 0:
        skipped = [i for i in untouched if i != place]
        yield check(f"{what}: a call that succeeds has decoded the others", right == fine and not skipped)
    status, right, _ = _decode(bench, batch, good, good, -1)  # re-initialised if it had failed
    yield check(f"{what}: the state works after it", status == 0 and right == len(good),
                status=status_name(status), right=right)  # fmt: skip


def _decode(
    bench: Bench, batch: Batch, files: list[bytes], good: list[bytes], bad: int
) -> tuple[int, int, list[int]]:
    """Decode; return the status, the number of correct good images, and the indices of untouched ones."""
    gpu, output = bench.gpu, FORMATS["rgbi"]
    pictures = Pictures.of(gpu, files)
    arena = Arena(gpu, [size_of(file, size_of(good[i])) for i, file in enumerate(files)], output)
    arena.blank(gpu)
    stream = gpu.stream()
    status = batch.decode(Job.of(pictures, arena), gpu.handle(stream))
    bench.wait(stream)
    memory = gpu.download(arena.memory)
    right = 0
    for i, file in enumerate(files):
        wanted = reference(file, output, interpolate=True) if i != bad else None
        right += wanted is not None and difference(arena.image(memory, i), wanted)["mean"] <= NEAR
    return status, right, [i for i in range(len(files)) if arena.untouched(memory, i)]


def _without_initialize(bench: Bench) -> Iterator[Row]:
    """Test whether a failed state works without re-initialisation; last, because it may crash."""
    if bench.gpu.rehearsal:
        bench.gpu.forgive("a batch without nvjpegDecodeBatchedInitialize")  # type: ignore[attr-defined]
    images = bench.images(4)
    good = [encode(image) for image in images]
    bad = [damaged(good[0], images[0], bench.part), *good[1:]]
    for backend in ("hardware", "gpu_hybrid"):
        try:
            batch = Batch(Handle(bench.gpu.library(), backend, INTERPOLATE), len(good), FORMATS["rgbi"])
        except Refusal:
            continue
        if _decode(bench, batch, bad, good, 0)[0]:
            batch.trust()
            status, right, _ = _decode(bench, batch, good, good, -1)
            yield fact(f"{backend}: after {bench.part}, without Initialize", status=status_name(status),
                       right=right, of=len(good))  # fmt: skip
