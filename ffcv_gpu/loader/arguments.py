"""Checks of the Loader's plain arguments: an invalid one raises when the Loader is created."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ffcv_gpu.draws import MAX_SEED
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.sampling import distributed_env
from ffcv_gpu.steps import IntArray, number, whole

__all__ = [
    "check_flags",
    "checked_cache",
    "checked_indices",
    "checked_mapping",
    "checked_memory",
    "checked_names",
    "checked_pipelines",
    "choose_ranks",
    "choose_seed",
]

logger = logging.getLogger("ffcv_gpu.loader.loader")


def check_flags(**flags: Any) -> None:
    """Raise `PipelineError` if one is a text, as command lines give them: "False" would count as true."""
    for name, value in flags.items():
        if isinstance(value, str):
            raise PipelineError(f"{name} must be True or False, not the text {value!r}")


def checked_names(fname: Any) -> str | list[str]:
    """Return the path or URL of the file, or of several; raise `PipelineError` if it is neither."""
    if isinstance(fname, list | tuple):
        if not fname:
            raise PipelineError("fname is an empty list: no file was found; pass at least one path")
        return [_checked_name(name) for name in fname]
    return _checked_name(fname)


def _checked_name(name: Any) -> str:
    try:
        return os.fsdecode(os.fspath(name))
    except TypeError:
        kind = type(name).__name__
        raise PipelineError(
            f"fname must be the path or the URL of a .beton file, or a list of several, not a {kind}"
        ) from None


def checked_mapping(given: Any, what: str) -> dict[str, Any]:
    """Return a copy of the argument `what`, empty for None; raise `PipelineError` if it is no mapping."""
    if given is not None and not isinstance(given, Mapping):
        raise PipelineError(f"{what} must be a mapping of names, not {given!r}")
    return dict(given or {})


def checked_memory(gigabytes: float | None) -> float | None:
    """Return `gigabytes`; raise `PipelineError` unless it is None or a positive number."""
    if gigabytes is None:
        return None
    if not (found := number(gigabytes, "gpu_memory_gb", 0)):
        raise PipelineError("gpu_memory_gb must be a positive number of 10**9 bytes, not 0")
    return found


def checked_cache(gigabytes: float | None, os_cache: bool) -> float | None:
    """Return `gigabytes`; raise `PipelineError` unless it is None or a number >= 0."""
    if gigabytes is None:
        return None
    if os_cache:
        logger.warning("cache_gb has no effect with os_cache=True, which uses the system's page cache")
    return number(gigabytes, "cache_gb", 0)


def checked_pipelines(pipelines: Any, fields: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a copy of `pipelines` in which each output named in `fields` starts at its field.

    Raises
    ------
    PipelineError
        If `pipelines` is neither None nor a mapping, or lacks an output that `fields` names.
    """
    if pipelines is not None and not isinstance(pipelines, Mapping):
        raise PipelineError(
            f"pipelines must be a mapping, {{'image': [decoder, ...], ...}}, not a {type(pipelines).__name__}"
        )
    made = dict(pipelines or {})
    for name, field in (fields or {}).items():
        if name not in made:
            raise PipelineError(f"custom_field_mapper: there is no pipeline {name!r}")
        if name != field and isinstance(made[name], list | tuple):
            made[name] = PipelineSpec(field, transforms=made[name])
    return made


def choose_ranks(distributed: bool, rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return (rank, world_size): as given, else from the environment if `distributed`, else (0, 1).

    Raises
    ------
    PipelineError
        If only one is given, or they are invalid.
    """
    if (rank is None) != (world_size is None):
        raise PipelineError("rank and world_size belong together: give both, or neither")
    if rank is None or world_size is None:
        return distributed_env() if distributed else (0, 1)
    if int(rank) != rank or int(world_size) != world_size or not 0 <= rank < world_size:
        raise PipelineError(
            f"rank={rank!r} and world_size={world_size!r} must be whole numbers, 0 <= rank < world_size"
        )
    return int(rank), int(world_size)


def choose_seed(seed: int | None, distributed: bool) -> int:
    """Return the seed; None, as in FFCV: from numpy's global generator, or 0 if distributed."""
    if seed is not None:
        return whole(seed, "seed", 0, MAX_SEED)
    if distributed:
        logger.warning("no seed given: all ranks use 0, so that they agree on the order; pass seed=...")
        return 0
    return int(np.random.randint(0, 2**31 - 1))  # noqa: NPY002 (seeded by np.random.seed, as in FFCV)


def checked_indices(indices: Any, num_samples: int, path: str) -> IntArray:
    """Return the rows to use as int64; raise `PipelineError` if one is not in the file."""
    if indices is None:
        return np.arange(num_samples, dtype=np.int64)
    rows = np.asarray(indices)
    if rows.ndim != 1 or rows.size == 0 or rows.dtype.kind not in "iu":
        mask = "; np.flatnonzero(mask) converts a mask" if rows.dtype == bool else ""
        raise PipelineError(f"indices must be a non-empty list of whole numbers: rows of the file{mask}")
    outside = (rows < 0) | (rows >= num_samples)
    if outside.any():
        raise PipelineError(
            f"indices: row {rows[outside][0]} is not in {path}, whose {num_samples} samples are rows 0 to "
            f"{num_samples - 1}"
        )
    return rows.astype(np.int64)
