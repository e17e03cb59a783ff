"""What files must have in common to be one dataset, whether they are merged or read together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.format import FieldDescriptor

__all__ = ["agreed_class_names", "check_same_fields"]


def check_same_fields(
    path: str, found: Sequence[FieldDescriptor], other: str, fields: Sequence[FieldDescriptor]
) -> None:
    """Raise `PipelineError` if the fields `found` in the file at `path` are not those of `other`."""
    if tuple(found) == tuple(fields):
        return
    ours, theirs = (
        ", ".join(f"{item.name} (type {item.type_id})" for item in items) for items in (found, fields)
    )
    differ = (
        f"{ours}; {theirs}"
        if ours != theirs
        else "in the dtype or shape of an array, or the arguments of a field"
    )
    raise PipelineError(f"{path} and {other} cannot be joined, their fields differ: {differ}")


def agreed_class_names(infos: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Return the class names that all parts with class names share; `PipelineError` if they differ."""
    found = [list(info["class_names"]) for info in infos if info.get("class_names") is not None]
    for names in found[1:]:
        if names == found[0]:
            continue
        pairs = zip(found[0], names, strict=False)
        differ = [f"class {k} is {a!r} and {b!r}" for k, (a, b) in enumerate(pairs) if a != b]
        what = differ[0] if differ else f"{len(found[0])} and {len(names)}"
        raise PipelineError(f"the class names differ ({what}): a label would have two meanings")
    return found[0] if found else None
