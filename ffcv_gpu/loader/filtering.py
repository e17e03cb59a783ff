"""`Loader.filter`: which samples pass a condition on one of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.sampling import OrderOption
from ffcv_gpu.steps import IntArray

__all__ = ["probing", "rows_passing"]


def probing(arguments: Mapping[str, Any], fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the arguments of a loader whose only output is `name`, in the order of `indices`.

    A dropped field (None) gets its default decoder and ToTensor.

    Raises
    ------
    PipelineError
        If there is no output or field of that name, or it continues another pipeline.
    """
    given = dict(arguments["pipelines"] or {})
    if name not in given and name not in fields:
        known = ", ".join(map(repr, dict.fromkeys((*fields, *given))))
        raise PipelineError(f"filter: there is no output {name!r}; choose one of {known}")
    wanted = given.get(name)
    if isinstance(wanted, PipelineSpec) and not isinstance(wanted.source, str):
        raise PipelineError(
            f"filter: output {name!r} continues another pipeline; filter by an output that starts at a field"
        )
    pipelines = {other: None for other in fields if other != name}
    pipelines |= {name: wanted} if wanted is not None else {}
    whole = {"order": OrderOption.SEQUENTIAL, "distributed": False, "drop_last": False, "order_kwargs": None}
    whole |= {"rank": None, "world_size": None}
    if arguments["jpeg_backend"] == "nvjpeg":  # the default on a GPU, and an error without one
        whole["jpeg_backend"] = None
    return {**arguments, **whole, "pipelines": pipelines}


def rows_passing(probe: Any, condition: Callable[[Any], Any]) -> IntArray:
    """Return the rows of the file, int64 (n,), whose value passes `condition`; `probe` loads the values.

    Raises
    ------
    PipelineError
        If none does: a Loader needs at least one sample.
    """
    passes = np.array([bool(condition(value)) for (batch,) in probe for value in batch], dtype=bool)
    # A bad sample was replaced by another one, whose value says nothing about it.
    passes &= ~np.isin(probe.indices, probe._policy.skipped_rows())
    rows: IntArray = probe.indices[passes]
    if rows.size == 0:
        raise PipelineError(f"filter: none of the {len(passes)} samples passes the condition")
    return rows
