"""What ``loader.explain()`` prints: every step of every output, where it runs and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.jpeg.base import JpegBackend
from ffcv_gpu.loader.cpu_share import CpuShare
from ffcv_gpu.loader.needed import cropped_fields
from ffcv_gpu.pipeline.program import Program
from ffcv_gpu.readers import RemoteFile
from ffcv_gpu.steps import IntArray

__all__ = ["Decoders", "Text", "explain"]

#: remote files that have a line each
FILES_SHOWN = 3


class Text(str):
    """Several lines, which a notebook and the Python prompt show as lines, too."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Decoders:
    """Who decodes JPEGs for the pipelines of a device: a backend on the CPU, one on the GPU, or both."""

    device: str
    host: JpegBackend
    gpu: JpegBackend | None = None
    share: CpuShare | None = None

    def describe(self, *, crops: bool) -> str:
        """Return it in words; `crops`: only a rectangle of each image is used."""
        host = self.host.name + (" (crops only)" if crops and self.host.capabilities.roi else "")
        if self.gpu is None or self.share is None:
            return host
        gpu = self.gpu.name + _engines(self.gpu.capabilities.engine_images)
        if self.share.balanced:
            return f"{gpu} and, as far as it helps, by {host} on the CPU"
        fixed = self.share.of(1)
        return f"{gpu}, {fixed:.0%} of them by {host} on the CPU" if fixed else gpu


def explain(
    programs: Sequence[Program],
    dataset: Dataset,
    indices: IntArray,
    decoders: Sequence[Decoders],
    workers: int,
) -> str:
    """Return the explanation, a `Text`; `decoders` are those of each device."""
    text: dict[str, str] = {}
    lines = [f"{dataset.path}: {len(indices)} of {len(dataset)} samples, {workers} worker thread(s)"]
    lines.extend(_remotes(dataset.remotes))
    for there in decoders:
        group = [program for program in programs if program.device == there.device]
        cropped = cropped_fields(group)
        text.update({p.name: there.describe(crops=p.field in cropped) for p in group})
    for program in programs:
        lines.extend(_output(program, dataset, indices, text[program.name]))
    return Text("\n".join(lines))


def _remotes(remotes: Sequence[RemoteFile]) -> Iterator[str]:
    if len(remotes) <= FILES_SHOWN:
        yield from (remote.describe() for remote in remotes)
    else:
        there, size = (
            sum(counts) / 1e6 for counts in zip(*(r.there_and_size() for r in remotes), strict=True)
        )
        yield f"remote: {there:,.1f} of {size:,.1f} MB of {len(remotes)} files are on the local disk"


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
