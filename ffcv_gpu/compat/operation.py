"""Operation: FFCV's base class for custom transforms and decoders."""

from __future__ import annotations

import inspect
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any

from ffcv_gpu.compat.allocation import Allocation, AllocationQuery
from ffcv_gpu.compat.bound import BoundOperation, bind
from ffcv_gpu.compat.rows import RowNumbers
from ffcv_gpu.compat.state import State
from ffcv_gpu.steps import Source, Step, ValueSpec

__all__ = ["Operation"]


class Operation(Step, ABC):
    """A custom step written against FFCV's protocol. Subclasses need not call ``__init__``.

    For `isinstance`, every other step is an `Operation`, too, although it has none of these methods.

    A transform's function is ``f(batch, memory)`` and returns the new batch: an array, or a tensor after
    `ToTensor`. `memory` is the memory requested by `declare_state_and_memory`: zeros of shape (N, \\*shape),
    which no other batch has. Attributes of the function:

    ``with_indices = True``
        It is called as ``f(batch, memory, indices)``; `indices` are rows of the file, int64 (N,).
    ``is_parallel = True``
        Accepted, but no loop is split among threads (see `Compiler`).

    With `generate_code_for_shared_state`, the function takes one more argument at the end: memory that the
    shared-state function fills first, once per batch. A compiled operation object that is used in two
    pipelines draws the same numbers in both.

    numba compiles the function if the returned `State` has `jit_mode`. Its ``np.random`` and ``random`` are
    numba's then, seeded for each batch, from the loader's seed, the epoch and the first sample, so that
    batches are reproducible.
    Uncompiled functions use a generator of their choice; key it by `indices` to make them reproducible.

    The function runs on the CPU, after the fused launch; image steps after it use separate launches.
    Compiled functions run in the loader's workers: each batch in one thread, several batches at once. From
    the first uncompiled one on, a pipeline's steps run in one thread, batch after batch in their order.
    ``loader.explain()`` says so; a ``torch.nn.Module`` in its place can run on the GPU.

    A *decoder*'s function is ``f(indices, memory, records, storage)``; it comes first in its pipeline if
    the field's `get_decoder_class` returns it. `records` is the field's metadata column;
    ``self.memory_read(pointer, storage)`` returns a payload, uint8 (n,).

    Attributes
    ----------
    field, metadata, memory_read
        The Field, its records for the whole file, and the function that reads payloads; set before the
        other methods are called.
    """

    field: Any
    metadata: Any
    memory_read: Any
    needs_host = True

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        """Let every step count as an `Operation`, as in FFCV: scripts tell steps from modules by that."""
        return True if cls is Operation and issubclass(other, Step) else NotImplemented

    def accept_field(self, field: Any) -> None:
        """Store the Field whose values the operation receives."""
        self.field = field

    def accept_globals(self, metadata: Any, memory_read: Any) -> None:
        """Store the field's records for the whole file, and the function that reads payloads."""
        self.metadata = metadata
        self.memory_read = memory_read

    @abstractmethod
    def generate_code(self) -> Callable[..., Any]:
        """Return the function; called once, after `declare_state_and_memory`."""

    @abstractmethod
    def declare_state_and_memory(self, previous_state: State) -> tuple[State, Allocation]:
        """Return the state of the output, given that of the input, and the memory to allocate per batch."""

    def declare_shared_memory(self, previous_state: State) -> AllocationQuery | None:
        """Return the query for the shared state's memory, None for none."""
        return None

    def generate_code_for_shared_state(self) -> Callable[..., Any] | None:
        """Return the function that fills the shared state once per batch, None without shared state."""
        return None

    def draw_key(self) -> Hashable:
        """Return this object: an attribute `seed` is the operation's own, and of any kind."""
        return self

    def for_output(self, source: Source, spec: ValueSpec, draw: int) -> BoundOperation:
        """Return the step that runs this operation in one output; calls the protocol's methods once."""
        return bind(self, source, spec, draw)

    def as_decoder(self) -> tuple[RowNumbers, Step]:
        """Return the decoder and the step that run this operation at the start of a pipeline."""
        return RowNumbers(), self

    def __repr__(self) -> str:
        """Show the constructor's arguments that are stored under their own names."""
        names = [name for name in inspect.signature(type(self).__init__).parameters if name in vars(self)]
        arguments = ", ".join(f"{name}={reprlib.repr(vars(self)[name])}" for name in names)
        return f"{type(self).__name__}({arguments})"
