"""`PipelineSpec`, and pipelines that leave something out: what comes out is what FFCV gives."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import IntField, NDArrayField
from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.transforms import LabelRandomHorizontalFlip, RandomHorizontalFlip, Squeeze, ToTensor
from ffcv_gpu.writer import DatasetWriter
from tests.compat.operations import PIXELS, N


def batch(path, **pipelines):
    return next(iter(Loader(path, N, num_workers=1, seed=1, pipelines=pipelines)))


def printed(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_comes_out_is_ffcvs(ffcv_python, root, tmp_path):
    path, script = tmp_path / "x.beton", Path(__file__).with_name("pipelines_of_ffcv.py")
    fields = {"label": IntField(), "row": NDArrayField(np.dtype("u1"), (16,))}
    samples = [(i - 2, np.arange(16, dtype="u1") + np.uint8(i)) for i in range(4)]
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(samples)
    renamed = script.read_text().replace("from ffcv.", "from ffcv_gpu.")
    ours = printed([sys.executable, "-c", renamed, path])
    assert ours == printed([ffcv_python, script, path])
    assert [value[:3] for value in ours["empty"][0]] == [
        ["Tensor", "torch.int64", [4, 1]], ["Tensor", "torch.uint8", [4, 16]]
    ]  # fmt: skip


@pytest.mark.parametrize("decoder", [SimpleRGBImageDecoder, lambda: RandomResizedCropRGBImageDecoder((8, 8))])
def test_a_decoder_at_the_head_of_transforms_is_the_decoder(known, decoder):
    (plain,) = batch(known, image=[decoder(), ToTensor()], label=None)
    steps = [decoder(), ToTensor()]
    for spec in (PipelineSpec("image", transforms=steps), PipelineSpec("image", None, tuple(steps))):
        (found,) = batch(known, image=spec, label=None)
        assert torch.equal(found, plain)
    assert len(steps) == 2  # the list keeps its decoder


def test_two_decoders_and_a_decoder_behind_a_step_are_refused(known):
    spec = PipelineSpec("image", SimpleRGBImageDecoder(), [SimpleRGBImageDecoder(), ToTensor()])
    with pytest.raises(PipelineError, match=r"'image' has two decoders, Simple.*; leave out one"):
        batch(known, image=spec)
    flip = RandomHorizontalFlip()
    behind = PipelineSpec(flip, transforms=[SimpleRGBImageDecoder()])
    with pytest.raises(PipelineError, match=r"'view' goes on from RandomHorizontalFlip.* cannot have a dec"):
        batch(known, image=[SimpleRGBImageDecoder(), flip], view=behind)


def test_a_label_step_behind_a_decoder_or_another_pipeline_appends_its_columns(known):
    decoder, told = IntDecoder(), LabelRandomHorizontalFlip(0.5, seed=3)
    alone, listed, behind, after = batch(
        known,
        image=None,
        label=[decoder],
        listed=PipelineSpec("label", transforms=[told]),
        behind=PipelineSpec("label", IntDecoder(), [told]),
        after=PipelineSpec(decoder, transforms=[told]),
    )
    want = np.concatenate([alone, listed], axis=1)
    assert listed.shape == (N, 1) and np.array_equal(behind, want) and np.array_equal(after, want)


def test_what_is_appended_to_a_spec_takes_effect_at_the_next_epoch(known):
    spec = PipelineSpec("label", transforms=[IntDecoder(), ToTensor()])
    loader = Loader(known, N, num_workers=1, pipelines={"image": None, "label": spec})
    ((labels,),) = loader
    spec.transforms.append(Squeeze([1]))
    ((fewer,),) = loader
    assert labels.shape == (N, 1) and fewer.shape == (N,)
    loader.pipeline_specs["label"].transforms.append(Squeeze())
    assert len(loader.pipeline_specs["label"].transforms) == 2


def test_an_empty_list_is_the_default_pipeline_also_of_a_second_output(known):
    image, label, other, view = batch(
        known, image=[], other=PipelineSpec("image"), view=PipelineSpec("label")
    )
    assert all(isinstance(value, torch.Tensor) for value in (image, label, other, view))
    assert np.array_equal(image, PIXELS) and torch.equal(image, other) and torch.equal(label, view)
    (mapped,) = Loader(
        known, N, num_workers=1, pipelines={"image": None, "label": None, "own": []},
        custom_field_mapper={"own": "label"},
    )  # fmt: skip
    assert torch.equal(mapped[0], label)
    arrays = batch(known, image=[SimpleRGBImageDecoder()], label=PipelineSpec("label", IntDecoder()))
    assert all(isinstance(value, np.ndarray) for value in arrays)
