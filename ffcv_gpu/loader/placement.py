"""Which device a loader runs on and which JPEG backend it uses (one rule, in one place)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ffcv_gpu.device import require_device, runs_pipelines
from ffcv_gpu.errors import BackendUnavailable, PipelineError
from ffcv_gpu.jpeg.base import JpegBackend
from ffcv_gpu.pipeline.outputs import OutputSpec
from ffcv_gpu.steps import Step
from ffcv_gpu.transforms import ToDevice
from ffcv_gpu.transforms.ops import device_name

__all__ = ["Placement", "choose_backend", "choose_device"]


@dataclass(frozen=True)
class Placement:
    """Where batches are made, and where they are handed out.

    `fallback` says why the device that was wished for could not be had, "" if it could.
    """

    runs_on: str
    target: str
    override: bool = False
    fallback: str = ""

    def applied(self, output: OutputSpec) -> OutputSpec:
        """Return `output` with its `ToDevice` steps following an explicit ``Loader(device=...)``."""
        if not self.override:
            return output
        steps: list[Step] = [step for step in output.steps if not isinstance(step, ToDevice)]
        if self.target != "cpu":
            steps.append(ToDevice(self.target))
        return replace(output, steps=tuple(steps))


def choose_device(request: Any, outputs: Sequence[OutputSpec]) -> Placement:
    """Return where the loader runs.

    Parameters
    ----------
    request : None, "auto", "cpu" or a device
        ``Loader(device=...)``. None follows the pipelines' `ToDevice`; "auto" takes a GPU if there is
        one, else the CPU, and says why; anything else overrides the pipelines.
    outputs : sequence of OutputSpec

    Raises
    ------
    PipelineError
        If two pipelines name different devices.
    """
    named = {step.target for output in outputs for step in output.steps if isinstance(step, ToDevice)}
    gpus = sorted(named - {"cpu"})
    if len(gpus) > 1:
        raise PipelineError(f"the pipelines name more than one GPU ({', '.join(gpus)}); a loader serves one")
    wanted = gpus[0] if gpus else "cpu"
    if request is None:
        return Placement(host(wanted), wanted)
    if request != "auto":
        target = device_name(request)
        return Placement(host(target), target, override=True)
    try:
        require_device(wanted)
    except BackendUnavailable as error:
        return Placement("cpu", "cpu", override=True, fallback=str(error))
    return Placement(host(wanted), wanted)


def host(target: str) -> str:
    """Return the device on which batches for `target` are made."""
    return target if runs_pipelines(target) else "cpu"


def choose_backend(request: str | None, turbo: JpegBackend) -> JpegBackend:
    """Return the JPEG backend called `request`.

    Raises
    ------
    PipelineError
        If there is none of that name.
    """
    if request in (None, turbo.name):
        return turbo
    raise PipelineError(f"jpeg_backend must be None or {turbo.name!r}, not {request!r}")
