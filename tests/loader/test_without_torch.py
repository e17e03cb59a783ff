"""Where PyTorch is not installed: batches are numpy arrays, and what needs tensors says what to install."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.transforms import NormalizeImage, ToTensor
from tests.small_file import write_small


@pytest.fixture
def small(tmp_path: Path, make_photo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write_small(tmp_path / "small.beton", make_photo)
    monkeypatch.setitem(sys.modules, "torch", None)
    return path


def test_fields_without_a_pipeline_are_arrays(small: Path) -> None:
    head = CenterCropRGBImageDecoder((16, 16), 1.0)
    scale = NormalizeImage(np.zeros(3), np.ones(3), np.float32)
    with Loader(small, 5, pipelines={"image": [head, scale]}) as loader:
        images, labels, vectors = next(iter(loader))
    assert [type(part) for part in (images, labels, vectors)] == [np.ndarray] * 3
    assert images.shape == (5, 16, 16, 3) and labels.ravel().tolist() == [0, 1, 2, 3, 4]
    assert vectors[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_to_tensor_says_what_to_install(small: Path) -> None:
    head = CenterCropRGBImageDecoder((16, 16), 1.0)
    with pytest.raises(PipelineError, match=r"pipeline 'image': ToTensor needs PyTorch.*ffcv-gpu\[torch\]"):
        Loader(small, 5, pipelines={"image": [head, ToTensor()]})
