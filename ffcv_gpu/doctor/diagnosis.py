"""Examines one file on this machine: measures, predicts, names the bottleneck, says what to change."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from ffcv_gpu.cpus import usable_cpus
from ffcv_gpu.device.host_memory import available_bytes
from ffcv_gpu.doctor.advice import Change, advise
from ffcv_gpu.doctor.costs import Costs, measure_costs
from ffcv_gpu.doctor.crop_index import measure_crop_index
from ffcv_gpu.doctor.disk import Disk, measure_disk
from ffcv_gpu.doctor.gpu import GpuFacts, measure_gpu
from ffcv_gpu.doctor.model import Load, Prediction, Situation, load_of, predict
from ffcv_gpu.doctor.survey import Survey, survey
from ffcv_gpu.doctor.trial import Setup
from ffcv_gpu.errors import PipelineError

__all__ = ["VERDICTS", "Diagnosis", "Findings", "examine", "judge", "measure"]

#: below this share of payloads in the page cache, the first epoch reads from storage
MOSTLY_CACHED = 0.9
COPY_BYTES = 64 << 20

#: what each bottleneck means
VERDICTS: Mapping[str, str] = {
    "disk": "storage: payloads do not arrive fast enough",
    "decode": "JPEG decoding on the CPU",
    "compose": "resampling and augmentation on the CPU",
    "check": "checksums: memory bandwidth",
    "other": "fields that are not images: memory bandwidth",
    "one thread": "planning and handing over: one thread's work per batch and sample, whatever their pixels",
    "step": "your training step: the loader is faster",
}


@dataclass(frozen=True)
class Findings:
    """Measurements of one file on this machine, as `measure` makes them."""

    survey: Survey
    disk: Disk
    costs: Costs
    gpu: GpuFacts | None
    copy_bytes_per_second: float


@dataclass(frozen=True)
class Diagnosis:
    """The measurements, the prediction from them, and what to change.

    Attributes
    ----------
    found : Findings
    situation : Situation
    load : Load
        Of one sample, as the file is now.
    prediction : Prediction
    first_epoch : Prediction or None
        While payloads still come from storage, where that differs from `prediction`.
    changes : list of Change
        Best first.
    """

    found: Findings
    situation: Situation
    load: Load
    prediction: Prediction
    first_epoch: Prediction | None
    changes: list[Change]

    @property
    def bottleneck(self) -> str:
        """A key of `VERDICTS`."""
        return self.prediction.bottleneck

    def as_dict(self) -> dict[str, Any]:
        """Return everything except per-sample facts, ready for `json.dumps`."""
        found = self.found
        costs = {**asdict(found.costs), "decode": found.costs.decode.tolist()}
        costs |= {"compose": found.costs.compose.tolist()}
        return {
            "file": found.survey.path,
            "file_bytes": found.survey.file_bytes,
            "samples": found.survey.samples,
            "situation": asdict(self.situation),
            "disk_seconds_per_byte": asdict(found.disk),
            "memory_copy_bytes_per_second": found.copy_bytes_per_second,
            "costs": costs,
            "gpu": None if found.gpu is None else asdict(found.gpu),
            "load": asdict(self.load),
            "prediction": asdict(self.prediction),
            "first_epoch": None if self.first_epoch is None else asdict(self.first_epoch),
            "bottleneck": self.bottleneck,
            "verdict": VERDICTS[self.bottleneck],
            "changes": [asdict(change) for change in self.changes],
        }


def examine(path: str | os.PathLike[str], setup: Setup | None = None) -> Diagnosis:
    """Measure and diagnose; takes a few seconds, and writes small files to the temporary folder.

    Parameters
    ----------
    path : path
    setup : Setup, optional

    Raises
    ------
    FormatError, PipelineError, ReadError, DecodeError
        As the Loader does.
    """
    setup = Setup() if setup is None else setup
    return judge(measure(path, setup), setup)


def measure(path: str | os.PathLike[str], setup: Setup) -> Findings:
    """Make the measurements for a diagnosis; see `examine`.

    Parameters
    ----------
    path : path
    setup : Setup
    """
    facts = survey(os.fspath(path), setup.custom_fields, setup.dropped)
    if not facts.samples:
        raise PipelineError(f"{facts.path} has no samples: nothing to measure")
    disk = measure_disk(facts, setup.threads)  # first: the other measurements fill the page cache
    costs = replace(measure_costs(facts, setup), crop_index=measure_crop_index(facts, setup))
    return Findings(facts, disk, costs, measure_gpu(facts, setup), _copying())


def judge(found: Findings, setup: Setup) -> Diagnosis:
    """Diagnose from measurements.

    Parameters
    ----------
    found : Findings
    setup : Setup
        May differ from that of the measurements in workers, batch size, step and storage.
    """
    load = load_of(found.costs, found.survey)
    cold = _is_cold(found.survey) if setup.cold is None else setup.cold
    cold = cold and found.disk.cold is not None  # else nothing is known of storage
    situation = Situation(setup.batch_size, setup.threads, usable_cpus(), setup.step_seconds, cold)
    now = predict(found.costs, found.disk, load, situation)
    first, cached = None, found.disk.cached
    if not cold and found.disk.cold is not None and (cached is None or cached < MOSTLY_CACHED):
        first = predict(found.costs, found.disk, load, replace(situation, cold=True))
    changes = advise(found.costs, found.disk, found.survey, situation, setup.side, now)
    return Diagnosis(found, situation, load, now, first, changes)


def _is_cold(facts: Survey) -> bool:
    """Return True if payloads come from storage in every epoch: the file does not fit in memory."""
    return facts.file_bytes > available_bytes()


def _copying() -> float:
    """Return the bytes per second that one thread copies in memory."""
    source, target = np.ones(COPY_BYTES, np.uint8), np.zeros(COPY_BYTES, np.uint8)
    seconds = []
    for _ in range(3):
        begin = perf_counter()
        np.copyto(target, source)
        seconds.append(perf_counter() - begin)
    return COPY_BYTES / min(seconds)
