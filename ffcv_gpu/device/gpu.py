"""One GPU as the loader sees it: its streams, the slots of batches in flight, and their synchronisation.

This module is all policy and runs in tests without a GPU; what needs a GPU is behind `GpuOwner` and
`GpuLaunches`. Loaders on the same GPU share one `GpuDevice`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.device.base import GpuEvent, GpuLaunches, GpuOwner, GpuStream
from ffcv_gpu.errors import OutOfGpuMemory
from ffcv_gpu.steps import IntArray, ValueSpec

__all__ = ["ROOM", "SLOTS", "Arena", "GpuDevice", "GpuSlot", "wait_for"]

ByteArray = npt.NDArray[np.uint8]

#: batches in flight on one GPU: one being filled, one waiting to be decoded, one being decoded. (Composing
#: takes a fiftieth of decoding's time: H200, e13_kernel and t2_loader.) Not measured yet: fewer, or more.
SLOTS = 3
#: by which share buffers are made larger than the batch that needs them
ROOM = 0.25
#: while a thread waits for a slot: seconds between checks of whether to give up
PATIENCE = 0.1
#: if the user sets no limit: this share of the GPU's memory, and at most this many bytes
DEFAULT_SHARE, DEFAULT_BYTES = 0.25, 8 << 30


@dataclass(eq=False)
class Arena:
    """Device memory that decoders write and kernels read; `used` is recorded after the last reader.

    `views` is its representation for kernels, see `GpuLaunches.views`.
    """

    memory: Any
    views: Any
    size_bytes: int
    used: GpuEvent


@dataclass(eq=False)
class GpuSlot:
    """The resources of one batch in flight: pinned memory to fill, an arena, and events.

    Buffers only grow. A newly borrowed slot has nothing in flight, so growing need not wait.
    """

    device: GpuDevice
    uploaded: GpuEvent
    arena: Arena
    pinned: ByteArray = field(default_factory=lambda: np.empty(0, np.uint8))

    def holds(self, pinned_bytes: int, arena_bytes: int) -> bool:
        """Return whether the buffers are at least this large."""
        return pinned_bytes <= self.pinned.size and arena_bytes <= self.arena.size_bytes

    def grow(
        self, pinned_bytes: int, arena_bytes: int, most_bytes: int | None = None, room: float = ROOM
    ) -> None:
        """Make the buffers at least this large; a buffer that grows loses its contents.

        Parameters
        ----------
        pinned_bytes, arena_bytes : int
        most_bytes : int, optional
            Limit for what is added to each, so that later batches fit as well.
        room : float
            How much is added, as a share of the size.

        Raises
        ------
        OutOfGpuMemory
        """
        if self.pinned.size < pinned_bytes:
            self.pinned = np.empty(0, np.uint8)  # release the old one first: both may not fit
            self.pinned = self.device.pinned(_with_room(pinned_bytes, room, most_bytes))
        if self.arena.size_bytes < arena_bytes:
            used = self.arena.used
            self.arena = Arena(None, None, 0, used)
            roomy = _with_room(arena_bytes, room, most_bytes)
            self.arena = replace(self.device.device_bytes(roomy), used=used)


class GpuDevice:
    """One GPU's slots and streams, and the threads that submit and finish batches.

    It implements `GpuMemory` for JPEG backends; its arenas are `Arena` objects.

    Parameters
    ----------
    owner : GpuOwner
    launches : GpuLaunches
    slots : int
        Maximum number of batches in flight.

    Attributes
    ----------
    stream : GpuStream
        The stream on which outputs are allocated, composed and processed before a consumer receives them.
    copies : GpuStream
        The stream for copies from pinned memory to arenas.
    """

    def __init__(self, owner: GpuOwner, launches: GpuLaunches, slots: int = SLOTS) -> None:
        self.owner, self.launches, self.slots = owner, launches, slots
        with owner.entered():
            self.stream: GpuStream = owner.new_stream()
            self.copies: GpuStream = owner.new_stream()
        self._free: list[GpuSlot] = []
        self._lost: list[Any] = []  # memory of calls that could not be waited for
        self._made = 0
        self._changed = threading.Condition()
        # One thread each: batches are decoded one after another and finished in the same order, those without
        # JPEGs for the GPU somewhere between. The decoder's call takes as long as the engines (96 % of a
        # batch's time, H200, e15_mixture); if a loader's worker made the call, one worker less would read.
        self._submitter = ThreadPoolExecutor(1, thread_name_prefix=f"ffcv_gpu-{self.name}-submit")
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix=f"ffcv_gpu-{self.name}")
        # Started now: if a pool cannot start its thread, `submit` raises but keeps the work, and does it
        # later, when the slot already has another batch.
        for threads in (self._submitter, self._finisher):
            threads.submit(int).result()
        #: the JPEG backends that somebody uses, by their settings
        self.backends: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()
        # Pinned memory goes back to its owner with this object; CuPy hands it out again at once.
        weakref.finalize(self, wait_for, owner, self.copies).atexit = False
        weakref.finalize(self, self._submitter.shutdown, wait=False)
        weakref.finalize(self, self._finisher.shutdown, wait=False)

    @property
    def name(self) -> str:
        """``"cuda:N"``."""
        return f"cuda:{self.owner.index}"

    def limit_bytes(self, gpu_memory_gb: float | None) -> int:
        """Return how many bytes one batch in flight may use, of GPU memory and of pinned memory each.

        Parameters
        ----------
        gpu_memory_gb : float or None
            Limit for all slots together, in 10**9 bytes; None: a quarter of the GPU's memory, at most 8 GiB.
        """
        if gpu_memory_gb is not None:
            return int(gpu_memory_gb * 1e9) // self.slots
        return min(int(self.owner.total_bytes() * DEFAULT_SHARE), DEFAULT_BYTES) // self.slots

    # ---- slots

    def borrow(self, give_up: Callable[[], bool], *, wait: bool = True) -> GpuSlot | None:
        """Return a slot with nothing in flight; None if `give_up()` is true, or `wait` false and none free.

        Waiting always ends: a slot is returned when the GPU is done, whatever its consumer does.
        """
        with self._changed:
            while not self._free and self._made >= self.slots:
                if not wait or give_up():
                    return None
                self._changed.wait(PATIENCE)
            slot = self._free.pop() if self._free else None
            self._made += slot is None
        try:
            self.owner.make_current()
            if slot is None:
                slot = GpuSlot(self, self.owner.new_event(), Arena(None, None, 0, self.owner.new_event()))
            # On the host: a JPEG engine does not wait for its stream before it overwrites an arena.
            slot.arena.used.synchronize()
        except BaseException:
            self._lose_slot()
            raise
        return slot

    def give_back(self, slot: GpuSlot) -> None:
        """Take a slot back; its decoding must be done, and its arena's last reader submitted to `stream`."""
        try:
            self.owner.make_current()  # this may be any thread, also a worker's
            self.stream.wait(slot.uploaded)  # its pinned memory is read until then
            self.stream.record(slot.arena.used)
        except BaseException:
            self._lose_slot()
            raise
        with self._changed:
            self._free.append(slot)
            self._changed.notify()

    def _lose_slot(self) -> None:
        """Let another slot be created: if the GPU fails, other threads must see that error, not wait."""
        for stream in (self.copies, self.stream):
            wait_for(self.owner, stream)  # the lost one's memory is reused
        with self._changed:
            self._made -= 1
            self._changed.notify()

    def submit_later(self, work: Callable[[], Any]) -> Future[Any]:
        """Call `work`, which submits work to the GPU, in the device's thread for submissions."""
        return self._submitter.submit(work)

    def finish_later(self, work: Callable[[], Any]) -> Future[Any]:
        """Call `work`, which waits for the GPU, in the device's other thread, after all earlier calls."""
        return self._finisher.submit(work)

    def finish(self, memory: Any, spec: ValueSpec) -> Any:
        """Return the memory of an output as the array or tensor that `spec` describes; copies nothing."""
        return self.owner.permuted(memory) if spec.layout == "CHW" and spec.channels_last else memory

    # ---- GpuMemory

    @property
    def index(self) -> int:
        """The GPU's number."""
        return self.owner.index

    def make_current(self) -> None:
        """Make the GPU the calling thread's current device."""
        self.owner.make_current()

    def address(self, arena: Arena) -> int:
        """Return the device address of an arena's first byte."""
        return self.owner.address(arena.memory)

    def device_bytes(self, size_bytes: int) -> Arena:
        """Return an arena, owned by the caller.

        Raises
        ------
        OutOfGpuMemory
            Says how much was requested, and which arguments reduce it.
        """
        used = self.owner.new_event()
        with self._room_for(f"{size_bytes / 1e6:.1f} MB on the GPU"), self.owner.working_on(self.stream):
            memory = self.owner.device_bytes(size_bytes)
            views = self.launches.views(memory)
        # torch and CuPy reuse memory that was dropped on the current stream while work queued there still
        # uses it. Arenas are also written from outside this stream, so the host waits.
        self.stream.record(used)
        used.synchronize()
        return Arena(memory, views, size_bytes, used)

    def pinned(self, size_bytes: int) -> ByteArray:
        """Return pinned host memory, owned by the caller; raises like `device_bytes`."""
        with self._room_for(f"{size_bytes / 1e6:.1f} MB of pinned memory"):
            return self.owner.pinned(size_bytes)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return an uninitialised output for use on the current stream; raises like `device_bytes`."""
        with self._room_for(f"an output of {shape} {dtype}"):
            return self.owner.empty(shape, dtype)

    @contextmanager
    def _room_for(self, what: str) -> Iterator[None]:
        try:
            yield
        except MemoryError as error:
            raise OutOfGpuMemory(
                f"{self.name}: not enough memory for {what}: lower gpu_memory_gb=, batch_size= or "
                f"batches_ahead=, or free memory of the GPU ({error})"
            ) from error

    def new_stream(self) -> GpuStream:
        """Create a stream."""
        return self.owner.new_stream()

    def new_event(self) -> GpuEvent:
        """Create an event."""
        return self.owner.new_event()

    def upload(self, source: ByteArray, arena: Arena, start: int, stream: GpuStream) -> None:
        """Copy pinned bytes to ``arena[start:]`` in the order of `stream`."""
        self.owner.upload(source, arena.memory, start, stream)

    def wait_until_free(self, arena: Arena) -> None:
        """Block until the last recorded reader is done; return at once for an arena never given back."""
        arena.used.synchronize()

    def release_unused(self) -> None:
        """Return memory that the owner keeps unused to the driver: nvJPEG's is not the owner's."""
        self.owner.release_unused()

    def use_after(self, event: GpuEvent) -> None:
        """Let slots that are not given back yet be lent again only after `event`; returns at once."""
        self.stream.wait(event)

    def stamp(self, arena: Arena, starts: IntArray, marks: ByteArray, stream: GpuStream) -> None:
        """Write row i of `marks` to ``arena[starts[i]:]`` and wait until it is done."""
        count, width = marks.shape
        with self._marks(starts, marks, stream) as (held, _):
            self.launches.stamp(arena.views, held.views, count, width, stream)

    def unchanged(
        self, arena: Arena, starts: IntArray, marks: ByteArray, stream: GpuStream
    ) -> npt.NDArray[np.bool_]:
        """Return which rows of `marks` are still where `stamp` wrote them, bool (n,); waits for `stream`."""
        count, width = marks.shape
        with self._marks(starts, marks, stream) as (held, pinned):
            self.launches.compare(arena.views, held.views, count, width, stream)
            answers = pinned[pinned.size - count :]
            self.owner.download(held.memory, pinned.size - count, answers, stream)
        same: npt.NDArray[np.bool_] = answers == 1
        return same

    @contextmanager
    def _marks(
        self, starts: IntArray, marks: ByteArray, stream: GpuStream
    ) -> Iterator[tuple[Arena, ByteArray]]:
        """Upload marks in the layout of `GpuLaunches.stamp`; at the end, wait until they are unused."""
        answers = np.zeros(len(marks), np.uint8)
        parts = (np.ascontiguousarray(starts, np.int64).view(np.uint8), marks.reshape(-1), answers)
        size = sum(part.size for part in parts)
        pinned, held = self.pinned(size)[:size], self.device_bytes(size)
        np.concatenate(parts, out=pinned)
        self.owner.upload(pinned, held.memory, 0, stream)
        try:
            yield held, pinned
        finally:
            try:
                stream.record(held.used)
                held.used.synchronize()
            except BaseException:
                self._lost.append((held, pinned))  # else marks would be written wherever new contents say
                raise


def wait_for(owner: GpuOwner, stream: GpuStream) -> None:
    """Block until all work submitted to `stream` is done; return at once if the GPU has failed."""
    with suppress(Exception), owner.entered():
        done = owner.new_event()
        stream.record(done)
        done.synchronize()


def _with_room(size_bytes: int, room: float, most_bytes: int | None) -> int:
    """Return the size and some room: batches vary, and growing waits for the whole GPU."""
    roomy = size_bytes + int(room * size_bytes)
    return roomy if most_bytes is None else max(size_bytes, min(roomy, most_bytes))
