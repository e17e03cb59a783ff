"""JPEG decoding by nvJPEG: by engines, by the GPU's cores, one by one or on the CPU, into one arena.

`ffcv_gpu.jpeg.routing` chooses the route of each image. If a batch fails because of one bad image, its images
are decoded one by one, so that no good image is lost.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

from ffcv_gpu.device.base import GpuMemory
from ffcv_gpu.errors import BackendUnavailable, FfcvGpuError, NvjpegError, PipelineError
from ffcv_gpu.jpeg.base import Capabilities, Decoded, Encoded
from ffcv_gpu.jpeg.nvjpeg.handles import handles_of
from ffcv_gpu.jpeg.nvjpeg.job import Job
from ffcv_gpu.jpeg.nvjpeg.slot import Gpu, Slot
from ffcv_gpu.jpeg.routing import GpuDecoders, Route, constant_batch
from ffcv_gpu.jpeg.turbo import TurboBackend
from ffcv_gpu.native import nvjpeg_library
from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status
from ffcv_gpu.steps import IntArray

__all__ = ["NvjpegBackend", "NvjpegTicket"]


class NvjpegBackend:
    """Decodes on one GPU. Any thread may call it; calls are submitted one after another.

    nvJPEG's call takes as long as the engines, so there are two locks: `_turn` is held during a submission,
    `books` only briefly. With a single lock, finishing a call waited for the submission of the next (H200,
    t2_loader at 3f9138e).

    Calls in flight use memory that the backend owns: wait for them or `close` the backend before dropping it.

    Parameters
    ----------
    memory : GpuMemory
        The GPU's memory, streams and events.
    batch_size : int
        Maximum number of images passed to nvJPEG at once; a larger call is decoded in parts, with a wait
        between them. Calls to the GPU's cores are filled up with a tiny JPEG.
    library : NvjpegLibrary, optional
        Found by `ffcv_gpu.native.nvjpeg_library.library` if not given.
    slots : int
        Maximum number of calls in flight; one more waits for the oldest.
    decoders : GpuDecoders, optional
        Limits other than the default ones; its `lanes` is replaced by the GPU's.
    sentinel : bool
        Check for images that nvJPEG silently skipped, and decode them another way. Costs one more wait per
        call.
    dct : {"accurate", "fast"}
        For images decoded on the CPU; see `TurboBackend`.

    Raises
    ------
    BackendUnavailable
        If there is no nvJPEG, or it cannot use the GPU.
    """

    name = "nvjpeg"

    def __init__(
        self,
        memory: GpuMemory,
        *,
        batch_size: int,
        library: nvjpeg_library.NvjpegLibrary | None = None,
        slots: int = 3,
        decoders: GpuDecoders | None = None,
        sentinel: bool = False,
        dct: str = "accurate",
    ) -> None:
        if batch_size < 1 or slots < 1:
            raise PipelineError(f"nvjpeg: batch_size={batch_size} and slots={slots} must be positive")
        library = library or nvjpeg_library.library()
        self._memory, self._turn = memory, threading.RLock()
        self._flying: deque[Job] = deque()
        memory.make_current()

        def create() -> None:
            handles = handles_of(library, memory.index)
            limits = replace(decoders or GpuDecoders(), lanes=handles.lanes)
            self.capabilities = Capabilities(engine_images=handles.lanes)
            batches = {Route.ENGINE: batch_size, Route.GPU_HUFFMAN: constant_batch(batch_size, gpu=limits)}
            self._gpu = Gpu(memory, handles, limits, batches, TurboBackend(dct), sentinel)
            self._idle = [self._make_slot() for _ in range(slots)]

        try:
            try:
                create()
            except NvjpegError as error:
                if error.status != Status.NVJPEG_STATUS_ALLOCATOR_FAILURE:
                    raise
                memory.release_unused()
                create()
        except NvjpegError as error:
            raise _unusable(error, library, memory.index) from error

    def _make_slot(self) -> Slot:
        """Create a slot and prepare it for the GPU's main batched route, so that errors show now."""
        slot = Slot(self._gpu)
        main = Route.ENGINE if self._gpu.decoders.lanes else Route.GPU_HUFFMAN
        slot.batch_decoder(main, 0).prepare(self._gpu.batches[main])
        return slot

    @property
    def decoders(self) -> GpuDecoders:
        """The GPU's decoders and the limits in use."""
        return self._gpu.decoders

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of images of all finished calls, by the route that decoded them; also counts of failures."""
        with self._gpu.books:
            return {name: count for name, count in self._gpu.counts.items() if count}

    def submit(self, encoded: Encoded, arena: Any, offsets: IntArray) -> NvjpegTicket:
        """Start to decode; see `JpegBackend.submit`. Returns before the GPU is done.

        It first waits, on the host, until nothing reads or writes the arena: the engine does not wait for its
        stream before it overwrites (H200, e02_order: not in one of 60 times). All calls go through this wait.

        Raises
        ------
        ValueError
            If an image is not inside ``encoded.stored``.
        NvjpegError
            If GPU or pinned memory runs out. The backend stays usable.
        """
        return self.start(self.prepare(encoded, arena, offsets))

    def prepare(self, encoded: Encoded, arena: Any, offsets: IntArray) -> Job:
        """Prepare a call for `start` while other calls are decoded: the first half of `submit`.

        Takes a third of a millisecond for 256 photos, during which the engines would idle. Thread-safe.
        """
        if ((encoded.offsets < 0) | (encoded.offsets + encoded.lengths > encoded.stored.size)).any():
            raise ValueError("nvjpeg: an image is not inside the stored bytes")
        return Job(self._gpu, encoded, arena, offsets)

    def start(self, job: Job) -> NvjpegTicket:
        """Start a prepared call; only once per job. See `submit`."""
        with self._turn:
            self._memory.make_current()
            self._make_free(job.arena)
            self._start(job, self._take_slot())
        return NvjpegTicket(self, job)

    def _start(self, job: Job, slot: Slot) -> None:
        try:
            job.start(slot)
        except BaseException:
            try:
                job.settle()
            finally:
                with self._gpu.books:
                    self._idle.append(slot)
            raise
        with self._gpu.books:
            self._flying.append(job)

    def _make_free(self, arena: Any) -> None:
        address = self._memory.address(arena)
        with self._gpu.books:
            here = [job for job in self._flying if job.address == address]
        for job in here:
            with suppress(FfcvGpuError):  # its own ticket raises it
                self._finish(job)
        self._memory.wait_until_free(arena)

    def _take_slot(self) -> Slot:
        """Return a slot with nothing in flight, if necessary by finishing the oldest call; under `_turn`."""
        while True:
            with self._gpu.books:
                if self._idle:
                    return self._idle.pop()
                if not self._flying:
                    raise PipelineError("nvjpeg: this backend was closed")
                oldest = self._flying[0]
            with suppress(FfcvGpuError):  # its own ticket raises it
                self._finish(oldest)

    def _finish(self, job: Job) -> None:
        """Finish a call once, whichever threads ask; without `sentinel`, never waits for a submission."""
        # Silently skipped images are submitted again, under `_turn`. It is acquired before the job's own
        # lock, in the same order as in a thread that submits and finishes this job.
        with self._turn if self._gpu.sentinel else nullcontext(), job.ending:
            if job.outcome is not None:
                return  # another thread was first
            try:
                job.finish()
            finally:
                with self._gpu.books:
                    self._flying.remove(job)
                    self._idle.append(job.slot)

    def close(self) -> None:
        """Finish the calls in flight and keep nvJPEG's states for the next backend on this GPU."""
        with self._turn:
            with self._gpu.books:
                flying = list(self._flying)
            for job in flying:
                with suppress(FfcvGpuError):
                    self._finish(job)
            while self._idle:
                self._idle.pop().give_back()
            self._gpu.give_back()


class NvjpegTicket:
    """A call in flight."""

    def __init__(self, backend: NvjpegBackend, job: Job) -> None:
        self._backend, self._job = backend, job

    def wait(self) -> Decoded:
        """Block until all pixels are in the arena; see `Ticket.wait`.

        Raises
        ------
        NvjpegError
            If memory ran out while images were decoded again.
        """
        job = self._job
        if job.outcome is None:
            try:
                job.wait_for_gpu()  # before any lock, so that other calls can be submitted meanwhile
            finally:  # also if the GPU refuses to be waited for: the caller reuses the memory
                self._backend._finish(job)
        outcome = job.outcome
        assert outcome is not None
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def _unusable(error: NvjpegError, library: nvjpeg_library.NvjpegLibrary, gpu: int) -> BackendUnavailable:
    memory = error.status == Status.NVJPEG_STATUS_ALLOCATOR_FAILURE
    advice = "lower gpu_memory_gb= or batch_size=" if memory else 'jpeg_backend="turbo" decodes on the CPU'
    version = ".".join(map(str, library.version))
    return BackendUnavailable(f"nvJPEG {version} ({library.path}) cannot use GPU {gpu}: {error}; {advice}")
