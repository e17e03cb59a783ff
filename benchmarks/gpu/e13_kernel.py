"""E13: the fused kernel (crop, resize, flip, normalise) against copy bandwidth; the cost of a launch.

A launch may take the host longer than the GPU. Rates are those of both together, as in a loader; the kernel
is compared with its bound by the time of the GPU alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.bench import ROTATED, Bench, Row, check, fact, timed
from benchmarks.gpu.datasets import MEAN, STD
from benchmarks.gpu.e07_roi import boxes_of
from benchmarks.gpu.pictures import Size
from ffcv_gpu.device.discovery import gpu_device
from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.codes import KIND_DECODED, RESAMPLE_ANTIALIAS, RESAMPLE_AREA, TABLE_COLUMNS, ycbcr_kind
from ffcv_gpu.kernels.starts_cpu import fill_starts

__all__ = ["run"]

#: aims: share of copy bandwidth; microseconds of the host per launch
OF_BOUND, LAUNCH_US = 0.7, 60.0
LAUNCHES, COPY_BYTES, ALIGN = 20, 1 << 30, 256
#: measurements of the GPU alone, the first of which does not count
SPANS = 8
#: variants of the first case's kernel: rows per strip, blocks per multiprocessor
VARIANTS = ((24, 8), (16, 8), (20, 8), (28, 8), (24, 6), (16, 6))
FILTERS = {"area": RESAMPLE_AREA, "antialias": RESAMPLE_ANTIALIAS}


@dataclass(frozen=True)
class Case:
    """One specialisation. `pixels`: "rgb", or "420" for YCbCr planes."""

    pixels: str = "rgb"
    dtype: str = "float16"
    channels_last: bool = False
    resample: str = "area"
    side: int = 224

    def __str__(self) -> str:
        where = "channels last" if self.channels_last else "planar"
        return f"{self.pixels}, {self.dtype}, {where}, {self.resample}, {self.side}"


CASES = (
    Case(), Case(dtype="uint8"), Case(dtype="float32"), Case(channels_last=True), Case(resample="antialias"),
    Case(side=128), Case("420"), Case("420", dtype="uint8"), Case("420", channels_last=True),
)  # fmt: skip


def run(bench: Bench) -> Iterator[Row]:
    """Measure copy bandwidth, then every case, the most common in training first."""
    bandwidth = _bandwidth(bench)
    yield fact("bytes per second of a copy within the GPU, read and written", gigabytes=bandwidth / 1e9)
    # A rehearsal uses the CPU's kernels and compiles one per dtype: only a few cases.
    for case in (CASES[0], CASES[3], CASES[6]) if bench.gpu.rehearsal else CASES:
        yield from _measure(bench, case, bandwidth)
    if not bench.gpu.rehearsal:
        yield from _variants(bench, CASES[0])


def _bandwidth(bench: Bench) -> float:
    gpu, size = bench.gpu, COPY_BYTES if not bench.gpu.rehearsal else 1 << 16
    one, other, stream = gpu.memory(size), gpu.memory(size), gpu.stream()
    found = []
    for _ in range(6):
        gpu.synchronize()
        start = time.perf_counter()
        for _ in range(LAUNCHES):
            gpu.copy(one, other, stream)
        gpu.synchronize(stream)
        found.append(2 * size * LAUNCHES / (time.perf_counter() - start))
    return float(np.median(found[1:]))


class _Batches:
    """Pixels and launch blocks of some batches in one GPU buffer."""

    def __init__(self, bench: Bench, case: Case, highest: int = 256) -> None:
        self.device = gpu_device(bench.gpu.name)
        self.count = bench.scale.batch
        height, width = (48, 64) if bench.gpu.rehearsal else (375, 500)
        rgb = case.pixels == "rgb"
        self.layout = BlockLayout(self.count, case.side, case.side, 3, resample=FILTERS[case.resample],
                                  ycbcr=not rgb)  # fmt: skip
        block = -(-self.layout.size_bytes // ALIGN) * ALIGN
        image = -(-(height * width * 3 if rgb else height * width * 2) // ALIGN) * ALIGN
        pixels = self.count * image
        self.starts = [k * (block + pixels) for k in range(ROTATED)]
        owner = self.device.owner
        owner.make_current()
        arena = self.device.device_bytes(ROTATED * (block + pixels))
        self.memory, self.views = arena.memory, arena.views
        self.crops: list[npt.NDArray[np.int64]] = []
        noise = np.random.default_rng(0).integers(0, highest, pixels, np.uint8)
        for k, start in enumerate(self.starts):
            staged = owner.pinned(block + pixels)
            staged[block : block + pixels] = noise
            self._write(staged[:block], case, start + block, image, (height, width), k)
            owner.upload(staged[: block + pixels], self.memory, start, self.device.stream)
            bench.gpu.synchronize()

    def _write(
        self, block: Any, case: Case, start: int, image: int, size: tuple[int, int], seed: int
    ) -> None:
        n, (height, width) = self.count, size
        table = np.zeros((n, TABLE_COLUMNS), np.int64)
        table[:, 6:] = size
        firsts = start + image * np.arange(n)
        if case.pixels == "rgb":
            table[:, 0], table[:, 1], table[:, 4] = KIND_DECODED, firsts, 3 * width
        else:
            half, wide = -(-height // 2), -(-width // 2)
            table[:, 0], table[:, 1], table[:, 4:6] = ycbcr_kind(1, 1), firsts, (width, wide)
            table[:, 2] = firsts + height * width
            table[:, 3] = table[:, 2] + half * wide
        boxes = boxes_of([Size(height, width)] * n, aligned=False, seed=seed)
        self.crops.append(boxes)
        rng = np.random.default_rng(seed)
        geometry = np.tile(np.array([1, 0, 1, 0], np.int32), (n, 1))
        flipped = rng.random(n) < 0.5
        geometry[flipped, 2:] = -1, case.side - 1
        side, pixel = case.side, (case.side * 3, 3, 1) if case.channels_last else (case.side, 1, case.side**2)
        self.layout.write(
            block, table=table, boxes=boxes.astype(np.int32), geometry=geometry,
            params=np.zeros((n, 0), np.float32), ops=np.zeros((0, 2), np.int32),
            fills=np.zeros((0, 4), np.uint32), late_from=0, lut=_table(case.dtype),
            strides=np.array([3 * side * side, *pixel], np.int64),
        )  # fmt: skip
        fill_starts(*self.layout.start_arguments(block), 0, n)

    def moved(self, case: Case) -> float:
        """Return the bytes that a launch must read and write: crops and output once each."""
        crops = np.mean([(boxes[:, 2] * boxes[:, 3]).sum() for boxes in self.crops])
        read = crops * (3 if case.pixels == "rgb" else 1.5)
        return float(read + self.count * 3 * case.side**2 * np.dtype(case.dtype).itemsize)


def _table(dtype: str) -> npt.NDArray[Any]:
    """Return the bits of the output for each value of each channel, (3, 256)."""
    levels = np.tile(np.arange(256.0), (3, 1))
    values = levels if dtype == "uint8" else (levels - MEAN[:, None]) / STD[:, None]
    found = values.astype(dtype)
    return found.view(f"u{found.itemsize}")


def _out(batches: _Batches, case: Case) -> Any:
    """Return memory for the output of a launch."""
    shape = (batches.count, *((case.side, case.side, 3) if case.channels_last else (3, case.side, case.side)))
    with batches.device.owner.working_on(batches.device.stream):
        return batches.device.owner.empty(shape, case.dtype)


def _repeated(
    bench: Bench, name: str, batches: _Batches, launch: Callable[[int], None]
) -> Generator[Row, None, tuple[float, float]]:
    """Measure launches, each called with its block's offset.

    Returns the seconds per launch of the GPU alone, and of the host alone.
    """
    launches = LAUNCHES if not bench.gpu.rehearsal else 2

    def submit() -> None:
        for k in range(launches):
            launch(batches.starts[k % ROTATED])

    def turn() -> dict[str, float]:
        start = time.perf_counter()
        submit()
        called = time.perf_counter() - start
        bench.gpu.synchronize()
        return {
            "images": float(launches * batches.count),
            "call_seconds": called,
            "launches": float(launches),
        }

    repeats: list[Row] = []
    for row in timed(bench, name, turn):
        repeats += [row] if row["row"] == "repeat" else []
        yield row
    called = float(np.median([row["call_seconds"] for row in repeats]))
    spans = [bench.gpu.span(submit, batches.device.stream.handle) / launches for _ in range(SPANS)][1:]
    yield fact(f"{name}: the GPU alone", microseconds=[round(1e6 * span, 2) for span in spans])
    return float(np.median(spans)), called / launches


def _measure(bench: Bench, case: Case, bandwidth: float) -> Iterator[Row]:
    batches = _Batches(bench, case)
    device, out = batches.device, _out(batches, case)

    def launch(start: int) -> None:
        device.launches.compose(batches.views, batches.layout, start, out, device.stream)

    start = time.perf_counter()
    launch(batches.starts[0])
    bench.gpu.synchronize()
    yield fact(f"{case}: the first launch, with compilation", seconds=time.perf_counter() - start)
    seconds, called = yield from _repeated(bench, str(case), batches, launch)
    bound = batches.moved(case) / bandwidth
    yield check(f"{case}: {OF_BOUND} of the copy bandwidth", bound / seconds >= OF_BOUND, must=False,
                of_bound=round(bound / seconds, 3), microseconds=round(1e6 * seconds, 1),
                bound_microseconds=round(1e6 * bound, 1))  # fmt: skip
    yield check(f"{case}: a launch takes the host {LAUNCH_US:.0f} us at most", 1e6 * called <= LAUNCH_US,
                must=False, microseconds=round(1e6 * called, 1))  # fmt: skip


def _variants(bench: Bench, case: Case) -> Iterator[Row]:
    """Measure other strips and occupancies of a case's kernel, and pixels with only two levels.

    Threads of a warp wait for each other if they look up different levels in the same bank.
    """
    from numba import cuda

    from ffcv_gpu.kernels import shell_cuda
    from ffcv_gpu.kernels.bodies_cuda import MAX_THREADS
    from ffcv_gpu.kernels.pixels_cuda import make_kernel

    for highest in (256, 2):
        batches = _Batches(bench, case, highest)
        out = _out(batches, case)
        target, itemsize = shell_cuda.bits_of(out)
        for rows, blocks in VARIANTS if highest == 256 else VARIANTS[:1]:
            made = make_kernel(3, False, False, shell_cuda.BITS[itemsize], rows)
            # not cached on disk: numba's key does not include the bounds
            function = cuda.jit(launch_bounds=(MAX_THREADS, blocks))(made)
            grid, threads = shell_cuda.grids(batches.layout, rows)
            run = shell_cuda.configured(function, grid, threads, batches.device.stream.handle)
            name = f"{case}; strips of {rows} rows, {blocks} blocks, {highest} levels"

            def launch(start: int, run: Any = run, at: int = batches.views.address, to: int = target) -> None:
                run(at, at + start, to)

            seconds, _ = yield from _repeated(bench, name, batches, launch)
            yield fact(name, microseconds=round(1e6 * seconds, 1))
