"""``bench``: that it measures this file and this pipeline. How fast it is, no test says."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest


def measured(run, path, *options):
    result = run("bench", path, "--size", "32", "--batch-size", "4", "--workers", "2", "--json", *options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("dtype", "bytes_per_value"), [("uint8", 1), ("float16", 2), ("bfloat16", 2), ("float32", 4)]
)
def test_all_samples_go_through(run, small, dtype, bytes_per_value):
    found = measured(run, small, "--epochs", "2", "--dtype", dtype)
    assert found["samples"] == 14
    assert len(found["epochs"]) == 2
    assert sum(found["routes"].values()) == 2 * 14
    assert found["stages"]["compose"]["items"] == 2 * 14
    seconds = sum(epoch["seconds"] for epoch in found["epochs"])
    assert found["samples_per_second"] == pytest.approx(28 / seconds)
    # per sample: the image, label and score of 8 bytes, a vector of 24, a text of at most 52
    out_bytes = 14 * (32 * 32 * 3 * bytes_per_value + 8 + 8 + 24 + 52)
    assert found["output_bytes_per_second"] == pytest.approx(2 * out_bytes / seconds)
    assert ("NormalizeImage" in found["pipelines"]) == (dtype != "uint8")
    assert "RandomResizedCropRGBImageDecoder" in found["pipelines"]


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_images_of_any_depth_masks_and_arrays_of_any_length(run, tmp_path, caplog, dtype):
    from ffcv_gpu.fields import ImageField, MaskField, RaggedField, RGBImageField
    from ffcv_gpu.writer import DatasetWriter

    grey = np.full((40, 50), 7, np.uint8)
    colours, numbers = np.dstack([grey] * 3), np.zeros((2, 5), np.float32)
    sample = colours, grey, grey.astype(np.uint16), np.dstack([grey] * 4), numbers
    fields = {
        "image": RGBImageField(), "mask": MaskField(), "depth": ImageField(1, "uint16"),
        "rgba": ImageField(4), "numbers": RaggedField("float32", (5,)),
    }  # fmt: skip
    DatasetWriter(tmp_path / "many.beton", fields, progress=False).from_indexed_dataset([sample] * 4)
    found = measured(run, tmp_path / "many.beton", "--epochs", "1", "--dtype", dtype)
    wide = 1 if dtype == "uint8" else 2
    pixels = 32 * 32 * (3 * wide + 1 + (2 if dtype == "uint8" else wide) + 4 * wide)
    offsets = 5 * 8
    seconds = found["epochs"][0]["seconds"]
    assert found["output_bytes_per_second"] * seconds == pytest.approx(4 * (pixels + 2 * 5 * 4) + offsets)
    assert "mask" not in caplog.text  # it is cropped like its image


@pytest.mark.parametrize(("verb", "options"), [("bench", ("--epochs", "1")), ("doctor", ())])
def test_no_advice_on_pipelines_that_are_not_the_users(run, tmp_path, caplog, verb, options):
    """A Loader of this file warns that its boxes stay where they are while its pixels are cropped."""
    from ffcv_gpu.fields import RaggedField, RGBImageField
    from ffcv_gpu.fields.decoders import RandomResizedCropRGBImageDecoder
    from ffcv_gpu.loader import Loader
    from ffcv_gpu.writer import DatasetWriter

    path, fields = tmp_path / "boxes.beton", {"image": RGBImageField(), "boxes": RaggedField("float32", (4,))}
    sample = np.full((40, 50, 3), 7, np.uint8), np.zeros((2, 4), np.float32)
    DatasetWriter(path, fields, progress=False).from_indexed_dataset([sample] * 4)
    pipelines = {"image": [RandomResizedCropRGBImageDecoder((32, 32))]}
    Loader(path, 4, pipelines=pipelines)
    assert caplog.text.count("BoxDecoder") == 1
    caplog.clear()
    assert run(verb, path, "--size", "32", "--batch-size", "4", *options).exit_code == 0
    assert not caplog.text
    Loader(path, 4, pipelines=pipelines)
    assert caplog.text.count("BoxDecoder") == 1


def test_a_part_of_the_file_and_the_central_crop(run, small, cpu_decoder):
    found = measured(run, small, "--epochs", "1", "--samples", "5", "--crop", "center")
    assert found["samples"] == 5
    assert found["routes"] == {f"jpeg: {cpu_decoder}": 3, "raw: from the file": 2}
    assert "CenterCropRGBImageDecoder" in found["pipelines"]


def test_the_table_names_stages(run, small, cpu_decoder):
    result = run("bench", small, "--size", "32", "--epochs", "1", "--workers", "1")
    assert result.exit_code == 0
    words = ("decode", "compose", "threads busy", "samples/s", "second of CPU time")
    for word in (*words, f"jpeg: {cpu_decoder} 7"):
        assert word in result.stdout


def test_on_a_gpu(run, small, monkeypatch):
    pytest.importorskip("torch")
    from tests.fake_gpu import FakeGpu, put_in_place

    fake = FakeGpu()
    put_in_place(fake, monkeypatch)
    found = measured(run, small, "--epochs", "2", "--dtype", "float16", "--device", "cuda:0")
    assert "runs on cuda:0" in found["pipelines"]
    assert found["routes"]["jpeg: engine"] == 2 * 7
    assert found["stages"]["launch"]["items"] == 2 * 14
    gc.collect()
    fake.close()


def test_a_gpu_that_is_not_there_is_one_line(run, small):
    result = run("bench", small, "--device", "cuda:99")
    assert result.exit_code == 1
    assert "device 'cuda:99'" in result.stderr and result.stderr.count("\n") == 1


def test_damage_is_one_line(run, small, damaged):
    from ffcv_gpu.format import open_beton

    result = run("bench", damaged(int(open_beton(small).offsets("image")[3]) + 5), "--epochs", "1")
    assert result.exit_code == 1
    assert "sample 3, field 'image'" in result.stderr
    assert result.stderr.count("\n") == 1


def test_files_of_ffcv(run, reference_betons, no_turbojpeg):
    found = measured(run, reference_betons / "scalars.beton", "--epochs", "1")
    assert found["samples"] == 24
    assert measured(run, reference_betons / "jpg.beton", "--epochs", "1")["routes"] == {"jpeg: turbo": 24}
