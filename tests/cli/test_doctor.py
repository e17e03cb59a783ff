"""``doctor``: what it says of this environment, and that it notices what is broken."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys

import pytest


def test_versions_are_those_installed(run):
    result = run("doctor", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    for name, version in report["versions"].items():
        if name not in ("ffcv_gpu", "python"):
            assert version == importlib.metadata.version(name)
    assert {"numpy", "numba", "simplejpeg", "google-crc32c", "opencv-python-headless"} <= set(
        report["versions"]
    )
    assert report["versions"]["python"] == sys.version.split()[0]
    assert report["machine"]["cpus_for_this_process"] == len(os.sched_getaffinity(0))
    assert re.fullmatch(r"\d+\.\d+\.\d+", report["libraries"]["libjpeg-turbo in simplejpeg"])
    assert report["problems"] == []


def test_gpus_are_those_of_torch(run):
    torch = pytest.importorskip("torch")
    report = json.loads(run("doctor", "--json").stdout)
    assert len(report["gpus"]) == torch.cuda.device_count()
    assert bool(report["gpus"]) == (report["no_gpu_because"] is None)


def test_a_person_reads_what_works(run):
    text = run("doctor").stdout
    for word in ("versions", "usable here", "loading on the CPU", "CUDA driver", "nvJPEG", "libturbojpeg"):
        assert word in text


def test_with_a_file_comes_its_summary(run, small):
    assert "7 JPEG, 7 raw" in run("doctor", small).stdout
    assert json.loads(run("doctor", small, "--json").stdout)["file"]["samples"] == 14


def test_a_broken_requirement_is_named(tmp_path):
    (tmp_path / "simplejpeg.py").write_text("raise ImportError('libexotic.so.9 is missing')\n")
    done = subprocess.run(
        [sys.executable, "-m", "ffcv_gpu", "doctor"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 1
    assert "libexotic.so.9 is missing" in done.stdout
    assert "pip install simplejpeg" in done.stdout
    assert "Traceback" not in done.stderr
