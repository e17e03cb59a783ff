"""What ``loader.explain()`` prints: every step of every output, where it runs and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.jpeg.base import JpegBackend
from ffcv_gpu.loader.needed import cropped_fields
from ffcv_gpu.pipeline.program import Program
from ffcv_gpu.steps import IntArray

__all__ = ["Text", "explain"]


class Text(str):
    """Several lines, which a notebook and the Python prompt show as lines, too."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def explain(
    programs: Sequence[Program],
    dataset: Dataset,
    indices: IntArray,
    backends: Mapping[str, JpegBackend],
    workers: int,
) -> str:
    """Return the explanation, a `Text`; `backends` maps a device to its JPEG backend."""
    lines = [f"{dataset.path}: {len(indices)} of {len(dataset)} samples, {workers} worker thread(s)"]
    if dataset.remote is not None:
        lines.append(dataset.remote.describe())
    cropped = cropped_fields(programs) if backends["cpu"].capabilities.roi else frozenset()
    for program in programs:
        backend = backends[program.device]
        who = backend.name + _engines(backend.capabilities.engine_images)
        if program.device == "cpu" and program.field in cropped:
            who += " (crops only)"
        lines.extend(_output(program, dataset, indices, who))
    return Text("\n".join(lines))


def _engines(images: int | None) -> str:
    """Return who decodes on a GPU, in words; see `Capabilities.engine_images`."""
    if images is None:
        return ""
    return f" (JPEG engines, {images} images at once)" if images else " (the GPU's cores; no JPEG engine)"


def _output(program: Program, dataset: Dataset, indices: IntArray, backend: str) -> Iterator[str]:
    made_from = "" if program.name == program.field else f" (from field {program.field!r})"
    yield f"{program.name!r}{made_from}: {program.spec}"
    if program.stages:
        share = dataset.jpeg_share(program.field, indices)
        raw = "read in place" if program.device == "cpu" else "cropped on the CPU and uploaded"
        yield (
            f"    runs on {program.device}: {share:.0%} JPEG, decoded by {backend}; "
            f"{1 - share:.0%} raw pixels, {raw}"
        )
    width = max(len(step) for step, _ in program.notes)
    yield from (f"    {step:<{width}}  {place}" for step, place in program.notes)
