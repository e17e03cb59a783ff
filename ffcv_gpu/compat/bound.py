"""A user's operation bound to its place in one output: queried, compiled and ready to be called."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ffcv_gpu.compat.allocation import allocate
from ffcv_gpu.compat.compiler import Compiler, numba_seed, parallel_loops_need_turns, readable_errors
from ffcv_gpu.compat.rows import RowSpec, StorageState, payload_reader, storage_state
from ffcv_gpu.compat.state import State, StateSpec, spec_after, state_of
from ffcv_gpu.device.buffer_pool import BufferPool
from ffcv_gpu.draws import Draws, draw_id
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps import ArrayStep, Source, ValueSpec

__all__ = ["KEPT_BUFFERS", "BoundOperation", "bind"]

#: free buffers that a step keeps, per size: as many as a loader has batches by default, at most 10 in
#: progress and 3 ahead
KEPT_BUFFERS = 13

#: methods that FFCV's own steps have and built-in steps here lack
CODE_OF_BUILT_INS = "generate_code", "declare_state_and_memory", "generate_code_for_shared_state"

#: a Python function, or numba's dispatcher for one
Function = Any


@dataclass(frozen=True)
class Answers:
    """An operation's answers: its functions, the memory it requests, and the spec of its output.

    `fill_shared` is None without shared state; `records` and `storage` are None except for decoders; `seed`
    seeds the generator of compiled functions and is None if they are not compiled.
    """

    code: Function
    with_indices: bool
    fill_shared: Function
    memory: Any
    shared_memory: Any
    after: StateSpec
    records: Any
    storage: StorageState | None
    seed: Function


def bind(operation: Any, source: Source, spec: ValueSpec, draw: int) -> BoundOperation:
    """Return `operation` as a step after a batch of `spec`, cached in the source's memo.

    It is rebuilt whenever the operation declares something different, such as another image size.

    Raises
    ------
    PipelineError
        If the operation cannot be used at this place, or numba cannot compile it. Exceptions from the
        operation's own methods propagate, with a note that names it.
    """
    with named(operation):
        declared = declare(operation, source, spec)
        key = (operation, spec, draw, repr(declared))
        answers = None if key in source.memo else ask(operation, source, spec, *declared)
    if answers is not None:
        bound = BoundOperation(operation, answers, draw)
        if bound.compiled and spec.shape is not None and spec.dtype is not None:
            bound.compile_for(spec)
        bound.take_turns_if_needed()
        source.memo[key] = bound
    found: BoundOperation = source.memo[key]
    return found


def declare(operation: Any, source: Source, spec: ValueSpec) -> tuple[State, Any]:
    """Return the state after `operation` and the memory it requests."""
    operation.accept_field(source.field)
    operation.accept_globals(source.records, payload_reader())
    answer = operation.declare_state_and_memory(state_before(spec))
    if not isinstance(answer, tuple | list) or len(answer) != 2 or not isinstance(answer[0], State):
        raise PipelineError(
            "its declare_state_and_memory must return (State, AllocationQuery), or (State, None), not "
            f"{answer!r}"
        )
    after, memory = answer
    return after, memory


def ask(operation: Any, source: Source, spec: ValueSpec, after: State, memory: Any) -> Answers:
    """Call the protocol's remaining methods, in FFCV's order."""
    shared_memory = operation.declare_shared_memory(state_before(spec))
    code, fill_shared = operation.generate_code(), operation.generate_code_for_shared_state()
    if not callable(code):
        raise PipelineError(f"its generate_code must return a function, not {code!r}")
    with_indices = bool(getattr(code, "with_indices", False))
    if getattr(code, "with_counter", False):
        raise PipelineError(
            "its function has with_counter = True, FFCV-SSL's number of the batch in the epoch, which is "
            "not supported: numbers drawn from it repeat in every epoch and change after a resume; use "
            "with_indices = True, or np.random, which is seeded for each batch"
        )
    out_spec = spec_after(after, spec)
    for query in (memory, shared_memory):
        allocate(query, 0, BufferPool(keep=0))  # raises if that is not a query
    if after.jit_mode:
        code = Compiler.compile(code)
        fill_shared = None if fill_shared is None else Compiler.compile(fill_shared)
    decodes = isinstance(spec, RowSpec)
    return Answers(
        code,
        with_indices,
        fill_shared,
        memory,
        shared_memory,
        out_spec,
        source.records if decodes else None,
        storage_state(source) if decodes else None,
        numba_seed() if after.jit_mode and Compiler.is_enabled else None,
    )


def state_before(spec: ValueSpec) -> State:
    """Return the state passed to an operation; for a decoder, one of unknown shape."""
    state = state_of(spec)
    return State(True, state.device, None, np.dtype("u1")) if isinstance(spec, RowSpec) else state


@contextlib.contextmanager
def named(operation: Any) -> Iterator[None]:
    """Let errors of the operation's own methods name it; State's assertions become `PipelineError`."""
    try:
        yield
    except PipelineError as error:
        raise PipelineError(f"{operation!r}: {error}") from error
    except AssertionError as error:
        raise PipelineError(f"{operation!r} cannot be used here: {error}") from error
    except BaseException as error:
        if isinstance(error, AttributeError) and error.name in CODE_OF_BUILT_INS:
            raise PipelineError(
                f"{operation!r}: {error}: a built-in step only describes what to do, it has none of FFCV's"
                " code; put it into the pipeline by itself, or write its code out"
            ) from error
        error.add_note(f"raised by operation {operation!r} while the pipeline was built")
        raise


class BoundOperation(ArrayStep):
    """An operation with its answers, in one output. Called once per batch."""

    def __init__(self, operation: Any, answers: Answers, draw: int) -> None:
        self.operation = operation
        # a compiled function has no state but numba's generators, which each thread has and each batch seeds
        self.compiled = self.any_thread = answers.seed is not None
        self.takes_ragged = not self.compiled
        self._answers = answers
        self._draw = draw
        self._pool = BufferPool(KEPT_BUFFERS)
        how = "compiled by numba" if self.compiled else "uncompiled Python"
        self.why = (
            f"FFCV-style operation, {how}: slow, because one CPU thread processes a whole batch after the "
            "fused launch, in separate memory; faster, also on a GPU: replace it by a torch.nn.Module after "
            "ToTensor(), whose forward(self, batch) returns the new batch"
        )

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return the spec that the operation declared."""
        return self._answers.after

    def apply_samples(self, batch: Any, spec: ValueSpec, draws: Draws) -> Any:
        """Call the operation's functions, with newly allocated memory."""
        answers = self._answers
        arguments, shared = self._arguments(batch, draws.samples.copy())
        with self._readable_errors():
            if answers.seed is not None:
                of_batch = draw_id(draws.seed, draws.epoch, self._draw, draws.samples[0])
                answers.seed(np.uint32(of_batch))
            if answers.fill_shared is not None:
                answers.fill_shared(shared)
            result = answers.code(*arguments)
        if result is None:
            raise PipelineError(f"{self!r} returned None; its function must return the new batch")
        return result

    def compile_for(self, spec: ValueSpec) -> None:
        """Compile now, for batches of `spec`, so that mistakes show when the Loader is created."""
        import numba

        typeof: Any = numba.typeof  # untyped

        batch = np.zeros((1, *(spec.shape or ())), spec.dtype)
        arguments, shared = self._arguments(batch, np.zeros(1, np.int64))
        try:
            with self._readable_errors():
                if self._answers.fill_shared is not None:
                    self._answers.fill_shared.compile((typeof(shared),))
                self._answers.code.compile(tuple(map(typeof, arguments)))
        except NotImplementedError as error:  # what numba raises for arrays of float16
            raise PipelineError(
                f"{self!r}: numba cannot compile functions of {error} arrays; put it before the step that"
                " makes them, use float32, or return a State with jit_mode=False to run it as Python"
            ) from None

    def take_turns_if_needed(self) -> None:
        """Work batch after batch if the user's own parallel loops would abort the process otherwise."""
        if self.compiled and parallel_loops_need_turns():
            self.any_thread = False
            self.why += (
                "; batch after batch, because numba's threading layer for parallel loops is workqueue, which"
                " is not thread-safe: pip install tbb"
            )

    def _arguments(self, batch: Any, indices: Any) -> tuple[list[Any], Any]:
        """Return the arguments of the operation's function, and its shared memory."""
        answers, count = self._answers, len(indices)
        memory, shared = (allocate(q, count, self._pool) for q in (answers.memory, answers.shared_memory))
        if answers.storage is not None:
            arguments = [indices, memory, answers.records, answers.storage]
        else:
            arguments = [batch, memory]
            arguments += [indices] if answers.with_indices else []
        return [*arguments, *([shared] if answers.fill_shared is not None else [])], shared

    def _readable_errors(self) -> contextlib.AbstractContextManager[None]:
        if not self.compiled:
            return contextlib.nullcontext()
        way_out = "use only what numba supports, or return a State with jit_mode=False to run it as Python"
        return readable_errors(self.operation, way_out)

    def __repr__(self) -> str:
        return repr(self.operation)
