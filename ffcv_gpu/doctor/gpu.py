"""What a GPU does with this file, if there is one: the loader on it, and the copying to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

from ffcv_gpu.device import default_gpu, gpu_device, require_device
from ffcv_gpu.doctor.survey import Survey
from ffcv_gpu.doctor.trial import REPEATS, Setup, run_trial
from ffcv_gpu.errors import BackendUnavailable

__all__ = ["GpuFacts", "measure_gpu"]

MEGAPIXELS = 200.0
#: batch sizes that are tried, by the one of the set-up
FACTORS = (0.25, 1, 4)
UPLOAD_BYTES = 64 << 20


@dataclass(frozen=True)
class GpuFacts:
    """Measured on the GPU, with the workers of the set-up.

    Attributes
    ----------
    images_per_second : float
        Of the loader on this file, from the page cache.
    stages : mapping of str to float
        Seconds a sample of each of the loader's stages, summed over threads.
    upload_bytes_per_second : float
        From pinned memory.
    batches : mapping of int to float
        Images/s by batch size: what is decoded together. Sizes that memory does not hold at once are decoded
        in parts by the loader.
    """

    name: str
    images_per_second: float
    stages: Mapping[str, float]
    upload_bytes_per_second: float
    batches: Mapping[int, float]


def measure_gpu(survey: Survey, setup: Setup) -> GpuFacts | None:
    """Load a part of the file on this process's GPU; None where none can be used, or without images."""
    name = default_gpu()
    try:
        require_device(name)
    except BackendUnavailable:
        return None
    if survey.image is None:
        return None
    rows = survey.rows_of_pixels(MEGAPIXELS, 64, 4096)
    batch = min(setup.batch_size, len(rows))
    trials = {
        size: run_trial(survey.path, setup, rows, workers=setup.threads, batch_size=size, device=name)
        for size in sorted({min(max(1, int(batch * factor)), len(rows)) for factor in FACTORS})
    }
    speeds = {size: trial.samples / trial.seconds for size, trial in trials.items()}
    stages = {stage: seconds / trials[batch].samples for stage, seconds in trials[batch].stages.items()}
    return GpuFacts(name, speeds[batch], stages, _uploading(name), speeds)


def _uploading(name: str) -> float:
    """Return bytes a second of copies from pinned memory to the GPU."""
    gpu = gpu_device(name)
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
