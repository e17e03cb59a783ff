"""``doctor``: what it says of this environment, and that it notices what is broken."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

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


def test_memory_is_what_a_container_leaves(run, monkeypatch):
    monkeypatch.setattr("ffcv_gpu.device.host_memory.available_bytes", lambda: 7_000_000_000)
    assert re.search(r"memory +[\d.]+ [GT]B, available: 7 GB\n", run("doctor").stdout)


def test_gpus_are_those_of_torch(run):
    torch = pytest.importorskip("torch")
    report = json.loads(run("doctor", "--json").stdout)
    assert len(report["gpus"]) == torch.cuda.device_count()
    assert bool(report["gpus"]) == (report["no_gpu_because"] is None)


class _Runtime:
    """Of CuPy, where a GPU is."""

    @staticmethod
    def getDeviceCount():
        return 1

    @staticmethod
    def getDeviceProperties(index):
        return {"name": b"NVIDIA X1", "major": 9, "minor": 0, "totalGlobalMem": 8 << 30}


def test_a_gpu_is_shown_without_torch_and_without_nvjpeg(run, monkeypatch):
    from ffcv_gpu.errors import BackendUnavailable
    from ffcv_gpu.native import nvjpeg_library

    def missing():
        raise BackendUnavailable("nvJPEG not found; pip install it")

    real = importlib.util.find_spec
    absent = lambda name, *rest: None if name == "torch" else real(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    cuda = SimpleNamespace(runtime=_Runtime)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    monkeypatch.setattr("ffcv_gpu.device.require_device", lambda name: None)
    used = nvjpeg_library.NvjpegLibrary(None, "/opt/libnvjpeg.so.12", "system", (12, 4, 0))
    monkeypatch.setattr(nvjpeg_library, "library", lambda: used)
    assert "a GPU" in (text := run("doctor").stdout) and "yes: device='auto'" in text
    assert "NVIDIA X1, compute capability 9.0, 8.59 GB" in text
    assert "12.4.0, /opt/libnvjpeg.so.12 (system)" in text  # not the newest that is installed
    monkeypatch.setattr(nvjpeg_library, "library", missing)
    text = run("doctor").stdout
    assert "NVIDIA X1" in text
    assert "no: nvJPEG not found; pip install it" in text


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


def test_a_file_is_diagnosed(run, photo_folder, tmp_path):
    from ffcv_gpu.doctor.advice import FILE_KNOBS, LOADER_KNOBS

    file = tmp_path / "photos.beton"
    assert run("write", photo_folder, file).exit_code == 0
    options = ("--size", "32", "--batch-size", "4", "--workers", "1", "--step-ms", "500")
    result = run("doctor", file, *options, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["diagnosis"]
    assert found["samples"] == 10
    assert found["file_bytes"] == file.stat().st_size
    assert found["bottleneck"] == "step"
    assert found["prediction"]["images_per_second"] == pytest.approx(4 / 0.5)
    for change in found["changes"]:
        assert change["knob"] in (*FILE_KNOBS, *LOADER_KNOBS)
        assert change["file_bytes"] > 0
    text = run("doctor", file, *options).stdout
    for words in (
        "measured here",
        "predicted with 1 worker, batch size 4",
        "the bottleneck is your training step",
        "decode batch",
    ):
        assert words in text


@pytest.mark.parametrize("option", [("--step-ms", "0"), ("--batch-size", "0"), ("--size", "-3")])
def test_an_option_out_of_range_is_wrong_use(run, small, option):
    result = run("doctor", small, *option)
    assert result.exit_code == 2
    assert option[0] in result.stderr


def test_a_damaged_file_ends_in_one_line_and_no_json(run, small, damaged):
    from ffcv_gpu.format import open_beton

    result = run("doctor", damaged(int(open_beton(small).offsets("image")[3]) + 5), "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "sample 3, field 'image'" in result.stderr
