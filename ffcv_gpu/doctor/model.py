"""A small model of the loader: each resource's seconds per sample, of which the slowest decides."""

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
    """What one sample costs each resource, on average.

    Attributes
    ----------
    read_bytes : float
        Read from storage or the page cache.
    stages : mapping of str to float
        Seconds of a worker thread, by stage: ``decode``, ``check``, ``compose``, ``other``.
    """

    read_bytes: float
    stages: Mapping[str, float]

    @property
    def worker_seconds(self) -> float:
        """Seconds of a worker thread, in all stages."""
        return sum(self.stages.values())


@dataclass(frozen=True)
class Situation:
    """The loader's settings, machine and consumer.

    Attributes
    ----------
    batch_size, workers, cpus : int
    step_seconds : float or None
        Your training step for one batch; None: nothing consumes the batches.
    cold : bool
        Whether payloads come from storage.
    read_ahead : bool
        The loader's ``os_cache=False``.
    """

    batch_size: int
    workers: int
    cpus: int
    step_seconds: float | None
    cold: bool
    read_ahead: bool = False


@dataclass(frozen=True)
class Prediction:
    """Predicted speed.

    Attributes
    ----------
    images_per_second : float
        The least of `limits`.
    limits : mapping of str to float
        Images/s that each resource alone would allow: ``disk``, ``workers``, ``one thread`` (planning and
        handing over), ``CPUs`` (for both), ``step``. Resources that are not used are omitted.
    bottleneck : str
        ``"disk"``, ``"decode"``, ``"compose"``, ``"check"``, ``"other"`` (fields that are not images),
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
    decode_factor: float = 1.0,
) -> Load:
    """Return the load of the file as it is, or with images stored differently.

    Then `jpeg` is each image's probability of being stored as JPEG, `pixels` and `jpeg_bytes` its size.
    `own` marks the JPEGs that stay as they are in the file, with its chroma: all, unless `jpeg_bytes` is
    given. `decode_factor` multiplies the cost of decoding. Images of other fields stay as they are.
    """
    decode, compose = (costs.others.get(stage, 0.0) for stage in ("decode", "compose"))
    if not survey.pixels.size:
        size = survey.bytes_per_sample
        stages = {"decode": decode, "check": costs.check * size, "compose": compose, "other": costs.other}
        return Load(size, stages)
    share = survey.jpeg.astype(np.float64) if jpeg is None else jpeg
    sources = survey.pixels.astype(np.float64) if pixels is None else pixels
    encoded = survey.image_bytes if jpeg_bytes is None else jpeg_bytes
    as_now = np.asarray(jpeg_bytes is None if own is None else own)
    seconds = np.where(as_now, costs.own_decode, 1.0) * costs.decode_seconds(sources, encoded)
    images = share * encoded + (1 - share) * 3 * sources
    rest = survey.bytes_per_sample - float(survey.image_bytes.mean())
    size = float(images.mean()) + rest
    stages = {
        "decode": decode_factor * float((share * seconds).mean()) + decode,
        "check": costs.check * size,
        "compose": float(costs.compose_seconds(sources).mean()) + compose,
        "other": costs.other,
    }
    return Load(size, stages)


def predict(costs: Costs, disk: Disk, load: Load, situation: Situation) -> Prediction:
    """Return the rate that each resource allows, and the lowest of them.

    Worker threads compute in parallel on the CPUs, and may also wait for storage. A single thread plans and
    collects batches, and takes its share of the CPUs. Storage and your step run concurrently with both.
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
        limits["disk"] = blocked  # threads wait for storage most of the time
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
    """Return seconds per byte, with one thread and with all."""
    if situation.cold and disk.cold is not None and disk.cold_one_thread is not None:
        return disk.cold_one_thread, min(disk.cold, disk.cold_one_thread)
    # The default reader maps the file: bytes in the page cache are not copied, and reading them is free.
    return 0.0, 0.0


def _rate(seconds: float) -> float:
    return 1 / seconds if seconds > 0 else float("inf")
