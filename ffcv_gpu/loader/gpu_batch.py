"""One batch on its way through a GPU.

The worker threads read and check its bytes into a slot, and start the upload of what is not decoded; one of
the device's two threads passes the JPEGs to the decoder, the other waits for the pixels, launches the kernels
and releases the slot. None of them waits for the consumer, so that slots shared by several loaders always
become free. The engines idle whenever the first of those two threads does something else.

====================== ================== ========================= ==================================
of a part              thread             the GPU may be            if it fails, the slot is returned
====================== ================== ========================= ==================================
``begin``              the epoch's        idle                      at once
pieces                 workers            idle                      when all pieces have ended
``_after_last_piece``  the last worker    reading pinned memory     once the upload has ended
``_submit``            submitting         reading, decoding         once all started has been decoded
``_finish``            finishing          decoding, then composing  with an event; its next user waits
====================== ================== ========================= ==================================
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, wait
from contextlib import suppress
from typing import Any

from ffcv_gpu.compose import PassLauncher
from ffcv_gpu.device.gpu import Arena, GpuSlot, wait_for
from ffcv_gpu.jpeg.base import Ticket
from ffcv_gpu.loader.faults import Fault, bad_jpegs
from ffcv_gpu.loader.gpu_engine import GpuEngine, PreparingBackend
from ffcv_gpu.loader.gpu_fill import PartFiller
from ffcv_gpu.loader.gpu_layout import LaunchPlace, PartLayout, lay_out
from ffcv_gpu.pipeline.program import Program
from ffcv_gpu.plan import BatchPlan

__all__ = ["GpuBatch"]

#: pieces of a batch per worker thread: more balance the load better, fewer cost less
PIECES_PER_WORKER = 2
#: minimum bytes of a piece: a thread takes the GIL back some ten times in each, and waits for it there. With
#: 2 MB and 16 threads, that was most of what a batch took: 13,900 images/s of raw images, 16,500 of JPEGs,
#: but 6,100 of both mixed, whose pieces have more steps (H200, t2_loader at ab46f81)
PIECE_BYTES = 8_000_000


class GpuBatch:
    """The outputs of one batch that are made on the GPU; its first part starts at construction.

    Parameters
    ----------
    engine : GpuEngine
    plan : BatchPlan
    executor : Executor
        The worker threads.
    ended : callable
        Returns True once the epoch has been closed and the batch is not wanted any more.
    """

    def __init__(
        self, engine: GpuEngine, plan: BatchPlan, executor: Executor, ended: Callable[[], bool]
    ) -> None:
        self._engine, self._plan, self._executor, self._ended = engine, plan, executor, ended
        self.memory: dict[str, Any] = {}
        self._waiting = deque(engine.parts(plan))
        self._running: deque[_Part] = deque()
        self._begin(wait=True)

    def _begin(self, *, wait: bool) -> None:
        """Start the next part, if there is one and a slot for it."""
        if not self._waiting:
            return
        slot = self._engine.device.borrow(self._ended, wait=wait)
        if slot is not None:
            lo, hi = self._waiting.popleft()
            part = _Part(self._engine, self._plan, lo, hi, slot, self.memory)
            part.begin(self._executor)
            self._running.append(part)

    def result(self) -> list[Fault]:
        """Wait until all launches are submitted; the GPU may still be writing the outputs in `memory`.

        Returns the faults of samples. If there are any, nothing was launched for their part, and `memory` is
        unusable. Raises the first exception of any part.
        """
        faults: list[Fault] = []
        while self._waiting or self._running:
            if not self._running:
                self._begin(wait=True)
                if not self._running:
                    break  # the epoch has been closed
            self._begin(wait=False)
            faults += self._running.popleft().done.result()
        return faults

    def cancel(self) -> None:
        """Cancel what has not started."""
        self._waiting.clear()
        for part in self._running:
            part.cancel()

    def settle(self) -> None:
        """Wait until nothing is in flight; called after `cancel`, once the workers have ended."""
        wait([part.done for part in self._running])


class _Part:
    """Samples [lo, hi) of a batch, with their slot.

    `done` always completes, once nothing is left for the host to do; its result is the faults of samples.
    """

    def __init__(
        self,
        engine: GpuEngine,
        plan: BatchPlan,
        lo: int,
        hi: int,
        slot: GpuSlot,
        memory: dict[str, Any],
    ) -> None:
        self.done: Future[list[Fault]] = Future()
        self._engine, self._plan, self._slot, self._memory = engine, plan, slot, memory
        self._clock = engine.clock.of_batch(plan.index, plan.epoch)
        self._lo, self._hi = lo, hi
        self._lock = threading.Lock()
        self._pieces: list[Future[list[Fault]]] = []
        self._left = 0
        self._jpegs, self._started = 0, 0.0  # how many the GPU decodes, and since when

    def _place(self) -> str:
        plan = self._plan
        return f"in rows {self._lo} to {self._hi - 1} of batch {plan.index} of epoch {plan.epoch}"

    def begin(self, executor: Executor) -> None:
        """Submit the reading of the part to the worker threads."""
        engine = self._engine
        try:
            with self._clock.span("plan"):
                on_cpu = engine.on_cpu(self._plan, self._lo, self._hi)
                self._layout: PartLayout = lay_out(
                    self._plan, self._lo, self._hi, engine.launches, engine.images, engine.row_bytes, on_cpu
                )
            layout = self._layout
            needed = layout.pinned_bytes, layout.arena_bytes
            if not self._slot.holds(*needed):
                self._slot.grow(*needed, engine.limit_bytes, engine.room(self._hi - self._lo))
            self._filler = PartFiller(engine.dataset, self._plan, layout, self._slot.pinned, engine)
            self._filler.write_blocks()
            calls = self._filler.pieces(PIECES_PER_WORKER * engine.workers, PIECE_BYTES)
        except BaseException as error:
            error.add_note(self._place())
            engine.device.give_back(self._slot)
            raise
        self._left = len(calls)
        for call in calls:
            piece: Future[list[Fault]] = Future()
            try:
                piece = executor.submit(call)
            except BaseException as error:  # noqa: BLE001 (no new thread; other pieces may be running)
                executor.shutdown()  # it keeps the piece: not later, when the slot has another batch
                piece.set_exception(error)
            self._pieces.append(piece)
        for piece in list(self._pieces):
            piece.add_done_callback(self._piece_ended)

    def _piece_ended(self, _: Future[list[Fault]]) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
        self._after_last_piece()

    def _after_last_piece(self) -> None:
        """Pass the part to a device thread, or end it if a piece failed; in the last piece's thread."""
        device = self._engine.device
        # They refer to this part, as would the traceback of an error that is raised here: kept by the part,
        # each would leave it to the garbage collector.
        pieces, self._pieces = self._pieces, []
        if any(piece.cancelled() for piece in pieces):
            self._end(CancelledError())
            return
        try:
            faults = [fault for piece in pieces for fault in piece.result()]
            if not faults:
                self._upload()
                prepared = self._prepared()
                if prepared is None:
                    device.finish_later(lambda: self._finish(None))
                else:
                    device.submit_later(lambda: self._submit(prepared))
                return
        except BaseException as error:  # noqa: BLE001 (raised in the training loop)
            self._end(error)
        else:
            self._end(faults)

    def _end(self, outcome: list[Fault] | BaseException) -> None:
        """Release the slot and complete `done`; nothing of the part is in flight any more."""
        try:
            self._engine.device.give_back(self._slot)
        except BaseException as error:  # noqa: BLE001 (the GPU failed; raised in the training loop)
            outcome = outcome if isinstance(outcome, BaseException) else error
        if isinstance(outcome, BaseException):
            outcome.add_note(self._place())
            self.done.set_exception(outcome)
        else:
            self.done.set_result(outcome)

    def _prepared(self) -> Any:
        """Return the prepared decoding of the JPEGs, for `_submit`; None if there are none."""
        encoded, starts = self._filler.encoded()
        self._jpegs = starts.size
        if not starts.size:
            return None
        return self._backend().prepare(encoded, self._slot.arena, starts)

    def _backend(self) -> PreparingBackend:
        backend = self._engine.backend
        assert backend is not None, "without one, no JPEGs are left to the GPU"
        return backend

    def _submit(self, prepared: Any) -> None:
        """Start decoding, in the device's submitting thread; its other thread calls `_finish`.

        If that fails, wait for what was started, because it reads the slot.
        """
        ticket: Ticket | None = None
        try:
            with self._clock.span("submit", items=self._jpegs):
                self._started = time.perf_counter()
                ticket = self._backend().start(prepared)
            self._engine.device.finish_later(lambda: self._finish(ticket))
        except BaseException as error:  # noqa: BLE001 (raised in the training loop)
            with suppress(BaseException):  # the first error is the one to raise
                if ticket is not None:
                    ticket.wait()
            self._end(error)

    def _upload(self) -> None:
        """Start the upload of launch blocks, rows and crops; if that fails, nothing of it is in flight."""
        device, slot, layout = self._engine.device, self._slot, self._layout
        device.make_current()
        try:
            if layout.upload_bytes:
                front = slot.pinned[: layout.upload_bytes]
                device.upload(front, slot.arena, 0, device.copies)
            device.copies.record(slot.uploaded)
        except BaseException:
            wait_for(device.owner, device.copies)  # no event tells the slot's next user when it is done
            raise

    def _finish(self, ticket: Ticket | None) -> None:
        """Wait for the pixels and launch the kernels; in the device's finishing thread."""
        outcome: list[Fault] | BaseException
        try:
            outcome = [] if ticket is None else self._collect(ticket)
            jpegs = self._jpegs + self._filler.decodes
            epoch, now = self._plan.epoch, time.perf_counter()
            self._engine.share.finished(epoch, jpegs, self._jpegs, self._started, now)
            if not outcome:
                self._launch_all()
        except BaseException as error:  # noqa: BLE001 (raised in the training loop)
            outcome = error
        self._end(outcome)

    def _launch_all(self) -> None:
        device = self._engine.device
        items = self._hi - self._lo
        device.make_current()
        with self._clock.span("launch", items=items), device.owner.working_on(device.stream):
            device.stream.wait(self._slot.uploaded)
            self._launch()

    def _collect(self, ticket: Ticket) -> list[Fault]:
        """Wait for the pixels; return the faults of images that could not be decoded."""
        engine, faults = self._engine, []
        with self._clock.span("decode", items=self._hi - self._lo):
            outcome = ticket.wait()
        for name, count in outcome.routes.items():
            engine.clock.count(name, count)
        first = 0
        for name, places in self._layout.images.items():
            last = first + places.jpeg.size
            rows, part = self._lo + places.jpeg, outcome.take(first, last)
            faults += bad_jpegs(engine.dataset, self._plan, name, rows, part, self._backend().name)
            first = last
        return faults

    def _launch(self) -> None:
        engine, layout, arena = self._engine, self._layout, self._slot.arena
        kernels, stream = engine.device.launches, engine.device.stream
        for program in engine.programs:
            out = self._output(program)
            if not program.stages:
                rows = layout.rows[program.field]
                engine.device.owner.copy(arena.memory, rows.start, out[self._lo : self._hi])
                continue
            places = layout.launches[program.name]
            for launch, place in zip(engine.launches[program.name], places, strict=True):
                if isinstance(launch, PassLauncher):
                    self._transform(arena, place)
                    continue
                if launch.mean_columns:
                    self._measure(arena, place, launch.mean_columns)
                last = place is places[-1]
                between = slice(place.target, place.target + place.target_bytes)
                target = out[self._lo : self._hi] if last else arena.memory[between]
                kernels.compose(arena.views, place.block, place.start, target, stream)

    def _transform(self, arena: Arena, place: LaunchPlace) -> None:
        device = self._engine.device
        memory = place.source, place.target, place.scratch
        device.launches.transform(arena.views, place.block, place.start, *memory, device.stream)

    def _measure(self, arena: Arena, place: LaunchPlace, columns: tuple[int, ...]) -> None:
        device = self._engine.device
        device.launches.measure(arena.views, place.block, place.start, columns, place.source, device.stream)

    def _output(self, program: Program) -> Any:
        """Return the memory of an output, allocated by the first part that writes to it."""
        if program.name not in self._memory:
            shape = program.stages[-1].memory_shape if program.stages else (program.fused.shape or ())
            size = (len(self._plan), *shape)
            self._memory[program.name] = self._engine.device.empty(size, str(program.fused.dtype))
        return self._memory[program.name]

    def cancel(self) -> None:
        """Cancel the pieces that have not started."""
        for piece in self._pieces:
            piece.cancel()
