"""The position of a `Loader` in its epochs: which one comes next, and the state that resumes one."""

from __future__ import annotations

import logging
import os
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from ffcv_gpu.draws import MAX_EPOCH, MAX_SAMPLE, MAX_SEED
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.format import crc32c
from ffcv_gpu.loader.course import Progress
from ffcv_gpu.loader.iterator import EpochIterator
from ffcv_gpu.loader.traversal import course_of, is_shared, order_name
from ffcv_gpu.pipeline.program import Program
from ffcv_gpu.steps import whole

__all__ = ["Resumable"]

logger = logging.getLogger("ffcv_gpu.loader.loader")

VERSION = 1
#: maximum length of a pipeline's description: a torch module prints all its layers
MAX_DESCRIPTION = 500

KEYS = frozenset({"version", "seed", "epoch", "done", "dataset", "samples", "order", "ranks", "pipelines"})


def _warn_of_copies() -> None:
    """Warn in a worker of torch's `DataLoader`: those forked beside it run the same epoch."""
    found = sys.modules.get("torch.utils.data")
    worker = None if found is None else found.get_worker_info()
    if worker is not None and worker.num_workers > 1:
        logger.warning(
            "each of the %d workers of a torch DataLoader loads the whole epoch, so every batch comes %d"
            " times: iterate the Loader itself, or give the DataLoader num_workers=0",
            worker.num_workers, worker.num_workers,
        )  # fmt: skip


class Resumable:
    """The part of `Loader` that knows its epochs."""

    seed: int
    _args: dict[str, Any]
    _programs: tuple[Program, ...]
    _starting: threading.RLock
    _running: weakref.WeakSet[EpochIterator]

    def _begin_at_the_first_epoch(self) -> None:
        self._next_epoch = 0
        self._done = 0  # positions of the next epoch that are done, according to `load_state_dict`
        self._saved_pipelines: dict[str, str] | None = None
        self._progress: Progress | None = None
        self._made_in = os.getpid()

    @property
    def next_epoch(self) -> int:
        """The number of the epoch that the next ``iter()`` runs; assigning it does what `set_epoch` does."""
        return self._next_epoch

    @next_epoch.setter
    def next_epoch(self, epoch: int) -> None:
        self.set_epoch(epoch)

    def _coming_epoch(self) -> Progress:
        if os.getpid() != self._made_in:
            _warn_of_copies()
        return Progress(self.next_epoch, course_of(self, self.next_epoch, self._done))

    def _begun(self, iterator: EpochIterator, progress: Progress) -> EpochIterator:
        with self._starting:
            self._running.add(iterator)
            self._progress, self._done, self._next_epoch = progress, 0, progress.epoch + 1
        return iterator

    def set_epoch(self, epoch: int) -> None:
        """Make the next ``iter()`` run this epoch, from its start (or from where it is to be resumed)."""
        epoch = whole(epoch, "set_epoch: epoch", 0, MAX_EPOCH)
        if epoch != self._next_epoch:
            self._done = 0
        self._next_epoch, self._progress = epoch, None

    def _forget_place(self) -> None:
        """Note that a position in the current epoch means nothing in the next one's order."""
        self._done, self._progress = 0, None

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the current epoch: a small dict of plain values, the same on every rank.

        The batches you received count as done, even if you left the epoch early; batches prepared ahead do
        not. Of overlapping epochs, the last one started counts. At the end of an epoch, and once other
        `indices` or another `seed` were assigned, the position is the start of the next one.
        """
        place = (self.next_epoch, self._done) if self._progress is None else self._progress.place
        return save(self, place, describe(self._programs))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next ``iter()`` resume epoch ``state["epoch"]`` where `state` was saved.

        Batch size, number of ranks, workers and device may differ: the rest of the epoch is split anew.
        Samples, order and augmentation are the same as without the interruption. Unless the loader was
        created with ``seed=``, it adopts the state's seed.

        Raises
        ------
        PipelineError
            If `state` is not a saved state, or was saved with another file, other indices, another order or
            another seed.
        """
        state = checked_state(self, state, self._args["seed"] is not None)
        self.seed = state["seed"]
        self._next_epoch, self._done, self._progress = state["epoch"], state["done"], None
        self._saved_pipelines = dict(state["pipelines"])

    def _compare_with_saved(self) -> None:
        """Warn if a resumed epoch continues with other pipelines than it started with."""
        saved, self._saved_pipelines = self._saved_pipelines, None
        if saved is None or not self._done:
            return
        now = describe(self._programs)
        for name in differing(saved, now):
            logger.warning(
                "epoch %d is resumed with another pipeline for %r: %s; it was started with: %s",
                *(self.next_epoch, name, now.get(name, "none"), saved.get(name, "none")),
            )


def save(loader: Any, place: tuple[int, int], pipelines: Mapping[str, str]) -> dict[str, Any]:
    """Return the state of a loader at `place`: (epoch, positions done in its order)."""
    epoch, done = place
    return {
        "version": VERSION,
        "seed": loader.seed,
        "epoch": epoch,
        "done": done,
        **identity(loader),
        "ranks": loader.world_size,
        "pipelines": dict(pipelines),
    }


def identity(loader: Any) -> dict[str, Any]:
    """Return what must match for a state to be valid: file, rows and order."""
    rows = f"{crc32c(loader.indices.tobytes()):08x}-{loader.indices.size}"
    return {
        "dataset": loader.dataset.fingerprint(),
        "samples": rows,
        "order": order_name(loader.traversal_order),
    }


def describe(programs: Sequence[Program]) -> dict[str, str]:
    """Return a description of each output: its steps with their settings, whatever the device."""
    texts = {}
    for program in programs:
        text = ", ".join(step for step, _ in program.notes if not step.startswith("ToDevice("))
        texts[program.name] = text if len(text) <= MAX_DESCRIPTION else f"{text[:MAX_DESCRIPTION]}..."
    return texts


def differing(saved: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names of outputs whose description differs from the saved one."""
    return [name for name in {**saved, **now} if saved.get(name) != now.get(name)]


def checked_state(loader: Any, state: Mapping[str, Any], seed_given: bool) -> Mapping[str, Any]:
    """Return `state` if `loader` can resume from it.

    Raises
    ------
    PipelineError
        If it is not a saved state, or was saved with another file, other rows, another order or seed.
    """
    if not isinstance(state, Mapping) or KEYS - state.keys() or state["version"] != VERSION:
        raise PipelineError(f"load_state_dict: not a state of Loader.state_dict(), version {VERSION}")
    for key, most in {"seed": MAX_SEED, "epoch": MAX_EPOCH, "done": MAX_SAMPLE}.items():
        whole(state[key], f"load_state_dict: invalid state: {key}", 0, most)
    what = {"dataset": "another file", "samples": "other indices", "order": "another order"}
    for key, value in identity(loader).items():
        if state[key] != value:
            raise PipelineError(
                f"load_state_dict: the state was saved with {what[key]} ({key} {state[key]!r}) than this "
                f"loader of {loader.dataset.path} has ({value!r})"
            )
    if seed_given and state["seed"] != loader.seed:
        raise PipelineError(
            f"load_state_dict: the state was saved with seed {state['seed']}, and this Loader was created "
            f"with seed={loader.seed}; pass seed={state['seed']}, or omit it"
        )
    own = not is_shared(loader.traversal_order)
    if own and state["done"] and state["ranks"] != loader.world_size:
        raise PipelineError(
            f"load_state_dict: the state was saved by {state['ranks']} ranks in the middle of an epoch, and "
            f"a custom order cannot be split again among {loader.world_size}; use {state['ranks']} ranks"
        )
    if not 0 <= state["done"] <= loader.indices.size and not own:
        raise PipelineError(
            f"load_state_dict: invalid state: {state['done']} of {loader.indices.size} samples done"
        )
    return state
