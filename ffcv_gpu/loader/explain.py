"""What ``loader.explain()`` prints: every step of every output, where it runs and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ffcv_gpu.jpeg.base import JpegBackend
from ffcv_gpu.loader.dataset import Dataset
from ffcv_gpu.pipeline.program import Program
from ffcv_gpu.steps import IntArray

__all__ = ["explain"]


def explain(
    programs: Sequence[Program], dataset: Dataset, indices: IntArray, backend: JpegBackend, workers: int
) -> str:
    """Return the explanation as text of several lines."""
    lines = [f"{dataset.path}: {len(indices)} of {len(dataset)} samples, {workers} worker thread(s)"]
    for program in programs:
        lines.extend(_output(program, dataset, indices, backend))
    return "\n".join(lines)


def _output(program: Program, dataset: Dataset, indices: IntArray, backend: JpegBackend) -> Iterator[str]:
    made_from = "" if program.name == program.field else f" (from field {program.field!r})"
    yield f"{program.name!r}{made_from}: {program.spec}"
    if program.stages:
        share = dataset.jpeg_share(program.field, indices)
        yield (
            f"    runs on {program.device}: {share:.0%} JPEG, decoded by {backend.name}; "
            f"{1 - share:.0%} raw pixels, read where they lie"
        )
    width = max(len(step) for step, _ in program.notes)
    yield from (f"    {step:<{width}}  {place}" for step, place in program.notes)
