"""From pipelines to programs: where each output runs, and which backend decodes for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.device import GpuDevice, default_gpu, gpu_device
from ffcv_gpu.jpeg.base import HOST_BACKENDS, JpegBackend
from ffcv_gpu.jpeg.cropped import Cropped
from ffcv_gpu.jpeg.turbo import TurboBackend
from ffcv_gpu.jpeg.turbo2 import Turbo2Backend
from ffcv_gpu.jpeg.turbo3 import Turbo3Backend
from ffcv_gpu.loader.arguments import checked_memory
from ffcv_gpu.loader.cpu_share import CpuShare, checked_share
from ffcv_gpu.loader.gpu_engine import GpuEngine, PreparingBackend
from ffcv_gpu.loader.needed import cropped_fields, has_crop_index
from ffcv_gpu.loader.placement import (
    Placement,
    checked_backend,
    choose_device,
    host_steps,
    last_target,
)
from ffcv_gpu.native import turbojpeg, turbojpeg3
from ffcv_gpu.pipeline.doubts import doubts
from ffcv_gpu.pipeline.following import check_followers, check_masks
from ffcv_gpu.pipeline.fuse import fuse
from ffcv_gpu.pipeline.outputs import OutputSpec, output_specs
from ffcv_gpu.pipeline.program import Program
from ffcv_gpu.staging import SlotRing
from ffcv_gpu.steps import IntArray, Source
from ffcv_gpu.trace import StageClock
from ffcv_gpu.transforms.ops import device_name

__all__ = ["Assembly", "Wishes"]

logger = logging.getLogger("ffcv_gpu.loader.loader")


@dataclass(frozen=True)
class Wishes:
    """The Loader's arguments about devices and decoders; see its parameters of the same names."""

    device: Any
    jpeg_backend: str | None
    dct: str
    gpu_memory_gb: float | None
    paranoid: bool
    cpu_share: float | str = 0.0


def _of_whole_images(wishes: Wishes) -> JpegBackend:
    """Return the CPU's backend for JPEGs of which all is decoded."""
    if wishes.jpeg_backend != "turbo2" and (wishes.jpeg_backend == "turbo" or turbojpeg.library() is None):
        return TurboBackend(wishes.dct)
    return Turbo2Backend(wishes.dct)


class Assembly:
    """Reads a loader's pipelines, as they are at each call, and decides where they run.

    Parameters
    ----------
    dataset : Dataset
    indices : int64 (n,)
        The loader's rows of the file.
    pipelines : mapping
        As given to the Loader.
    wishes : Wishes
    batch_size : int

    Attributes
    ----------
    indices
        May be replaced between epochs, like the pipelines.
    gpu : GpuDevice or None
        The loader's one GPU, known after the first `programs`.
    fallback : str
        Why the requested GPU is not available; "" if it is.

    Raises
    ------
    PipelineError
        If an argument is invalid.
    BackendUnavailable
        If libturbojpeg is requested but missing.
    """

    def __init__(
        self,
        dataset: Dataset,
        indices: IntArray,
        pipelines: Mapping[str, Any],
        wishes: Wishes,
        batch_size: int,
    ) -> None:
        self._dataset, self.indices, self._pipelines = dataset, indices, pipelines
        if wishes.device is not None and wishes.device != "auto":
            wishes = replace(wishes, device=device_name(wishes.device))  # "cuda" stays what it is now
        self._wishes = replace(wishes, gpu_memory_gb=checked_memory(wishes.gpu_memory_gb))
        self._batch_size = batch_size
        self._share = CpuShare(checked_share(wishes.cpu_share))
        self._whole = _of_whole_images(wishes)
        self._turbo3 = None
        self._cropped: dict[str, Cropped] = {}
        whole = wishes.jpeg_backend in ("turbo", "turbo2")
        if wishes.jpeg_backend == "turbo3" or not (whole or turbojpeg3.library() is None):
            self._turbo3 = Turbo3Backend(wishes.dct)
        self.gpu: GpuDevice | None = None
        self._nvjpeg: PreparingBackend | None = None  # kept between epochs
        self.fallback = ""

    @cached_property
    def _own_gpu(self) -> str:
        """This process's GPU. The loader keeps it, although `torch.cuda.set_device` may choose another."""
        return default_gpu()

    def _outputs(self) -> tuple[Placement, list[OutputSpec]]:
        """Return where the pipelines run, and their outputs placed there."""
        outputs = output_specs(self._pipelines, self._dataset.fields)
        wished = self._wishes.device
        own = self._own_gpu if wished == "auto" else ""
        place = choose_device(wished, outputs, self._wishes.jpeg_backend, own)
        return place, [place.applied(output) for output in outputs]

    def programs(self) -> tuple[Program, ...]:
        """Return one program per output: its steps, fused and placed.

        Raises
        ------
        PipelineError, BackendUnavailable
        """
        place, outputs = self._outputs()
        checked_backend(self._wishes.jpeg_backend, place.gpu)
        self.fallback = place.fallback
        if place.gpu is not None and self.gpu is None:
            self.gpu = gpu_device(place.gpu)
        programs: list[Program] = []
        sources: dict[str, Source] = {}
        for output in outputs:
            source = sources[output.field] = self._dataset.source(output.field, self.indices)
            device = place.runs_on(output) if source.fits_gpu else "cpu"
            container = "numpy" if device == "cpu" or self.gpu is None else self.gpu.owner.container
            programs.append(fuse(output, source, device, container))
        check_followers(programs)
        check_masks(programs, sources)
        return tuple(programs)

    def follow_user(self, programs: Sequence[Program]) -> None:
        """Let the steps of an epoch that starts now see what the calling thread's stream was given before.

        Else a module would run while the GPU may still be writing its weights: a training step is queued.
        """
        there = (program for program in programs if program.spec.device != "cpu")
        if self.gpu is not None and not all(program.only_reshaped for program in there):
            self.gpu.owner.follow_user(self.gpu.stream)

    def host_backend(self, programs: Sequence[Program]) -> JpegBackend:
        """Return the CPU's JPEG backend for `programs`: one that decodes only crops, if available and useful.

        Of JPEGs with an index for crops, only what a crop needs is decoded in any case.

        Without checksums it must be requested: it detects less damage than a decoder of whole images.
        """
        found = [self._dataset.payloads(name) for name in cropped_fields(programs)]
        backend = self._whole
        if self._turbo3 is not None:
            sealed = any(payloads is not None and payloads.sealed for payloads in found)
            backend = self._turbo3 if sealed or self._wishes.jpeg_backend == "turbo3" else backend
        if not any(map(has_crop_index, found)):
            return backend
        return self._cropped.setdefault(backend.name, Cropped(backend))

    def warn(self, programs: Sequence[Program]) -> None:
        """Warn about pipelines that run elsewhere than expected, or that are probably mistakes."""
        place, outputs = self._outputs()
        sources = {output.field: self._dataset.source(output.field, self.indices) for output in outputs}
        unknown = [n for n, spec in self._pipelines.items() if spec is None and n not in self._dataset.fields]
        for doubt in doubts(outputs, programs, sources, unknown):
            logger.warning("%s", doubt)
        if place.fallback:
            logger.warning("device='auto': running on the CPU, because %s", place.fallback)
        for output in outputs:
            steps: list[Any] = host_steps(output)
            if not sources[output.field].fits_gpu:
                steps.append(self._dataset.fields[output.field])
            if steps and last_target(output) != "cpu":
                logger.warning(
                    "pipeline %r runs on the CPU, and its result is uploaded, because of %r",
                    output.name,
                    steps[0],
                )

    def gpu_engine(
        self,
        programs: Sequence[Program],
        dataset: Dataset,
        slots: SlotRing,
        clock: StageClock,
        workers: int,
    ) -> GpuEngine | None:
        """Return the engine of the programs that run on the GPU; None if there are none."""
        gpu, there = self.gpu, tuple(program for program in programs if program.device != "cpu")
        if gpu is None or not there:
            return None
        limit = gpu.limit_bytes(self._wishes.gpu_memory_gb)
        backends = self._gpu_backend(gpu, there, limit), self.host_backend(there), self._share
        return GpuEngine(dataset, there, gpu, *backends, slots, clock, workers, limit)

    def _gpu_backend(
        self, gpu: GpuDevice, programs: Sequence[Program], limit: int
    ) -> PreparingBackend | None:
        """Return the backend that decodes on the GPU; None if the CPU decodes, and if there are no JPEGs."""
        fields, wishes = {program.field for program in programs if program.stages}, self._wishes
        jpeg = [name for name in fields if self._dataset.jpeg_share(name, self.indices)]
        if not jpeg or checked_backend(wishes.jpeg_backend, gpu.name) in HOST_BACKENDS:
            return None
        mean = sum(self._dataset.mean_pixel_bytes(name, self.indices) for name in jpeg)
        most = min(self._batch_size, max(1, int(limit // max(mean, 1)))) * len(jpeg)
        from ffcv_gpu.jpeg.nvjpeg.sharing import shared_backend

        with gpu.owner.entered():
            self._nvjpeg = shared_backend(gpu, batch_size=most, paranoid=wishes.paranoid, dct=wishes.dct)
        return self._nvjpeg
