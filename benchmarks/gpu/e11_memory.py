"""E11: does nvJPEG allocate in steady state, how much memory does it use, how much does it reserve?"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.bench import Bench, Row, check, fact
from benchmarks.gpu.decoders import INTERPOLATE, Batch, Handle, Refusal
from benchmarks.gpu.pictures import FORMATS
from benchmarks.gpu.speed import Lane, lanes_of
from ffcv_gpu.native.nvjpeg_types import nvjpegDevAllocatorV2_t, nvjpegPinnedAllocatorV2_t

__all__ = ["Allocators", "run"]

BACKENDS = ("hardware", "gpu_hybrid")
MEGAPIXELS = (1, 2, 4)
WARM_ROUNDS = 2
ALIGNED = 256


class Allocators:
    """Counting allocators for nvJPEG, in machine code, which does not need the GIL.

    `counters`, int64 (2, 4): allocations, bytes and frees of device memory, then of pinned memory.
    """

    def __init__(self, *, host: bool) -> None:
        self.counters = np.zeros((2, 4), np.int64)
        self._kept = [_compiled(*names) for names in (_HOST if host else _CUDA)]
        (malloc, free), (pinned_malloc, pinned_free) = self._kept
        mine = [row.ctypes.data for row in self.counters]
        self.device = nvjpegDevAllocatorV2_t(malloc.address, free.address, mine[0])
        self.pinned = nvjpegPinnedAllocatorV2_t(pinned_malloc.address, pinned_free.address, mine[1])

    def structs(self) -> tuple[Any, Any]:
        return ctypes.byref(self.device), ctypes.byref(self.pinned)


# library, allocate, free; (out, size) -> status and (pointer) -> status, as in the CUDA driver
_CUDA = (
    ("libcuda.so.1", "cuMemAlloc_v2", "cuMemFree_v2"),
    ("libcuda.so.1", "cuMemAllocHost_v2", "cuMemFreeHost"),
)
# (out, alignment, size) -> status and (pointer), as in C; for the rehearsal
_HOST = ((None, "posix_memalign", "free"),) * 2


def _compiled(library: str | None, allocate: str, free: str) -> tuple[Any, Any]:
    """Return nvJPEG's two callbacks, which call two functions of a library."""
    from numba import carray, cfunc, njit, types

    functions = ctypes.CDLL(library)
    reserve, release = getattr(functions, allocate), getattr(functions, free)
    word = ctypes.c_size_t  # for addresses, too: numba passes no pointers to pointers as void pointers
    reserve.restype, release.restype = ctypes.c_int, ctypes.c_int
    reserve.argtypes, release.argtypes = [word] * (3 if library is None else 2), [word]
    counters, address = types.CPointer(types.int64), types.uintp

    def count(mine: Any, size: Any) -> None:
        found = carray(mine, 4)
        found[0] += 1
        found[1] += size

    count = njit(count)
    if library is None:

        def malloc(mine: Any, target: Any, size: Any, stream: Any) -> Any:
            count(mine, size)
            return reserve(target, ALIGNED, size)

    else:

        def malloc(mine: Any, target: Any, size: Any, stream: Any) -> Any:
            count(mine, size)
            return reserve(target, size)

    def give_back(mine: Any, given: Any, size: Any, stream: Any) -> Any:
        carray(mine, 4)[2] += 1
        release(given)
        return 0

    signature = cfunc(types.int32(counters, address, address, address))
    return signature(malloc), signature(give_back)


def run(bench: Bench) -> Iterator[Row]:
    """Count over many batches in random order; then with nvJPEG's allocators; then reserve memory."""
    for backend in BACKENDS:
        try:
            yield from _counted(bench, backend)
            yield from _plain(bench, backend)
        except Refusal as refusal:
            yield fact(f"{backend} is not available", words=str(refusal))
    yield from _reserved(bench)


def _rounds(lanes: Sequence[Lane], rounds: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for lane in lanes:
            lane.jobs = [lane.jobs[i] for i in rng.permutation(len(lane.jobs))]
            lane.all()


def _lanes(bench: Bench, backend: str, allocators: tuple[Any, Any] | None = None) -> list[Lane]:
    size = bench.scale.batch if backend == "hardware" else bench.scale.gpu_batches[0]
    handle = Handle(bench.gpu.library(), backend, INTERPOLATE, allocators)
    return lanes_of(bench, handle, bench.rotation(size), count=2)


def _counted(bench: Bench, backend: str) -> Iterator[Row]:
    allocators = Allocators(host=bench.gpu.rehearsal)
    lanes = _lanes(bench, backend, allocators.structs())
    seen: list[npt.NDArray[np.int64]] = []
    for rounds in (1, WARM_ROUNDS, max(bench.scale.repeats // 8, 1)):
        _rounds(lanes, rounds)
        seen.append(allocators.counters.copy())
        yield fact(
            f"{backend}: after {rounds} more rounds of all batches",
            device=dict(zip(("allocations", "bytes", "frees"), seen[-1][0].tolist(), strict=False)),
            pinned=dict(zip(("allocations", "bytes", "frees"), seen[-1][1].tolist(), strict=False)),
        )
    more = int((seen[-1] - seen[-2])[:, 0].sum())
    yield check(f"{backend}: nothing is allocated in steady state", more == 0, must=False, allocations=more)
    for lane in lanes:
        lane.batch.give_up()


def _plain(bench: Bench, backend: str) -> Iterator[Row]:
    """With nvJPEG's own allocators, watch the GPU's free memory and the calls of the CUDA runtime."""
    lanes = _lanes(bench, backend)
    _rounds(lanes, 1 + WARM_ROUNDS)
    before = bench.gpu.free_bytes()
    _rounds(lanes, max(bench.scale.repeats // 8, 1))
    lost = before - bench.gpu.free_bytes()
    yield check(f"{backend}: the GPU's free memory stays", lost == 0, must=False, bytes=lost)
    try:
        found = bench.gpu.activities(lambda: _rounds(lanes, 1))["calls"]
    except RuntimeError as error:
        yield fact("the CUDA runtime's calls cannot be counted here", words=str(error))
        return
    calls = {name: count for name, (count, _) in found.items()}
    slow = {name: n for name, n in calls.items() if any(word in name for word in ("Malloc", "Free", "Alloc"))}
    yield check(f"{backend}: no call for memory in steady state", not slow, must=False, calls=slow)
    yield fact(f"{backend}: calls of the CUDA runtime in {2 * len(lanes[0].jobs)} batches", calls=calls)


def _reserved(bench: Bench) -> Iterator[Row]:
    try:
        handle = Handle(bench.gpu.library(), "hardware", INTERPOLATE)
    except Refusal:
        return
    for megapixels in MEGAPIXELS:
        batch = Batch(handle, bench.scale.batch, FORMATS["rgbi"])
        before = bench.gpu.free_bytes()
        status = batch.initialize() or batch.preallocate(1000 * megapixels, 1000)
        yield fact(
            f"reserved for {bench.scale.batch} images of {megapixels} megapixels",
            status=status,
            bytes=before - bench.gpu.free_bytes(),
        )
        batch.give_up()
