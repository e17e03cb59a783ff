"""Measurements on a GPU, if there is one: the loader on it, its parts, and uploads."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from ffcv_gpu.device import GpuDevice, default_gpu, gpu_device, require_device
from ffcv_gpu.doctor.gpu_parts import measure_parts
from ffcv_gpu.doctor.survey import Survey
from ffcv_gpu.doctor.trial import REPEATS, Setup, run_trial
from ffcv_gpu.errors import BackendUnavailable, OutOfGpuMemory
from ffcv_gpu.loader.cpu_share import BALANCED
from ffcv_gpu.native import nvjpeg_library
from ffcv_gpu.steps import IntArray

__all__ = ["GpuFacts", "measure_gpu"]

logger = logging.getLogger(__name__)

MEGAPIXELS = 200.0
#: batch sizes that are tried, relative to the setup's
FACTORS = (0.25, 1, 4)
UPLOAD_BYTES = 64 << 20
#: batches of an epoch, after which the CPU's share has settled
SETTLING = 80
#: minimum batches of the setup's size per epoch: of 4, start and end took a third (H200, e17_doctor)
LONG = 24


@dataclass(frozen=True)
class GpuFacts:
    """Measurements on the GPU, with the setup's number of workers.

    Attributes
    ----------
    name : str
        The device, such as ``"cuda:0"``.
    images_per_second : float
        Of the loader on this file, from the page cache.
    stages : mapping of str to float
        Seconds per sample in each of the loader's stages, summed over threads.
    upload_bytes_per_second : float
        From pinned memory.
    shared_images_per_second : float
        Of the loader with ``cpu_share="auto"``; 0 without JPEGs.
    batches : mapping of int to float
        Images/s by batch size. The loader decodes batches that do not fit in memory in parts.
    routes : mapping of str to float
        Images/s of decoding alone, for some of the file's JPEGs, by route, named as in ``loader.stats()``
        (``"jpeg: engine"`` ...). Empty without JPEGs.
    launch_images_per_second : float
        Of the fused kernel alone; 0 without JPEGs.
    """

    name: str
    images_per_second: float
    stages: Mapping[str, float]
    upload_bytes_per_second: float
    shared_images_per_second: float
    batches: Mapping[int, float]
    routes: Mapping[str, float]
    launch_images_per_second: float

    def limits(self, survey: Survey) -> dict[str, float]:
        """Return the images/s that each part of the GPU alone would allow; empty for a file without JPEGs.

        Decoding uses the best route. Raw images do not count as uploads: only their crops are uploaded.
        """
        if not self.routes:
            return {}
        jpeg_bytes = float(survey.image_bytes[survey.jpeg].sum()) / survey.samples
        return {
            "decoding": max(self.routes.values()) / float(survey.jpeg.mean()),
            "uploading": self.upload_bytes_per_second / jpeg_bytes,
            "the fused launch": self.launch_images_per_second,
        }


def measure_gpu(survey: Survey, setup: Setup) -> GpuFacts | None:
    """Measure on this process's GPU; None if none can be used, or without an image field.

    A GPU without enough free memory is skipped, with a warning.
    """
    name = default_gpu()
    try:
        require_device(name)
        nvjpeg_library.library()
    except BackendUnavailable:
        return None
    if survey.image is None:
        return None
    try:
        return _measured(name, gpu_device(name), survey, setup)
    except OutOfGpuMemory as error:
        logger.warning("the doctor skips %s: %s", name, error)
        return None


def _measured(name: str, gpu: GpuDevice, survey: Survey, setup: Setup) -> GpuFacts:
    rows = survey.rows_of_pixels(MEGAPIXELS, 64, 4096)
    batch = min(setup.batch_size, len(rows))
    long = np.resize(rows, max(LONG * batch, len(rows))).tolist()
    trials = {
        size: run_trial(survey.path, setup, long, workers=setup.threads, batch_size=size, device=name)
        for size in sorted({min(max(1, int(batch * factor)), len(rows)) for factor in FACTORS})
    }
    speeds = {size: trial.samples / trial.seconds for size, trial in trials.items()}
    stages = {stage: seconds / trials[batch].samples for stage, seconds in trials[batch].stages.items()}
    many = np.resize(rows, SETTLING * batch)
    shared = _shared(name, survey, setup, many, batch) if survey.jpeg.any() else 0.0
    routes, launch = measure_parts(gpu, survey, setup)
    return GpuFacts(name, speeds[batch], stages, _uploading(gpu), shared, speeds, routes, launch)


def _shared(name: str, survey: Survey, setup: Setup, rows: IntArray, batch: int) -> float:
    """Return the images/s of the loader if idle CPU cores decode, too."""
    settings: dict[str, Any] = {"workers": setup.threads, "batch_size": batch, "device": name}
    trial = run_trial(survey.path, setup, rows.tolist(), cpu_share=BALANCED, **settings)
    return trial.samples / trial.seconds


def _uploading(gpu: GpuDevice) -> float:
    """Return the bytes per second of copies from pinned memory to the GPU."""
    seconds = []
    with gpu.owner.entered():
        pinned, target, done = gpu.pinned(UPLOAD_BYTES), gpu.device_bytes(UPLOAD_BYTES), gpu.new_event()
        for _ in range(REPEATS):
            begin = perf_counter()
            gpu.upload(pinned, target, 0, gpu.copies)
            gpu.copies.record(done)
            done.synchronize()
            seconds.append(perf_counter() - begin)
    return UPLOAD_BYTES / min(seconds)
