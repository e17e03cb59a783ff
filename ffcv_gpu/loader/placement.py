"""Which device each output is made on and who decodes its JPEGs (one rule, in one place)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ffcv_gpu.device import default_gpu, require_device
from ffcv_gpu.errors import BackendUnavailable, PipelineError
from ffcv_gpu.native import nvjpeg_library
from ffcv_gpu.pipeline.outputs import OutputSpec
from ffcv_gpu.steps import Step
from ffcv_gpu.transforms import ToDevice
from ffcv_gpu.transforms.ops import device_name

__all__ = [
    "BACKENDS",
    "HOST_BACKENDS",
    "Placement",
    "checked_backend",
    "choose_device",
    "host_steps",
    "last_target",
]

HOST_BACKENDS = ("turbo", "turbo3")
BACKENDS = (*HOST_BACKENDS, "nvjpeg")


@dataclass(frozen=True)
class Placement:
    """The one GPU of a loader (None for none), and which outputs are made there.

    `override` is the device of an explicit ``Loader(device=...)``, which outputs follow whatever their
    `ToDevice` says. `fallback` says why the GPU that was wished for could not be had, "" if it could.
    """

    gpu: str | None
    override: str | None = None
    fallback: str = ""

    def applied(self, output: OutputSpec) -> OutputSpec:
        """Return `output` with its `ToDevice` steps following an explicit ``Loader(device=...)``."""
        if self.override is None:
            return output
        steps: list[Step] = [step for step in output.steps if not isinstance(step, ToDevice)]
        if self.override == "cpu":
            return replace(output, steps=tuple(steps))
        there = ToDevice(self.override)
        return replace(output, steps=(*steps, there), draws={**output.draws, there: 0})

    def runs_on(self, output: OutputSpec) -> str:
        """Return the device on which an applied output is made: its own, unless a step needs the host."""
        target = last_target(output)
        if target == "cpu" or output.decoder.gives_rows or host_steps(output):
            return "cpu"
        return target


def last_target(output: OutputSpec) -> str:
    """Return the device of an output's last `ToDevice`, ``"cpu"`` without."""
    targets = [step.target for step in output.steps if isinstance(step, ToDevice)]
    return targets[-1] if targets else "cpu"


def host_steps(output: OutputSpec) -> list[Step]:
    """Return the steps of an output that only a CPU can do, or that the user wants there."""
    return [step for step in (output.decoder, *output.steps) if step.needs_host]


def choose_device(request: Any, outputs: Sequence[OutputSpec], backend: str | None = None) -> Placement:
    """Return where the loader runs.

    Parameters
    ----------
    request : None, "auto", "cpu" or a device
        ``Loader(device=...)``. None follows the pipelines' `ToDevice`; "auto" takes the pipelines' GPU, or
        this process's own, if it can be used, else the CPU, and says why; anything else overrides the
        pipelines.
    outputs : sequence of OutputSpec
    backend : str, optional
        ``Loader(jpeg_backend=...)``: "auto" takes no GPU whose decoder is wanted and missing.

    Raises
    ------
    PipelineError
        If two pipelines name different GPUs.
    BackendUnavailable
        If the device cannot be used.
    """
    gpus = sorted({last_target(output) for output in outputs} - {"cpu"})
    if len(gpus) > 1:
        raise PipelineError(f"the pipelines name more than one GPU ({', '.join(gpus)}); a loader serves one")
    if request is None:
        place = Placement(gpus[0] if gpus else None)
    elif request == "auto":
        return _choose_freely(gpus[0] if gpus else default_gpu(), backend)
    else:
        target = device_name(request)
        place = Placement(None if target == "cpu" else target, override=target)
    require_device(place.gpu or "cpu")
    return place


def _choose_freely(gpu: str, backend: str | None) -> Placement:
    try:
        require_device(gpu)
        if backend not in HOST_BACKENDS:
            nvjpeg_library.library()
    except BackendUnavailable as error:
        return Placement(None, override="cpu", fallback=str(error))
    return Placement(gpu, override=gpu)


def checked_backend(request: str | None, gpu: str | None) -> str:
    """Return the name of the JPEG backend: the GPU's own where there is one, unless `request` names another.

    Raises
    ------
    PipelineError
        If there is none of that name, or it cannot work on this device.
    """
    if request is None:
        return "turbo" if gpu is None else "nvjpeg"
    if request not in BACKENDS:
        names = ", ".join(map(repr, BACKENDS[:-1]))
        raise PipelineError(f"jpeg_backend must be None, {names} or {BACKENDS[-1]!r}, not {request!r}")
    if request == "nvjpeg" and gpu is None:
        raise PipelineError(
            "jpeg_backend='nvjpeg' decodes on a GPU, and no pipeline runs on one; add ToDevice(0) to the "
            "image's pipeline, or pass device='cuda:0'"
        )
    return request
