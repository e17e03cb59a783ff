"""Operation: FFCV's base class for transforms and decoders of one's own."""

from __future__ import annotations

import inspect
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from ffcv_gpu.compat.allocation import Allocation, AllocationQuery
from ffcv_gpu.compat.bound import BoundOperation, bind
from ffcv_gpu.compat.rows import RowNumbers
from ffcv_gpu.compat.state import State
from ffcv_gpu.steps import Source, Step, ValueSpec

__all__ = ["Operation"]


class Operation(Step, ABC):
    """A step of one's own, written against FFCV's protocol. Subclasses need not call ``__init__``.

    A transform's function is ``f(batch, memory)`` and returns the new batch: an array, or behind
    `ToTensor` a tensor. `memory` is what `declare_state_and_memory` asked for, (N, \\*shape) of zeros,
    new for each batch. Attributes set on the function say more:

    ``with_indices = True``
        ``f(batch, memory, indices)``; `indices` are the samples' rows of the file, int64 (N,).
    ``is_parallel = True``
        Accepted; the loop runs in one thread all the same (see `Compiler`).

    With `generate_code_for_shared_state`, the function has one more argument at the end: memory that was
    handed to that code first, once a batch. The same object in two pipelines finds the same numbers in it.

    A function is compiled by numba if the `State` given back has `jit_mode`. numba's ``np.random`` is
    then seeded anew for each batch, from the loader's seed, the epoch and the first sample: batches
    repeat. Uncompiled functions draw from where they like; key it by `indices` to make that repeat too.

    It runs on the CPU, in one thread, behind the fused launch; steps on images behind it begin launches of
    their own, in the same thread. ``loader.explain()`` says so; a ``torch.nn.Module`` in its place can run on
    the GPU.

    A *decoder*'s function is ``f(indices, memory, records, storage)``; it stands first in its pipeline if
    the field's `get_decoder_class` names it. `records` is the field's metadata column; payloads are read
    by ``self.memory_read(pointer, storage)``, uint8.

    Attributes
    ----------
    field, metadata, memory_read
        Set before anything is asked: the Field, its records of the whole file, and the reader of payloads.
    """

    field: Any
    metadata: Any
    memory_read: Any
    needs_host = True

    def accept_field(self, field: Any) -> None:
        """Take the Field whose values will come."""
        self.field = field

    def accept_globals(self, metadata: Any, memory_read: Any) -> None:
        """Take the field's records of the whole file, and the function that reads payloads."""
        self.metadata = metadata
        self.memory_read = memory_read

    @abstractmethod
    def generate_code(self) -> Callable[..., Any]:
        """Return the function; asked once after `declare_state_and_memory`."""

    @abstractmethod
    def declare_state_and_memory(self, previous_state: State) -> tuple[State, Allocation]:
        """Return what comes out, given what comes in, and the memory that is needed for it."""

    def declare_shared_memory(self, previous_state: State) -> AllocationQuery | None:
        """Return the memory of the shared state."""
        return None

    def generate_code_for_shared_state(self) -> Callable[..., Any] | None:
        """Return the function that fills the shared state once a batch."""
        return None

    def for_output(self, source: Source, spec: ValueSpec, draw: int) -> BoundOperation:
        """Return the step that runs this operation in one output; asks the protocol's questions once."""
        return bind(self, source, spec, draw)

    def as_decoder(self) -> tuple[RowNumbers, Step]:
        """Return the head and the step that do this operation's work at the start of a pipeline."""
        return RowNumbers(), self

    def __repr__(self) -> str:
        """Print the constructor's arguments as far as they were kept under their names."""
        names = [name for name in inspect.signature(type(self).__init__).parameters if name in vars(self)]
        arguments = ", ".join(f"{name}={reprlib.repr(vars(self)[name])}" for name in names)
        return f"{type(self).__name__}({arguments})"
