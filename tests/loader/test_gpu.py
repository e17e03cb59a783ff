"""The loader's way through a GPU, on a fake one: the same batches as on the CPU.

Work on the fake waits until somebody waits for it, so memory used again too early shows as wrong values.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from simplejpeg import decode_jpeg_header

from ffcv_gpu.fields.decoders import (
    CenterCropRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv_gpu.format import open_beton
from ffcv_gpu.jpeg.nvjpeg import NvjpegBackend
from ffcv_gpu.loader import Loader, OrderOption, gpu_batch
from ffcv_gpu.loader.gpu_fill import PartFiller
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.transforms import (
    NormalizeImage,
    RandomHorizontalFlip,
    RandomResizedCrop,
    ToDevice,
    ToTensor,
    ToTorchImage,
    View,
)
from tests.mixed_file import SETTINGS, N, crop, kept, on_cpu, pipelines, same_batches


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("os_cache", [True, False], ids=["mapped", "pread"])
@pytest.mark.parametrize("deferred", [True, False], ids=["late", "early"])
def test_batches_equal_the_cpu_s(gpu, files, share, os_cache, deferred):
    fake = gpu(deferred=deferred)
    loader = Loader(files[share], 8, pipelines=pipelines(), os_cache=os_cache, **SETTINGS)
    same_batches(kept(fake, loader, epochs=2), on_cpu(files[share], pipelines(None), epochs=2))
    counts = loader.stats().counts
    jpegs = sum((i * 7919 % N) / N < share for i in range(N))
    assert counts.get("jpeg: engine", 0) == 2 * jpegs
    assert counts.get("raw: crops from the file", 0) == 2 * (N - jpegs)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [True, False])
def test_every_type_and_layout(gpu, files, dtype, channels_last):
    fake = gpu()
    made = {"image": crop(0, dtype, channels_last)}
    loader = Loader(files[0.4], 8, pipelines=pipelines(**made), **SETTINGS)
    expected = on_cpu(files[0.4], pipelines(None, image=crop(None, dtype, channels_last)))
    same_batches(kept(fake, loader), expected)


@pytest.mark.parametrize(("settings", "several"), [({}, False), ({"jpeg_backend": "turbo"}, True)], ids=str)
def test_little_to_read_is_one_piece_and_little_to_decode_several(gpu, files, monkeypatch, settings, several):
    """Handing over a piece costs more than reading a few kilobytes, less than decoding them on the CPU."""
    gpu()
    monkeypatch.setattr(gpu_batch, "PIECE_BYTES", 50_000)
    seen, cut = [], PartFiller.pieces
    monkeypatch.setattr(PartFiller, "pieces", lambda *given: seen.append(cut(*given)) or seen[-1])
    for _ in Loader(files[1.0], 8, pipelines=pipelines(), **settings, **SETTINGS):
        pass
    assert (len(seen[0]) > 1) == several


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.float64])
def test_a_view_of_another_size(gpu, files, dtype):
    """Torch makes it of the finished batch, on the GPU."""
    fake = gpu()

    def viewed(device):
        norm, there = NormalizeImage([9], [2], np.float32), [] if device is None else [ToDevice(device)]
        steps = [CenterCropRGBImageDecoder((16, 16), 0.5), ToTensor(), *there, ToTorchImage(False), norm]
        return pipelines(device, image=[*steps, View(dtype)])

    loader = Loader(files[0.4], 8, pipelines=viewed(0), **SETTINGS)
    same_batches(kept(fake, loader), on_cpu(files[0.4], viewed(None)))


def test_the_position_of_to_device_does_not_matter(gpu, files):
    fake = gpu()
    late = [*crop(None), ToDevice("cuda")]
    loader = Loader(files[0.4], 8, pipelines=pipelines(image=late), **SETTINGS)
    assert "tail" not in loader.explain()
    same_batches(kept(fake, loader), on_cpu(files[0.4], pipelines(None)))
    assert fake.launches.launched == len(loader)


def test_several_outputs_of_one_decode(gpu, files):
    """Two views whose crops differ: a raw image is uploaded as far as either shows it, decoded once."""
    fake = gpu()

    def views(device):
        second = PipelineSpec(
            "image",
            CenterCropRGBImageDecoder((16, 16), 0.5),
            [ToTensor()] + ([ToDevice(0)] if device else []),
        )
        return pipelines(0 if device else None, second=second)

    loader = Loader(files[0.4], 8, pipelines=views(True), **SETTINGS)
    same_batches(kept(fake, loader), on_cpu(files[0.4], views(False)))
    jpegs = sum((i * 7919 % N) / N < 0.4 for i in range(N))
    assert loader.stats().counts["jpeg: engine"] == jpegs


def test_two_resamplings_are_two_launches(gpu, files):
    fake = gpu()

    def twice(device):
        there = [ToDevice(0)] if device else []
        steps = [CenterCropRGBImageDecoder((40, 44), 0.9), RandomHorizontalFlip(),
                 RandomResizedCrop((0.3, 1.0), (0.75, 4 / 3), 20), ToTensor(), *there]  # fmt: skip
        return pipelines(0 if device else None, image=steps)

    loader = Loader(files[0.4], 8, pipelines=twice(True), **SETTINGS)
    same_batches(kept(fake, loader), on_cpu(files[0.4], twice(False)))
    assert fake.launches.launched == 2 * len(loader)


def test_whole_images(gpu, equal_sizes):
    fake = gpu()
    made = pipelines(image=[SimpleRGBImageDecoder(), ToTensor(), ToDevice(0)])
    loader = Loader(equal_sizes, 8, pipelines=made, **SETTINGS)
    expected = on_cpu(equal_sizes, pipelines(None, image=[SimpleRGBImageDecoder(), ToTensor()]))
    same_batches(kept(fake, loader), expected)


# ---- bad images; what `on_error` makes of them is in `test_on_error`


def stored(path, sample):
    """The bytes of one sample's image."""
    beton = open_beton(path)
    offset, length = int(beton.offsets("image")[sample]), int(beton.lengths("image")[sample])
    return path.read_bytes()[offset : offset + length]


def test_one_bad_image_costs_no_other_its_pixels(gpu, files):
    """The batched call, of images sampled alike, fails as a whole; each is tried again on its own."""
    fake, settings = gpu(), {**SETTINGS, "order": OrderOption.SEQUENTIAL}
    loader = Loader(files[1.0], 8, pipelines=pipelines(), **settings)
    fake.nvjpeg.bad_image(stored(files[1.0], 5))
    same_batches(kept(fake, loader), on_cpu(files[1.0], pipelines(None), **settings))
    counts = loader.stats().counts
    assert counts["jpeg: failed batches"] == counts["jpeg: cpu, uploaded"] == 1
    samplings = [decode_jpeg_header(stored(files[1.0], sample))[3] for sample in range(8)]
    alike = samplings.count(samplings[5])
    assert 1 < alike < 8
    assert counts["jpeg: one by one, cpu huffman"] == alike - 1 and counts["jpeg: engine"] == N - alike


def test_an_image_that_is_skipped_in_silence_is_found_in_paranoid_mode(gpu, files):
    fake = gpu()
    loader = Loader(files[1.0], 8, pipelines=pipelines(), paranoid=True, **SETTINGS)
    fake.nvjpeg.skip_image(stored(files[1.0], 5))
    same_batches(kept(fake, loader), on_cpu(files[1.0], pipelines(None)))
    assert loader.stats().counts["jpeg: skipped in silence"] >= 1


def test_after_an_epoch_was_closed_nothing_of_it_goes_on(gpu, files, monkeypatch):
    """What had begun is waited for: it would be counted in the next epoch, or profile."""
    gpu()
    submit = NvjpegBackend.submit

    def slowly(self, *arguments):
        time.sleep(0.1)
        return submit(self, *arguments)

    monkeypatch.setattr(NvjpegBackend, "submit", slowly)
    loader = Loader(files[1.0], 4, pipelines=pipelines(), **SETTINGS)
    for _ in loader:
        break
    loader.close()
    loader.reset_stats()
    time.sleep(0.3)
    assert loader.stats().counts.get("jpeg: engine", 0) == 0
