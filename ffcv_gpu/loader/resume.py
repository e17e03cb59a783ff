"""``state_dict`` and ``load_state_dict``: the position in an epoch, as a few plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.format import crc32c
from ffcv_gpu.loader.traversal import is_shared, order_name
from ffcv_gpu.pipeline.program import Program

__all__ = ["checked_state", "describe", "differing", "save"]

VERSION = 1
#: maximum length of a pipeline's description: a torch module prints all its layers
MAX_DESCRIPTION = 500

KEYS = frozenset({"version", "seed", "epoch", "done", "dataset", "samples", "order", "ranks", "pipelines"})


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
