"""What runs on the GPU and what on the CPU, and who decodes."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from ffcv_gpu.device import discovery
from ffcv_gpu.errors import BackendUnavailable, PipelineError
from ffcv_gpu.fields import (
    ImageField,
    MaskField,
    RaggedField,
    RGBImageField,
)
from ffcv_gpu.fields.decoders import (
    IntDecoder,
    RandomResizedCropRGBImageDecoder,
)
from ffcv_gpu.fields.ragged import BoxDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.native import nvjpeg_library
from ffcv_gpu.pipeline.operation import AllocationQuery, Operation
from ffcv_gpu.transforms import (
    NormalizeImage,
    RandomHorizontalFlip,
    Squeeze,
    ToDevice,
    ToTensor,
    ToTorchImage,
)
from ffcv_gpu.writer import DatasetWriter
from tests.mixed_file import MEAN, SETTINGS, STD, crop, kept, number, on_cpu, pipelines, same_batches


def test_labels_stay_on_the_cpu_without_to_device(gpu, files):
    fake = gpu()
    loader = Loader(files[0.4], 8, pipelines=pipelines(label=number(None)), **SETTINGS)
    same_batches(kept(fake, loader), on_cpu(files[0.4], pipelines(None)))
    text = loader.explain()
    assert "runs on cuda:0: " in text and "decoded by nvjpeg" in text
    assert "'label': tensor (N) int64 on cpu" in text


@pytest.mark.parametrize(
    ("engines", "words"), [(7, "(JPEG engines, 7 images at once)"), (0, "(the GPU's cores; no JPEG engine)")]
)
def test_explain_says_what_of_the_gpu_decodes(gpu, files, engines, words):
    gpu(engines=engines)
    loader = Loader(files[0.4], 8, pipelines=pipelines(), **SETTINGS)
    assert f"decoded by nvjpeg {words}; " in loader.explain()


def test_the_cpu_may_decode_for_the_gpu(gpu, files):
    fake = gpu()
    loader = Loader(files[0.4], 8, pipelines=pipelines(), jpeg_backend="turbo", **SETTINGS)
    same_batches(kept(fake, loader), on_cpu(files[0.4], pipelines(None)))
    assert not fake.nvjpeg.calls
    assert loader.stats().counts["jpeg: turbo"]


def test_normalise_on_the_cpu_and_upload(gpu, files, monkeypatch):
    """where="cpu": the whole pipeline runs on the CPU; on the fake, "uploading" is a copy."""
    fake = gpu()
    monkeypatch.setattr(ToDevice, "apply", lambda self, batch, spec: batch.clone())
    steps = [*crop()[:-1], NormalizeImage(MEAN, STD, np.float16, where="cpu")]
    loader = Loader(files[0.4], 8, pipelines=pipelines(image=steps), **SETTINGS)
    same_batches(kept(fake, loader), on_cpu(files[0.4], pipelines(None)))
    assert fake.launches.launched == 0


def test_normalise_on_the_gpu_is_refused_without_one(files):
    steps = [*crop(None)[:-1], NormalizeImage(MEAN, STD, np.float16, where="gpu")]
    with pytest.raises(PipelineError, match=r"where='gpu'.*ToDevice\(0\)"):
        Loader(files[0.4], 8, pipelines=pipelines(None, image=steps))


class AddOne(Operation):
    def generate_code(self):
        def add(batch, memory):
            memory[:] = batch + 1
            return memory

        return add

    def declare_state_and_memory(self, previous_state):
        return previous_state, AllocationQuery(previous_state.shape, previous_state.dtype)


def test_a_user_s_operation_keeps_its_pipeline_on_the_cpu(gpu, files, monkeypatch, caplog):
    gpu()
    monkeypatch.setattr(ToDevice, "apply", lambda self, batch, spec: batch.clone())
    own = [IntDecoder(), AddOne(), ToTensor(), ToDevice(0), Squeeze(1)]
    with caplog.at_level(logging.WARNING):
        loader = Loader(files[0.4], 8, pipelines=pipelines(label=own), **SETTINGS)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning == "pipeline 'label' runs on the CPU, and its result is uploaded, because of AddOne()"
    expected = on_cpu(files[0.4], pipelines(None))
    labels = torch.cat([batch[1] for batch in loader])
    assert torch.equal(labels, torch.cat([batch[1] for batch in expected]) + 1)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, make_photo):
    """A file of other images than 3 x 8 bits, and boxes."""
    fields = {"image": RGBImageField(), "mask": MaskField(), "rgba": ImageField(4)}
    fields |= {"deep": ImageField(1, "uint16"), "boxes": RaggedField("float32", 4)}
    rows = []
    for k in range(9):
        photo = make_photo(40 + k, 50, k)
        rgba = np.concatenate([photo, 255 - photo[..., :1]], axis=2)
        boxes = np.full((k % 3, 4), k, np.float32)
        rows.append((photo, photo[..., 0] // 64, rgba, photo[..., 1] * np.uint16(257), boxes))
    path = tmp_path_factory.mktemp("kinds") / "kinds.beton"
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(rows)
    return path


def of_kinds(*last):
    crop, flip = RandomResizedCropRGBImageDecoder((16, 20)), RandomHorizontalFlip()
    made = {name: [crop, flip, ToTensor(), *last] for name in ("image", "mask", "rgba", "deep")}
    made["rgba"] += [ToTorchImage(), NormalizeImage([1, 2, 3, 4], [5, 6, 7, 8], np.float16)]
    return made | {"boxes": [BoxDecoder("image"), ToTensor(), *last]}


@pytest.mark.parametrize("os_cache", [True, False], ids=["mapped", "pread"])
def test_other_kinds_of_image_on_the_gpu_or_uploaded(gpu, kinds, monkeypatch, caplog, os_cache):
    fake = gpu()
    monkeypatch.setattr(ToDevice, "apply", lambda self, batch, spec: batch.clone())
    with caplog.at_level(logging.WARNING):
        loader = Loader(kinds, 4, pipelines=of_kinds(ToDevice(0)), os_cache=os_cache, **SETTINGS)
    said = [
        record.getMessage().partition(" runs on the CPU, and its result is uploaded")
        for record in caplog.records
    ]
    assert [name for name, _, _ in said] == ["pipeline 'deep'", "pipeline 'boxes'"]
    assert said[0][2].startswith(", because of ImageField(channels=1, dtype='uint16'")
    found, expected = kept(fake, loader), on_cpu(kinds, of_kinds(), batch_size=4)
    same_batches([batch[:4] for batch in found], [batch[:4] for batch in expected])
    same_batches([batch[4] for batch in found], [batch[4] for batch in expected])


def test_without_nvjpeg_the_loader_is_not_made(gpu, files, monkeypatch):
    gpu()

    def missing():
        raise BackendUnavailable("nvJPEG not found. Looked for ...")

    monkeypatch.setattr(nvjpeg_library, "library", missing)
    with pytest.raises(BackendUnavailable, match="nvJPEG not found"):
        Loader(files[1.0], 8, pipelines=pipelines())
    # a file without JPEGs needs none
    assert len(list(Loader(files[0.0], 8, pipelines=pipelines(), **SETTINGS))) == 6


def test_backend_names(gpu, files):
    gpu()
    with pytest.raises(
        PipelineError, match="jpeg_backend must be None, 'turbo', 'turbo2', 'turbo3' or 'nvjpeg', not 'dali'"
    ):
        Loader(files[1.0], 8, pipelines=pipelines(), jpeg_backend="dali")
    with pytest.raises(PipelineError, match="no pipeline runs on one"):
        Loader(files[1.0], 8, pipelines=pipelines(None), jpeg_backend="nvjpeg")


def test_device_argument_overrides_the_pipelines(gpu, files):
    fake = gpu()
    loader = Loader(files[0.4], 8, pipelines=pipelines(None), device="cuda:0", **SETTINGS)
    same_batches(kept(fake, loader), on_cpu(files[0.4], pipelines(None)))
    assert fake.launches.launched
    back = Loader(files[0.4], 8, pipelines=pipelines(0), device="cpu", **SETTINGS)
    launched = fake.launches.launched
    same_batches(list(back), on_cpu(files[0.4], pipelines(None)))
    assert fake.launches.launched == launched


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_the_loader_keeps_its_gpu_when_another_becomes_current(gpu, files, monkeypatch, device):
    fake = gpu()
    loader = Loader(files[0.4], 8, pipelines=pipelines(None), device=device, **SETTINGS)
    monkeypatch.setattr(discovery, "_torch_cuda", Elsewhere)
    assert ToDevice("cuda").target == "cuda:3"
    kept(fake, loader)
    assert "runs on cuda:0: " in loader.explain() and "cuda:3" not in loader.explain()


class Elsewhere:
    """torch.cuda after ``set_device(3)``, as far as `discovery` asks it."""

    def is_initialized(self):
        return True

    def current_device(self):
        return 3
