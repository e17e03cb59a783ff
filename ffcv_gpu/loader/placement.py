"""Which device each output is made on, and which backend decodes its JPEGs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ffcv_gpu.device import default_gpu, require_device
from ffcv_gpu.errors import BackendUnavailable, PipelineError
from ffcv_gpu.fields.decoders import NDArrayDecoder
from ffcv_gpu.jpeg.base import HOST_BACKENDS
from ffcv_gpu.native import nvjpeg_library
from ffcv_gpu.pipeline.fuse import works_on_images
from ffcv_gpu.pipeline.outputs import OutputSpec
from ffcv_gpu.steps import Step
from ffcv_gpu.transforms import ToDevice
from ffcv_gpu.transforms.ops import device_name

__all__ = [
    "BACKENDS",
    "Placement",
    "checked_backend",
    "choose_device",
    "host_steps",
    "last_target",
]

BACKENDS = (*HOST_BACKENDS, "nvjpeg")


@dataclass(frozen=True)
class Placement:
    """The loader's GPU (None: no GPU), and which outputs are made there.

    `override` is the device of an explicit ``Loader(device=...)``, which takes precedence over `ToDevice`.
    `fallback` says why the requested GPU is not available; "" if it is.
    """

    gpu: str | None
    override: str | None = None
    fallback: str = ""

    def applied(self, output: OutputSpec) -> OutputSpec:
        """Return `output`, its `ToDevice` steps replaced by an explicit ``Loader(device=...)`` if any."""
        if self.override is None:
            return output
        steps: list[Step] = [step for step in output.steps if not isinstance(step, ToDevice)]
        if self.override == "cpu":
            return replace(output, steps=tuple(steps))
        there = ToDevice(self.override)
        return replace(output, steps=(*steps, there), draws={**output.draws, there: 0})

    def runs_on(self, output: OutputSpec) -> str:
        """Return the device on which an applied output is made: its target, unless a step needs the CPU."""
        target = last_target(output)
        if target == "cpu" or output.decoder.gives_rows or host_steps(output):
            return "cpu"
        return target


def last_target(output: OutputSpec) -> str:
    """Return the device of an output's last `ToDevice`, ``"cpu"`` if it has none."""
    targets = [step.target for step in output.steps if isinstance(step, ToDevice)]
    return targets[-1] if targets else "cpu"


def host_steps(output: OutputSpec) -> list[Step]:
    """Return the steps of an output that only run on the CPU, or that the user wants there."""
    arrays = isinstance(output.decoder, NDArrayDecoder)  # no launch on a GPU takes these for images
    steps = output.decoder, *output.steps
    return [step for step in steps if step.needs_host or (arrays and works_on_images(step))]


def choose_device(
    request: Any, outputs: Sequence[OutputSpec], backend: str | None = None, own: str = ""
) -> Placement:
    """Return where the loader runs.

    Parameters
    ----------
    request : None, "auto", "cpu" or a device
        ``Loader(device=...)``. None: the device of the pipelines' `ToDevice`. "auto": the pipelines' GPU, or
        this process's default one, if it is usable; else the CPU, with the reason in `fallback`. Anything
        else overrides the pipelines.
    outputs : sequence of OutputSpec
    backend : str, optional
        ``Loader(jpeg_backend=...)``: unless that is on the CPU, "auto" selects a GPU only with nvJPEG.
    own : str, optional
        This process's GPU, for "auto"; `default_gpu` if not given.

    Raises
    ------
    PipelineError
        If pipelines name different GPUs.
    BackendUnavailable
        If the requested device is not available.
    """
    gpus = sorted({last_target(output) for output in outputs} - {"cpu"})
    if len(gpus) > 1:
        raise PipelineError(f"the pipelines name several GPUs ({', '.join(gpus)}); use one GPU per Loader")
    if request is None:
        place = Placement(gpus[0] if gpus else None)
    elif request == "auto":
        return _choose_freely(gpus[0] if gpus else own or default_gpu(), backend)
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
    """Return the name of the JPEG backend: `request`, or by default "nvjpeg" on a GPU and "turbo" without.

    Raises
    ------
    PipelineError
        If there is no backend of that name, or it cannot run on this device.
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
