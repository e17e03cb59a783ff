"""FFCV's EpochIterator, for loaders of one's own that make one in their ``__iter__``.

Such a loader chooses the rows itself, looks at each batch's, or does something to each batch. What makes the
batches is this library's engine all the same.
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
    """The batches of one epoch, made in the order of `order` by a thread that waits in `output_queue`.

    Subclasses override what FFCV's do: `run_pipeline`, ``__next__``, or ``__init__`` (which then sets the
    attributes below and calls ``start()``). ``Loader.__iter__`` itself gives a leaner iterator.

    Parameters
    ----------
    loader : Loader
    order : sequence of int
        Rows of the file, among the loader's `indices`. Augmentations are those of epoch
        ``loader.next_epoch - 1``: FFCV's loaders count before they begin.

    Attributes
    ----------
    iter_ixes : iterator of sequences of int
        The rows of each batch, of any sizes.
    output_queue : Queue
        Items ``(slot, batch)``, at the end None. An exception comes out where an item is taken apart.
    current_stream, cuda_streams
        The stream of the thread that made this, and the same in a list: batches are ready on it. None on the
        CPU.
    terminate_event : Event
        Ends the thread; see `close`.
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
        """Make the batches; the thread's own."""
        try:
            batches = [np.asarray(rows) for rows in self.iter_ixes]
            with on_stream(getattr(self, "current_stream", None)):
                self._made = self.loader._epoch_over(batches)
                for number, rows in enumerate(batches):
                    slot = self.current_batch_slot
                    self.current_batch_slot = (slot + 1) % (self.loader.batches_ahead + 2)
                    self._put((slot, self.run_pipeline(number, rows, slot, None)))
            self._put(None)
        except Ended:
            self._made.close()
        except BaseException as error:  # noqa: BLE001 (it belongs to who takes the batches)
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
        """Let the thread end; for an epoch that is left early."""
        self.closed = True
        self.terminate_event.set()


class Ended(Exception):
    """Nobody wants more batches."""


class Failure:
    """Stands in the queue for a batch that could not be made."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __iter__(self) -> Iterator[Any]:
        raise self.error


class NoGraph:
    """What scripts ask of FFCV's graph of generated code, which is not here: memory for batches."""

    def allocate_memory(self, batch_size: int, batches_ahead: int) -> Mapping[str, Mapping[Any, Any]]:
        """Return no memory: each batch gets its own when it is made."""
        return {"operation": {}, "shared": {}}

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"this loader's graph has no {name!r}, for no code is generated; loader.code and loader.explain()"
            " tell what is done, loader.pipeline_specs what was asked for"
        )


def select_buffer(buffer: Any, batch_slot: int, count: int) -> Any:
    """Return the memory of one batch of `count` samples out of what `allocate_query` gives, or of a tuple."""
    if buffer is None:
        return None
    if isinstance(buffer, tuple):
        return tuple(select_buffer(one, batch_slot, count) for one in buffer)
    return buffer[batch_slot][:count]


def current_stream() -> Any:
    """Return torch's CUDA stream of this thread; None without a GPU."""
    if not gpu_there():
        return None
    import torch

    return torch.cuda.current_stream()


def on_stream(stream: Any) -> contextlib.AbstractContextManager[Any]:
    """Return what makes `stream` this thread's, in a with block."""
    if stream is None:
        return contextlib.nullcontext()
    import torch

    return torch.cuda.stream(stream)
