"""A small model of the loader: seconds a sample of each resource, the slowest of which decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ffcv_gpu.doctor.costs import Costs
from ffcv_gpu.doctor.disk import Disk
from ffcv_gpu.doctor.survey import Survey

__all__ = ["Load", "Prediction", "Situation", "load_of", "predict"]


@dataclass(frozen=True)
class Load:
    """What a sample asks of each resource, on average.

    Attributes
    ----------
    read_bytes : float
        From storage or the page cache.
    stages : mapping of str to float
        Seconds of a worker thread: ``decode``, ``check``, ``compose``, ``other``.
    """

    read_bytes: float
    stages: Mapping[str, float]

    @property
    def worker_seconds(self) -> float:
        """Seconds of a worker thread that computes."""
        return sum(self.stages.values())


@dataclass(frozen=True)
class Situation:
    """Where and for whom batches are made; `read_ahead` is the loader's ``os_cache=False``."""

    batch_size: int
    workers: int
    cpus: int
    step_seconds: float | None
    cold: bool
    read_ahead: bool = False


@dataclass(frozen=True)
class Prediction:
    """How fast it will be.

    Attributes
    ----------
    limits : mapping of str to float
        Images/s that each resource alone would allow: ``disk``, ``workers``, ``one thread`` (planning and
        handing over), ``CPUs`` (for both), ``step``; what asks nothing is left out.
    bottleneck : str
        ``"disk"``, ``"decode"``, ``"compose"``, ``"check"``, ``"other"`` (fields that are no images),
        ``"one thread"`` or ``"step"``.
    """

    images_per_second: float
    limits: Mapping[str, float]
    bottleneck: str


def load_of(
    costs: Costs,
    survey: Survey,
    *,
    jpeg: npt.NDArray[np.floating] | None = None,
    pixels: npt.NDArray[np.floating] | None = None,
    jpeg_bytes: npt.NDArray[np.floating] | None = None,
    own: npt.NDArray[np.bool_] | bool | None = None,
) -> Load:
    """Return the load of a file as it is; or with other images: `jpeg` is then the chance of being JPEG.

    `own` says which JPEGs are those of the file as they are, with its chroma: all unless `jpeg_bytes` are
    given.
    """
    if not survey.pixels.size:
        size = survey.bytes_per_sample
        return Load(size, {"check": costs.check * size, "other": costs.other})
    share = survey.jpeg.astype(np.float64) if jpeg is None else jpeg
    sources = survey.pixels.astype(np.float64) if pixels is None else pixels
    encoded = survey.image_bytes if jpeg_bytes is None else jpeg_bytes
    as_now = np.asarray(jpeg_bytes is None if own is None else own)
    decode = np.where(as_now, costs.own_decode, 1.0) * costs.decode_seconds(sources, encoded)
    images = share * encoded + (1 - share) * 3 * sources
    rest = survey.bytes_per_sample - float(survey.image_bytes.mean())
    size = float(images.mean()) + rest
    stages = {
        "decode": float((share * decode).mean()),
        "check": costs.check * size,
        "compose": float(costs.compose_seconds(sources).mean()),
        "other": costs.other,
    }
    return Load(size, stages)


def predict(costs: Costs, disk: Disk, load: Load, situation: Situation) -> Prediction:
    """Return what each resource allows, and the least of it.

    Worker threads compute side by side on the CPUs, and may wait for storage on top; planning and collecting
    is one thread, which takes its part of the CPUs; storage and your step work beside all of it.
    """
    workers, cpus = situation.workers, situation.cpus
    one_thread = costs.plan_sample + costs.plan_batch / situation.batch_size
    computing = load.worker_seconds
    alone, together = _reading(disk, situation)
    limits = {
        "one thread": _rate(one_thread),
        "workers": _rate(computing / costs.speedup(min(workers, cpus))),
        "CPUs": _rate((computing + one_thread) / costs.speedup(cpus)),
        "disk": _rate(load.read_bytes * together),
    }
    waiting = 0.0 if situation.read_ahead else load.read_bytes * alone
    blocked = _rate((computing + waiting) / workers)
    if waiting > computing and blocked < min(limits.values()):
        limits["disk"] = blocked  # threads that wait for storage most of their time
    elif blocked < limits["workers"]:
        limits["workers"] = blocked
    if situation.step_seconds is not None:
        limits["step"] = situation.batch_size / situation.step_seconds
    limits = {name: rate for name, rate in limits.items() if rate < float("inf")}
    slowest = min(limits, key=lambda name: limits[name])
    named = slowest
    if slowest in ("workers", "CPUs"):
        named = max(load.stages, key=lambda stage: load.stages[stage])
    if slowest == "CPUs" and one_thread > computing:
        named = "one thread"
    return Prediction(limits[slowest], limits, named)


def _reading(disk: Disk, situation: Situation) -> tuple[float, float]:
    """Return seconds a byte, of one thread and of all."""
    if situation.cold and disk.cold is not None and disk.cold_one_thread is not None:
        return disk.cold_one_thread, min(disk.cold, disk.cold_one_thread)
    # The default reader maps the file: what is in memory is not copied, and costs nothing of its own.
    return 0.0, 0.0


def _rate(seconds: float) -> float:
    return 1 / seconds if seconds > 0 else float("inf")
