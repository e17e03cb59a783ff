"""Finds what limits a file's loading on this machine and what would fix it: measures, models, predicts."""

from ffcv_gpu.doctor.diagnosis import VERDICTS, Diagnosis, Findings, examine, judge, measure
from ffcv_gpu.doctor.report import report
from ffcv_gpu.doctor.target import Target
from ffcv_gpu.doctor.trial import Setup

__all__ = ["VERDICTS", "Diagnosis", "Findings", "Setup", "Target", "examine", "judge", "measure", "report"]
