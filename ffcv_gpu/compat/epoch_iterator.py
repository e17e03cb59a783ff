"""FFCV's EpochIterator, for users' Loader subclasses that create one in ``__iter__``.

Such loaders choose the rows of each batch, record them, or process finished batches. The batches are still
produced by this library's engine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from queue import Full, Queue
from threading import Event, Thread
from typing import Any

import numpy as np

from ffcv_gpu.compat.allocation import gpu_there
from ffcv_gpu.compat.utils import chunks

__all__ = ["QUASIRANDOM_ERROR_MSG", "EpochIterator", "NoGraph", "select_buffer"]

QUASIRANDOM_ERROR_MSG = "Not enough memory; order=OrderOption.QUASI_RANDOM needs less"


class EpochIterator(Thread):
    """The batches of one epoch, put into `output_queue` by this thread.

    Subclasses may override what they override in FFCV: `run_pipeline`, ``__next__``, or ``__init__``, which
    must then set the attributes below and call ``start()``. ``Loader.__iter__`` uses a different iterator,
    without the extra thread.

    Parameters
    ----------
    loader : Loader
    order : sequence of int
        Rows of the file, all among the loader's `indices`. Augmentations are those of epoch
        ``loader.next_epoch - 1``, because FFCV's loaders increment it before they create the iterator.

    Attributes
    ----------
    iter_ixes : iterator of sequences of int
        The rows of each batch; batches may differ in size.
    output_queue : Queue
        Items ``(slot, batch)``, then None. If a batch failed, unpacking its item raises the exception.
    current_stream, cuda_streams
        The creating thread's CUDA stream, on which batches are ready, and a list of the same stream. None
        without a GPU.
    terminate_event : Event
        Stops the thread; see `close`.
    """

    def __init__(self, loader: Any, order: Sequence[int]) -> None:
        super().__init__(daemon=True)
        self.loader, self.order = loader, order
        self.metadata = loader.reader.metadata
        self.iter_ixes: Iterator[Any] = iter(list(chunks(order, loader.batch_size)))
        self.current_batch_slot, self.closed = 0, False
        self.output_queue: Queue[Any] = Queue(loader.batches_ahead)
        self.terminate_event = Event()
        self.current_stream = current_stream()
        self.cuda_streams = [self.current_stream] * (loader.batches_ahead + 2)
        self.start()

    def run(self) -> None:
        """Produce the batches; runs in the thread."""
        try:
            batches = [np.asarray(rows) for rows in self.iter_ixes]
            made = contextlib.closing(self.loader._epoch_over(batches))
            with on_stream(getattr(self, "current_stream", None)), made as self._made:
                for number, rows in enumerate(batches):
                    slot = self.current_batch_slot
                    self.current_batch_slot = (slot + 1) % (self.loader.batches_ahead + 2)
                    self._put((slot, self.run_pipeline(number, rows, slot, None)))
            self._put(None)
        except Ended:
            pass
        except BaseException as error:  # noqa: BLE001 (raised again in the consumer)
            with contextlib.suppress(Ended):
                self._put(Failure(error))

    def _put(self, item: Any) -> None:
        while not self.terminate_event.is_set():
            with contextlib.suppress(Full):
                return self.output_queue.put(item, timeout=0.5)
        raise Ended

    def run_pipeline(self, b_ix: int, batch_indices: Any, batch_slot: int, cuda_event: Any) -> Any:
        """Return batch number `b_ix`, a tuple; `batch_indices` are its rows of the file, int64 (n,)."""
        return next(self._made)

    def __next__(self) -> Any:
        if self.closed:
            raise StopIteration
        result = self.output_queue.get()
        if result is None:
            self.close()
            raise StopIteration
        _, batch = result
        return batch

    def __iter__(self) -> EpochIterator:
        return self

    def close(self) -> None:
        """Stop the thread; needed if the epoch is not consumed to its end. Ends a wait in another thread."""
        self.closed = True
        self.terminate_event.set()
        with contextlib.suppress(Full):
            self.output_queue.put_nowait(None)


class Ended(Exception):
    """The consumer has closed the epoch."""


class Failure:
    """The queue item of a batch that failed; unpacking it raises the exception."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __iter__(self) -> Iterator[Any]:
        raise self.error


class NoGraph:
    """Stands in for FFCV's graph of generated code, which does not exist here."""

    def allocate_memory(self, batch_size: int, batches_ahead: int) -> Mapping[str, Mapping[Any, Any]]:
        """Return empty mappings: memory is allocated per batch."""
        return {"operation": {}, "shared": {}}

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"this loader's graph has no {name!r}, because no code is generated; loader.code and"
            " loader.explain() describe what runs, loader.pipeline_specs what was requested"
        )


def select_buffer(buffer: Any, batch_slot: int, count: int) -> Any:
    """Return the part of a buffer from `allocate_query`, or of a tuple of them, for one batch of `count`."""
    if buffer is None:
        return None
    if isinstance(buffer, tuple):
        return tuple(select_buffer(one, batch_slot, count) for one in buffer)
    return buffer[batch_slot][:count]


def current_stream() -> Any:
    """Return this thread's current CUDA stream, None without a GPU."""
    if not gpu_there():
        return None
    import torch

    return torch.cuda.current_stream()


def on_stream(stream: Any) -> contextlib.AbstractContextManager[Any]:
    """Return a context manager that makes `stream` current in this thread."""
    if stream is None:
        return contextlib.nullcontext()
    import torch

    return torch.cuda.stream(stream)
