"""The input of an experiment: GPU, photographs, amount of work; and the one way to measure times."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.gpu.decoders import Refusal
from benchmarks.gpu.device import Gpu
from benchmarks.gpu.lines import Row
from benchmarks.gpu.pictures import Pictures
from benchmarks.gpu.variants import encode, stretched
from benchmarks.harness import summary
from benchmarks.photos import find_photos

__all__ = ["BRIEF", "FULL", "SMALL", "Bench", "Row", "Scale", "best", "check", "collected", "fact",
           "still_works", "timed", "unless_refused"]  # fmt: skip

Pixels = npt.NDArray[np.uint8]
#: batches that every measurement cycles through, so that no cache holds its input
ROTATED = 4


@dataclass(frozen=True)
class Scale:
    """How much work is done.

    After `warm` turns, turns are timed until there are `turns` of them and `seconds` have passed, or `least`
    of them and `most_seconds`. A turn is `rotated` batches.
    """

    warm: int = 2
    turns: int = 5
    seconds: float = 0.5
    least: int = 3
    most_seconds: float = 1.5
    rotated: int = ROTATED
    repeats: int = 200
    images: int = 64
    batches: tuple[int, ...] = (256, 128, 64, 512, 32, 8, 7, 1)
    batch: int = 256
    #: GPU Huffman needs more than 50 images per batch
    gpu_batches: tuple[int, ...] = (256, 128, 64, 512, 51, 32)
    #: batch size for the kinds of files, on the SMs
    kind_batch: int = 51
    #: height, width and batch size of encoded sets, from small to 4K
    sides: tuple[tuple[int, int, int], ...] = (
        (256, 256, 256),
        (375, 500, 256),
        (1080, 1920, 32),
        (2160, 3840, 8),
    )
    odd_sizes: tuple[tuple[int, int], ...] = (
        (1, 1), (1, 64), (7, 7), (8, 8), (15, 15), (16, 16), (17, 33), (64, 64), (200, 8000), (64, 16000),
        (64, 16384), (64, 16400), (4000, 6000),
    )  # fmt: skip
    #: longer side that photographs are reduced to; 0: unchanged
    side: int = 0
    threads: tuple[int, ...] = (1, 2, 4, 7, 14)
    #: samples in a loader's file, and passes over them per epoch
    samples: int = 4096
    rounds: int = 8
    #: training steps per turn
    steps: int = 40
    #: kinds of files of T2, see `datasets.KINDS`
    kinds: tuple[str, ...] = ("jpeg", "half", "tenth", "raw")
    #: images of C6
    many: int = 1_000_000


FULL = Scale()
#: the most decisive cases, in half the time
BRIEF = Scale(
    warm=1, turns=3, seconds=0.25, least=2, most_seconds=1.0, repeats=60, batches=(256, 64, 8),
    gpu_batches=(256, 64, 32), sides=((256, 256, 256), (1080, 1920, 32)), threads=(1, 7),
    samples=2048, steps=20, kinds=("jpeg", "half", "raw"), many=500_000,
)  # fmt: skip
SMALL = Scale(
    warm=1, turns=2, seconds=0.0, least=1, most_seconds=1.0, rotated=2, repeats=2, images=4,
    batches=(4, 1), batch=4, kind_batch=4, gpu_batches=(52, 4), sides=((32, 32, 4), (48, 64, 4)), side=64,
    threads=(1, 2), samples=16, rounds=2,
    odd_sizes=((1, 1), (7, 7), (16, 16), (17, 33)), steps=2, many=64,
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """The input of an experiment.

    Attributes
    ----------
    gpu, scale
    work
        folder for files that are written
    data
        folder of JPEGs
    part
        of the experiment
    kept
        rows of cases that an earlier, incomplete run has measured: they are not measured again
    """

    gpu: Gpu
    scale: Scale
    work: Path
    data: Path | None = None
    part: str = ""
    kept: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    root: Path = Path(__file__).resolve().parents[2]

    def photos(self) -> list[bytes]:
        """Return the folder's JPEGs, or pieces of packaged photographs; a few small ones in a rehearsal."""
        files = [path.read_bytes() for path in find_photos(self.data, self.work).paths]
        if self.scale.side:
            return [encode(image) for image in self.images(len(files[:8]), files)]
        return files

    def images(self, count: int, files: Sequence[bytes] | None = None) -> list[Pixels]:
        """Return up to `count` photographs as RGB."""
        files = files or [path.read_bytes() for path in find_photos(self.data, self.work).paths[: 4 * count]]
        found: list[Pixels] = []
        for file in files:
            image = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
            if image is not None and len(found) < count:
                found.append(self._fitted(np.ascontiguousarray(image[..., ::-1])))
        return found

    def _fitted(self, image: Pixels) -> Pixels:
        side, longest = self.scale.side, max(image.shape[:2])
        if not side or longest <= side:
            return image
        height, width = (max(8, n * side // longest) for n in image.shape[:2])
        return stretched(image, height, width)

    def rotation(self, size: int, *, files: Sequence[bytes] | None = None, pinned: bool = True,
                 sets: int | None = None) -> list[Pictures]:  # fmt: skip
        """Return different batches of photographs, each in separate memory."""
        files = files or self.photos()
        rng = np.random.default_rng(0)
        every = np.arange(max(size, len(files))) % len(files)
        orders = [rng.permutation(every)[:size] for _ in range(sets or self.scale.rotated)]
        return [Pictures.of(self.gpu, [files[i] for i in order], pinned=pinned) for order in orders]

    def made(
        self, height: int, width: int, count: int, subsampling: str = "420", quality: int = 90
    ) -> list[bytes]:
        """Return photographs stretched to one size and encoded with one subsampling and quality."""
        images = self.images(min(count, 16))
        return [encode(stretched(image, height, width), subsampling, quality) for image in images]

    def wait(self, stream: Any) -> None:
        """Wait for a stream as a loader does: for an event, without spinning."""
        event = self.gpu.event()
        self.gpu.record(event, stream)
        self.gpu.await_event(event)


# ---- rows


def fact(name: str, **values: Any) -> Row:
    """Make a row of something observed."""
    return {"row": "fact", "name": name, **values}


def check(name: str, passed: bool, *, must: bool = True, **values: Any) -> Row:
    """Make a row of something that should hold; if it `must`, the run fails otherwise."""
    return {"row": "check", "name": name, "passed": bool(passed), "must": must, **values}


def still_works(gpu: Gpu, what: str = "") -> Row:
    """Check that no earlier error has left the GPU unusable."""
    words = gpu.broken()
    return check(f"{what}: the GPU still works".removeprefix(": "), not words, words=words)


def collected(rows: Iterable[Row], results: list[Row]) -> Iterator[Row]:
    """Yield rows, and append the results among them to a list."""
    for row in rows:
        results += [row] if row["row"] == "result" else []
        yield row


def best(results: Iterable[Row]) -> float:
    """Return the highest images/s of some results; 0 if there are none."""
    return max((float(row["images_per_second"]) for row in results), default=0.0)


def cpu_seconds() -> float:
    """Return the CPU time of this process, over all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(bench: Bench, case: str, turn: Callable[[], Mapping[str, float]], **settings: Any) -> Iterator[Row]:
    """Measure `turn` repeatedly: yields a row per repeat, and a summary.

    If the decoder refuses, yields a fact instead, so that the next case is tried.

    Parameters
    ----------
    bench, case
    turn
        does the work, waits for it, and returns at least ``images`` (also ``megapixels``, ``megabytes``)
    settings
        added to the summary

    Yields
    ------
    row
    """
    if case in bench.kept:
        yield from bench.kept[case]
        return
    yield from unless_refused(bench, case, _timed(bench.scale, case, turn, settings))


def _timed(
    scale: Scale, case: str, turn: Callable[[], Mapping[str, float]], settings: Mapping[str, Any]
) -> Iterator[Row]:
    for _ in range(scale.warm):
        turn()
    repeats: list[dict[str, float]] = []
    begun = time.perf_counter()
    while True:
        cpu, start = cpu_seconds(), time.perf_counter()
        answer = dict(turn())
        seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
        repeats.append({**answer, "seconds": seconds, "cpu_seconds": cpu})
        yield {"row": "repeat", "case": case, **repeats[-1]}
        gone = time.perf_counter() - begun
        enough = len(repeats) >= scale.turns and gone >= scale.seconds
        if enough or (len(repeats) >= scale.least and gone >= scale.most_seconds):
            break
    yield {"row": "result", "case": case, **summed(repeats), **settings}


def unless_refused(bench: Bench, case: str, rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows; if the decoder refuses, a fact instead of the rest, so that the next case is tried."""
    try:
        yield from rows
    except Refusal as refusal:
        bench.gpu.synchronize()
        yield fact(f"{case}: not possible", words=str(refusal))


def summed(repeats: Sequence[Mapping[str, float]]) -> Row:
    """Summarise repeats: median rate, 95th percentile of the time, CPU time per image."""
    seconds = [repeat["seconds"] for repeat in repeats]
    rates = summary(repeat["images"] / repeat["seconds"] for repeat in repeats)
    images = sum(repeat["images"] for repeat in repeats)
    found: Row = {
        "repeats": len(repeats),
        "images_per_second": round(rates["median"], 1),
        "spread": round(rates["spread"], 3),
        "p95_over_median": round(float(np.percentile(seconds, 95) / np.median(seconds)), 3),
        "cpu_us_per_image": round(1e6 * sum(r["cpu_seconds"] for r in repeats) / images, 1),
    }
    for key, name in (("megapixels", "gigapixels_per_second"), ("megabytes", "gigabytes_per_second")):
        if key in repeats[0]:
            found[name] = round(sum(r[key] for r in repeats) / sum(seconds) / 1000, 3)
    if "call_seconds" in repeats[0]:
        found["share_in_calls"] = round(sum(r["call_seconds"] for r in repeats) / sum(seconds), 3)
    return found
