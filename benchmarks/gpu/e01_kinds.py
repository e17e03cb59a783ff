"""E1: which kinds of JPEG each decoder accepts, in which formats, how close to libjpeg-turbo's pixels, and
whether it writes outside its destination."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from benchmarks.gpu.bench import Bench, Row, check, fact, still_works
from benchmarks.gpu.decoders import INTERPOLATE, Batch, Handle, Job, Refusal, Single, status_name
from benchmarks.gpu.e00_reach import other_libraries
from benchmarks.gpu.pictures import FORMATS, Arena, Pictures, Pixels, difference, greatest, reference
from benchmarks.gpu.variants import Variant, variants
from ffcv_gpu.native.nvjpeg_library import NvjpegLibrary

__all__ = ["run"]

#: decodes one picture into a filled arena and waits; returns a status
Decode = Callable[[Pictures, Arena], int]
OUTPUTS = ("rgbi", "yuv", "y", "rgb")
SMALL_SIZES = ((1, 1), (7, 7), (8, 8), (33, 17), (64, 64))
#: limits of the software decoders against libjpeg-turbo, for colour and planes; the engine only reports
MEAN, MAX, PLANES_MAX = 0.15, 6, 3
#: minimal number of values for a mean to count: in a tiny image, one value is a large share
COUNTED = 3000


def run(bench: Bench) -> Iterator[Row]:
    """Decode every kind with every decoder, in every format, with and without interpolation."""
    files = list(variants(bench.images(3 if not bench.gpu.rehearsal else 1), SMALL_SIZES))
    library = bench.gpu.library()
    wanted: dict[tuple[str, str, bool], list[Pixels] | None] = {}
    for flags in (INTERPOLATE, 0):
        for output in OUTPUTS if flags else OUTPUTS[:1]:
            for file in files:
                key = (file.name, output, bool(flags))
                wanted[key] = reference(file.data, FORMATS[output], interpolate=bool(flags))
            for decoder, decode in decoders(bench, library, output, flags):
                yield from _each_kind(bench, decoder, decode, files, output, flags, wanted)
    for where, other in other_libraries(library) if not bench.gpu.rehearsal else ():
        for decoder, decode in decoders(bench, other, "rgbi", INTERPOLATE, only=("engine", "cores")):
            name = f"{decoder} of {where}"
            yield from _each_kind(bench, name, decode, files, "rgbi", INTERPOLATE, wanted)


def decoders(bench: Bench, library: NvjpegLibrary, output: str, flags: int,
             only: Sequence[str] = ()) -> Iterator[tuple[str, Decode]]:  # fmt: skip
    """Yield every decoder of this GPU."""
    gpu, form = bench.gpu, FORMATS[output]
    ways: dict[str, Callable[[], Decode]] = {
        "engine": lambda: batched(bench, Batch(Handle(library, "hardware", flags), 1, form)),
        "cores": lambda: batched(
            bench, Batch(Handle(library, "gpu_hybrid", flags), bench.scale.kind_batch, form)
        ),
        **{
            f"one by one, {kind}": lambda kind=kind: one_by_one(
                bench, Single(gpu, Handle(library, "gpu_hybrid", flags), kind, form)
            )
            for kind in ("hybrid", "gpu_hybrid", "hardware")
        },
    }
    for name, make in ways.items():
        if only and name not in only:
            continue
        try:
            decode = make()
        except Refusal:
            continue  # E0 reports which are available
        yield name, decode


def batched(bench: Bench, batch: Batch) -> Decode:
    """Decode a batch of copies of one picture."""
    stream = bench.gpu.stream()

    def decode(pictures: Pictures, arena: Arena) -> int:
        status = batch.decode(Job.of(pictures, arena), bench.gpu.handle(stream))
        bench.wait(stream)
        return status

    decode.copies = batch.size  # type: ignore[attr-defined]
    return decode


def one_by_one(bench: Bench, single: Single) -> Decode:
    """Decode with the decoupled calls."""

    def decode(pictures: Pictures, arena: Arena) -> int:
        status = single.decode(pictures, arena, 0)
        bench.wait(single.stream)
        return status

    return decode


def _each_kind(
    bench: Bench, decoder: str, decode: Decode, files: Sequence[Variant], output: str, flags: int,
    wanted: dict[tuple[str, str, bool], list[Pixels] | None],
) -> Iterator[Row]:  # fmt: skip
    spilled, worst = 0, {"mean": 0.0, "max": 0.0}
    for kind in dict.fromkeys(file.kind for file in files):
        apart: list[dict[str, float]] = []
        statuses: set[str] = set()
        for file in (file for file in files if file.kind == kind):
            status, planes, beside = decoded(bench, decode, file.data, output)
            statuses.add(status_name(status))
            spilled += beside
            expected = wanted[file.name, output, bool(flags)]
            if status == 0 and expected is not None:
                apart.append(difference(planes, expected))
                if file.plain:
                    worst["max"] = max(worst["max"], apart[-1]["max"])
                if file.plain and expected[0].size >= COUNTED:
                    worst["mean"] = max(worst["mean"], apart[-1]["mean"])
        name = f"{decoder}, {output}, flags {flags}, {kind}"
        yield fact(name, statuses=sorted(statuses), **greatest(apart))
    what = f"{decoder}, {output}, flags {flags}"
    yield check(f"{what}: nothing is written outside a destination", spilled == 0, bytes=spilled)
    limits = (MEAN, MAX) if output.startswith("rgb") else (MEAN, PLANES_MAX)
    engine = decoder.startswith("engine") or "hardware" in decoder
    yield check(f"{what}: plain kinds are libjpeg-turbo's within {limits}", must=not engine,
                passed=worst["mean"] <= limits[0] and worst["max"] <= limits[1], **worst)  # fmt: skip
    yield still_works(bench.gpu, what)


def decoded(bench: Bench, decode: Decode, data: bytes, output: str) -> tuple[int, list[Pixels], int]:
    """Decode one file; return the status, the planes of its last copy, and the number of stray bytes."""
    copies = getattr(decode, "copies", 1)
    pictures = Pictures.of(bench.gpu, [data] * copies)
    arena = Arena(bench.gpu, pictures.sizes, FORMATS[output])
    arena.blank(bench.gpu)
    status = decode(pictures, arena)
    memory = bench.gpu.download(arena.memory)
    return status, arena.image(memory, copies - 1), arena.spilled(memory)
