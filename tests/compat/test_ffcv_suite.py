"""FFCV's own test suite, its imports renamed and nothing else changed, run on ffcv_gpu.

Needs FFCV 1.0.2's source archive from PyPI, which FFCV_GPU_FFCV_SDIST names, and what its tests import:
assertpy, tqdm, webdataset, torchvision. CIFAR-10, which they download, is replaced by noise, and NCCL by gloo
without a GPU.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

#: calls generate_code() of a built-in decoder, which here is a description without code
WITHOUT_CODE = {
    "test_simple_image_dataset_raw",
    "test_simple_image_dataset_jpg",
    "test_simple_image_dataset_raw_compile",
    "test_simple_image_dataset_jpg_compile",
}
NEED_A_GPU = {"test_cuda", "test_gpu_normalization"}
ENDS = ("failure", "error", "skipped")

CONFTEST = """
import numpy as np, torch
from PIL import Image
if not torch.cuda.is_available():  # torchvision beside a torch without CUDA
    torch.library.register_fake = lambda *_, **__: lambda function: function
import torchvision.datasets

class Noise:
    def __init__(self, *_, **__): pass
    def __len__(self): return 1000
    def __getitem__(self, k):
        if not 0 <= k < len(self): raise IndexError
        pixels = np.random.default_rng(k).integers(0, 256, (32, 32, 3), np.uint8)
        return Image.fromarray(pixels), k % 10

torchvision.datasets.CIFAR10 = Noise
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    archive = os.environ.get("FFCV_GPU_FFCV_SDIST", "")
    if not Path(archive).is_file():
        pytest.skip("FFCV_GPU_FFCV_SDIST names no source archive of FFCV 1.0.2")
    for name in ("assertpy", "tqdm", "webdataset"):
        pytest.importorskip(name)
    with tarfile.open(archive) as parts:
        parts.extractall(tmp_path, filter="data")
    folder = tmp_path / "ffcv-1.0.2"
    for path in (folder / "tests").glob("*.py"):
        text = re.sub(r"\bffcv\b", "ffcv_gpu", path.read_text())
        path.write_text(text if torch.cuda.is_available() else text.replace("'nccl'", "'gloo'"))
    (folder / "tests" / "conftest.py").write_text(CONFTEST)
    return folder


def test_ffcvs_own_tests_pass(suite: Path) -> None:
    command = [sys.executable, "-m", "pytest", "tests", "-q", "-c", os.devnull, "--rootdir", ".", "-n", "2"]
    command += ["-p", "no:cacheprovider", "--timeout", "300", "--junitxml", "found.xml"]
    done = subprocess.run(command, cwd=suite, capture_output=True, text=True, timeout=1700)
    assert (suite / "found.xml").exists(), done.stdout + done.stderr
    cases = list(ElementTree.parse(suite / "found.xml").iter("testcase"))
    ends = {kind: [case.get("name") for case in cases if case.find(kind) is not None] for kind in ENDS}
    failed = {*ends["failure"], *ends["error"]}
    assert failed == WITHOUT_CODE | (set() if torch.cuda.is_available() else NEED_A_GPU), done.stdout
    assert len(cases) - len(ends["skipped"]) - len(failed) >= 70
