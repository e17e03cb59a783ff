"""One call of the nvJPEG backend: decodes images by their routes, and failed ones by the next routes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import NvjpegError
from ffcv_gpu.jpeg.base import Decoded, DecodeStatus, Encoded
from ffcv_gpu.jpeg.nvjpeg.experience import kinds_of
from ffcv_gpu.jpeg.nvjpeg.handles import Images
from ffcv_gpu.jpeg.nvjpeg.slot import Gpu, Slot, out_of_memory
from ffcv_gpu.jpeg.routing import (
    NO_ROUTE,
    Route,
    RouteArray,
    choose_routes,
    decode_order,
    engine_groups,
    join_small_share,
    next_routes,
)
from ffcv_gpu.jpeg.scan import scan_jpegs
from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status
from ffcv_gpu.steps import IntArray

__all__ = ["COUNT_NAMES", "MARK_BYTES", "Job"]

T = TypeVar("T")
BoolArray = npt.NDArray[np.bool_]
#: one batched call: the group of its images, their indices, and their `Images`
_Call = tuple[int, IntArray, Images]

#: bytes of a sentinel: random, so that no image contains them by chance
MARK_BYTES = 16
_BATCHED = (Route.ENGINE, Route.GPU_HUFFMAN)

COUNT_NAMES = {
    Route.ENGINE: "jpeg: engine",
    Route.GPU_HUFFMAN: "jpeg: gpu huffman",
    Route.DECOUPLED_GPU: "jpeg: one by one, gpu huffman",
    Route.DECOUPLED_HYBRID: "jpeg: one by one, cpu huffman",
    Route.CPU: "jpeg: cpu, uploaded",
}
"""The names in `NvjpegBackend.counts` of the routes that decoded images."""


class Job:
    """One call: n images to decode into an arena.

    Any thread may create a job; the constructor chooses the routes. `start` runs under the backend's `_turn`,
    `finish` under `ending` (and also under `_turn` if images may have to be submitted again), `wait_for_gpu`
    anywhere. Before `start`, the caller must have waited, on the host, for all work that reads or writes the
    arena.
    """

    slot: Slot

    def __init__(self, gpu: Gpu, encoded: Encoded, arena: Any, offsets: IntArray) -> None:
        count = encoded.offsets.size
        self.address = gpu.memory.address(arena)
        self.outcome: Decoded | BaseException | None = None
        self.ending = threading.RLock()
        self._gpu, self._encoded, self.arena, self._offsets = gpu, encoded, arena, offsets
        heights, widths = (side.astype(np.int64) for side in (encoded.heights, encoded.widths))
        self._images = Images(
            data=int(encoded.stored.ctypes.data) + encoded.offsets.astype(np.int64),
            lengths=encoded.lengths.astype(np.int64),
            targets=self.address + offsets.astype(np.int64),
            pitches=3 * widths if encoded.pitches is None else encoded.pitches.astype(np.int64),
            heights=heights,
            widths=widths,
        )
        self._status = np.zeros(count, np.int8)
        self._reasons: dict[int, str] = {}
        self._refusals: dict[int, str] = {}  # nvJPEG's own messages, by image
        self._routes: RouteArray = np.full(count, NO_ROUTE, np.int8)
        self._engine_calls: list[tuple[IntArray, bool]] = []  # images, and whether it failed
        self._singles = False
        self._counts: Counter[str] = Counter()
        self._marks: npt.NDArray[np.uint8] = np.empty((0, MARK_BYTES), np.uint8)
        self._first = self._first_routes()
        self._prepared = {route: list(self._calls(route, self._first)) for route in _BATCHED}

    # ---- start and end

    def start(self, slot: Slot) -> None:
        """Submit all images to their first routes; images that fail now are tried on the next routes now.

        Raises
        ------
        NvjpegError
            If memory runs out.
        """
        self.slot = slot
        slot.done.synchronize()  # long done, unless the call before could not be waited for
        self._climb(self._first)
        self._record()

    def _first_routes(self) -> RouteArray:
        images, gpu = self._images, self._gpu
        self._facts, usable = self._find_facts()
        if gpu.sentinel:
            usable &= (
                np.where(images.padded, 3 * images.widths, images.heights * images.pitches) >= MARK_BYTES
            )
            self._marks = np.random.default_rng().integers(0, 256, (usable.size, MARK_BYTES), np.uint8)
        sizes = images.heights, images.widths
        self._kinds = kinds_of(self._facts, *sizes)
        routes = choose_routes(self._facts, *sizes, images.lengths, gpu=gpu.decoders, usable=usable)
        with gpu.books:
            routes = gpu.experience.corrected(routes, self._kinds)
        return join_small_share(routes, *sizes, gpu=gpu.decoders)

    def _find_facts(self) -> tuple[npt.NDArray[Any], BoolArray]:
        """Return the images' facts, and which images may go to the GPU according to them."""
        encoded = self._encoded
        if encoded.facts is not None:
            return encoded.facts, np.ones(encoded.offsets.size, np.bool_)
        found = scan_jpegs(encoded.stored, encoded.offsets, encoded.lengths)
        usable = (found.status == DecodeStatus.GOOD) & (found.precisions == 8)
        usable &= (found.heights == self._images.heights) & (found.widths == self._images.widths)
        return found.facts, usable

    def wait_for_gpu(self) -> None:
        """Block until the GPU's submitted work is done; makes the GPU the thread's current device."""
        self._gpu.memory.make_current()
        self.slot.done.synchronize()
        if self._singles:
            self.slot.singles_done.synchronize()

    def finish(self) -> None:
        """Wait, check for silently skipped images, and set `outcome` to a result or an error."""
        try:
            self.wait_for_gpu()
            while self._gpu.sentinel and (skipped := self._skipped()).any():
                self._counts["jpeg: skipped in silence"] += int(skipped.sum())
                self._climb(self._after(skipped, self._routes))
                self.settle()
        except BaseException as error:
            try:
                self.settle()
            finally:  # not before: threads that wait for this call then release its memory
                self.outcome = error
            raise
        with self._gpu.books:
            self._count()
            self._learn()
        routes = {name: count for name, count in self._counts.items() if count}
        self.outcome = Decoded(self._status, self._reasons, routes)

    def settle(self) -> None:
        """Block until nothing of this job is in flight; if that fails, let the arena's next user wait."""
        try:
            self._record()
            self.wait_for_gpu()
        except BaseException:
            for done in (self.slot.done, self.slot.singles_done):
                self._gpu.memory.use_after(done)
            raise

    def _record(self) -> None:
        self.slot.stream.record(self.slot.done)
        if self._singles:
            self._gpu.single().stream.record(self.slot.singles_done)

    def _count(self) -> None:
        good, counts = self._status == DecodeStatus.GOOD, self._counts
        for route, count in enumerate(np.bincount(self._routes[good], minlength=len(Route)).tolist()):
            counts[COUNT_NAMES[Route(route)]] += count
        counts["jpeg: refused"] += good.size - int(good.sum())
        self._gpu.counts.update(counts)

    def _learn(self) -> None:
        """Record which kinds the engine decoded, and which it refused although nvJPEG can decode them."""
        taken, good = self._routes == Route.ENGINE, self._status == DecodeStatus.GOOD
        alone = _one_by_one(self._routes) & good
        for which, failed in sorted(self._engine_calls, key=lambda call: call[1]):
            if not failed:
                self._gpu.experience.took(self._kinds[which[taken[which]]])
            elif alone[which].all():
                self._gpu.experience.failed(self._kinds[which])

    # ---- the ladder

    def _climb(self, wanted: RouteArray) -> None:
        """Decode images by the routes `wanted` (`NO_ROUTE`: skip), and failed ones until no route is left."""
        while (wanted != NO_ROUTE).any():
            self._routes = np.where(wanted == NO_ROUTE, self._routes, wanted)
            failed = self._try(wanted)
            if not failed.any():
                return
            self.settle()
            wanted = self._after(failed, wanted)

    def _after(self, failed: BoolArray, routes: RouteArray) -> RouteArray:
        """Return the next routes of `failed` images, and `NO_ROUTE` for all others."""
        sizes = self._images.heights, self._images.widths
        following = next_routes(routes, *sizes, gpu=self._gpu.decoders)
        wanted: RouteArray = np.where(failed, following, NO_ROUTE).astype(np.int8)
        self._counts["jpeg: tried again"] += int((wanted != NO_ROUTE).sum())
        return wanted

    def _try(self, wanted: RouteArray) -> BoolArray:
        """Decode each image once; return which failed. The GPU starts first, in parallel with the CPU."""
        if self._gpu.sentinel:
            self._stamp(np.flatnonzero((wanted != NO_ROUTE) & (wanted != Route.CPU)))
        failed = np.zeros(wanted.size, np.bool_)
        for route in _BATCHED:
            prepared = self._prepared.pop(route, None)
            self._decode_batches(route, self._calls(route, wanted) if prepared is None else prepared, failed)
        self._decode_singles(np.flatnonzero(_one_by_one(wanted)), wanted, failed)
        self._decode_on_cpu(np.flatnonzero(wanted == Route.CPU), failed)
        return failed

    def _decode_batches(self, route: Route, calls: Iterable[_Call], failed: BoolArray) -> None:
        busy: set[int] = set()
        for group, part, images in calls:
            if group in busy:
                self.settle()  # the state and its arrays hold only one batch
                busy.clear()
            busy.add(group)
            try:
                self._counts["jpeg: fillers"] += self._twice(partial(self._decode, route, group, images))
            except NvjpegError as error:
                self._stop_without_memory(error, part)
                self._gpu.report_failed_batch(part.size, error)
                self._counts["jpeg: failed batches"] += 1
                failed[part] = True
                self._refusals.update(dict.fromkeys(part.tolist(), str(error)))
            if route == Route.ENGINE:
                self._engine_calls.append((part, bool(failed[part[0]])))

    def _decode(self, route: Route, group: int, images: Images) -> int:
        return self.slot.batch_decoder(route, group).decode(images, self.slot.stream.handle)

    def _twice(self, call: Callable[[], T]) -> T:
        """Return ``call()``; if nvJPEG runs out of memory, try again without what others keep unused."""
        try:
            return call()
        except NvjpegError as error:
            if error.status != Status.NVJPEG_STATUS_ALLOCATOR_FAILURE:
                raise
            self._gpu.report_lack_of_memory(error)
        self.settle()
        self._gpu.memory.release_unused()
        return call()

    def _calls(self, route: Route, wanted: RouteArray) -> Iterator[_Call]:
        """Yield the batched calls of a route."""
        which = np.flatnonzero(wanted == route)
        if not which.size:
            return
        images, size = self._images, self._gpu.batches[route]
        which = which[decode_order(self._facts[which], images.heights[which], images.widths[which])]
        groups, shares = np.zeros(which.size, np.int64), [np.arange(which.size)]
        if route == Route.ENGINE:
            groups = engine_groups(self._facts[which])
            with self._gpu.books:
                shares = self._gpu.experience.calls(self._kinds[which])
        for share in shares:
            cuts = np.flatnonzero(np.diff(groups[share])) + 1
            for alike in np.split(share, cuts):
                for lo in range(0, alike.size, size):
                    part = which[alike[lo : lo + size]]
                    yield int(groups[alike[0]]), part, images.take(part)

    def _decode_singles(self, which: IntArray, wanted: RouteArray, failed: BoolArray) -> None:
        if not which.size:
            return
        try:
            refused = self._twice(partial(self._decode_one_by_one, self._images.take(which), wanted[which]))
        except NvjpegError as error:
            self._stop_without_memory(error, which)
            refused = dict.fromkeys(range(which.size), str(error))
        failed[which[list(refused)]] = True
        self._refusals.update((int(which[k]), words) for k, words in refused.items())

    def _decode_one_by_one(self, images: Images, routes: RouteArray) -> Mapping[int, str]:
        decoder = self._gpu.single()
        self._singles = True
        return decoder.decode(images, routes)

    def _decode_on_cpu(self, which: IntArray, failed: BoolArray) -> None:
        if not which.size:
            return
        images, encoded, slot = self._images, self._encoded, self.slot
        ends = np.cumsum(images.heights[which] * images.pitches[which])
        starts = np.concatenate(([0], ends[:-1]))
        columns = encoded.offsets, encoded.lengths, images.heights, images.widths
        part = Encoded(encoded.stored, *(column[which] for column in columns))
        staging = slot.staging(int(ends[-1]))
        outcome = self._gpu.cpu.submit(part, staging, starts).wait()
        self._pad(images.take(which), staging, starts)
        for k in np.flatnonzero(outcome.status == DecodeStatus.GOOD).tolist():
            # without what would follow the last row, which may be another image's
            end = ends[k] - images.pitches[which[k]] + 3 * images.widths[which[k]]
            pixels, start = staging[starts[k] : end], int(self._offsets[which[k]])
            self._gpu.memory.upload(pixels, self.arena, start, slot.stream)
        self._status[which] = outcome.status
        failed[which] = outcome.status != DecodeStatus.GOOD
        for k, words in outcome.reasons.items():
            i = int(which[k])
            said = self._refusals.get(i)
            self._reasons[i] = f"{words} (before, {said})" if said else words

    def _pad(self, images: Images, staging: npt.NDArray[np.uint8], starts: IntArray) -> None:
        """Move rows that the CPU has decoded apart, where the arena has them apart."""
        if not images.padded.any():
            return
        from ffcv_gpu.kernels.copy_cpu import spread_windows

        zeros = np.zeros_like(starts)
        cuts = np.stack([zeros, zeros, images.heights, images.widths], axis=1)
        spread_windows(staging, starts, cuts, cuts, images.pitches, 3)

    def _stop_without_memory(self, error: NvjpegError, which: IntArray) -> None:
        if error.status == Status.NVJPEG_STATUS_ALLOCATOR_FAILURE:
            raise out_of_memory(error, self._images.take(which)) from error

    # ---- images that a call silently skips

    def _places(self, which: IntArray) -> IntArray:
        """Return the offset in the arena of each image's sentinel: in the image's middle."""
        images = self._images.take(which)
        middles = (images.heights * images.pitches - MARK_BYTES) // 2
        rows = images.heights // 2 * images.pitches  # between padded rows, nothing is overwritten
        places: IntArray = self._offsets[which] + np.where(images.padded, rows, middles)
        return places

    def _stamp(self, which: IntArray) -> None:
        if which.size:
            self._gpu.memory.stamp(self.arena, self._places(which), self._marks[which], self.slot.stream)
            self.settle()  # on the host: the engine would not wait for the stream

    def _skipped(self) -> BoolArray:
        """Return which images still have the sentinel where their pixels should be, bool (n,)."""
        which = np.flatnonzero((self._routes != NO_ROUTE) & (self._routes != Route.CPU))
        skipped = np.zeros(self._routes.size, np.bool_)
        if which.size:
            skipped[which] = self._gpu.memory.unchanged(
                self.arena, self._places(which), self._marks[which], self.slot.stream
            )
        return skipped


def _one_by_one(routes: RouteArray) -> BoolArray:
    single: BoolArray = (routes == Route.DECOUPLED_GPU) | (routes == Route.DECOUPLED_HYBRID)
    return single
