"""View, Convert and NormalizeImage where they are not fused, compared with torch's and numpy's own."""

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import NDArrayField
from ffcv_gpu.fields.decoders import IntDecoder, NDArrayDecoder, SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.transforms import (
    Convert,
    ImageMixup,
    NormalizeImage,
    ReplaceLabel,
    Squeeze,
    ToTensor,
    ToTorchImage,
    View,
)
from ffcv_gpu.writer import DatasetWriter

MEAN, STD = np.array([120.0, 110.5, 99.25]), np.array([60.0, 55.5, 70.25])


def first(photo_file, image=None, label=None):
    """The first batch of 8: what is not None."""
    pipelines = {"image": image and [SimpleRGBImageDecoder(), *image], "label": label}
    return next(iter(Loader(photo_file.path, 8, pipelines=pipelines, seed=3)))


def test_a_dtype_that_torch_lacks_is_said_when_the_loader_is_made(tmp_path):
    days = np.array(["2026-11-26"], "datetime64[D]")
    writer = DatasetWriter(tmp_path / "x.beton", {"day": NDArrayField(days.dtype, 1)}, progress=False)
    writer.from_indexed_dataset([(days,)] * 2)
    with pytest.raises(PipelineError, match=r"'day': ToTensor: torch has no dtype 'datetime64\[D\]'"):
        Loader(tmp_path / "x.beton", 2)
    ((found,),) = Loader(tmp_path / "x.beton", 2, pipelines={"day": [NDArrayDecoder()]})
    assert (found == days).all() and found.dtype == days.dtype


def test_a_view_may_be_a_shape_that_begins_with_the_batch(photo_file):
    for shape, expected in ((-1, (8,)), ((-1,), (8,)), ((-1, 1, 1), (8, 1, 1))):
        (labels,) = first(photo_file, label=[IntDecoder(), ToTensor(), View(shape)])
        assert labels.shape == expected and labels.flatten().tolist() == list(range(8))
    (rows,) = first(photo_file, [View((-1, 40 * 48 * 3)), ToTensor()])
    assert np.array_equal(rows, photo_file.images[:8].reshape(8, -1))


@pytest.mark.parametrize("shape", [-1, (-1, 7)])
def test_a_view_does_not_mix_samples(photo_file, shape):
    with pytest.raises(PipelineError, match=r"pipeline 'image'.*View.*does not hold"):
        first(photo_file, [View(shape)])
    with pytest.raises(PipelineError, match="begins with -1"):
        View((8, -1))
    with pytest.raises(
        PipelineError, match=r"View.* does not hold as many values as a batch \(8, 40, 48, 3\)"
    ):
        first(photo_file, [ToTensor(), torch.nn.Identity(), View(shape)])  # known only now
    with pytest.raises(
        PipelineError, match=r"Squeeze\(4\): a batch of shape \(8, 40, 48, 3\) has no such axis"
    ):
        first(photo_file, [ToTensor(), torch.nn.Identity(), Squeeze(4)])
    with pytest.raises(PipelineError, match=r"ToTorchImage needs .* images, not a batch \(8, 5760\)"):
        first(photo_file, [ToTensor(), torch.nn.Flatten(), ToTorchImage()])
    with pytest.raises(PipelineError, match=r"View\(int16\) .* \(8, 40, 48, 3\) of uint8: .* has 3 bytes"):
        first(photo_file, [ToTensor(), torch.nn.Identity(), View("int16")])


@pytest.mark.parametrize("between", [[], [torch.nn.Identity()]], ids=["known", "after a module"])
def test_a_view_of_another_size_scales_the_last_axis_as_torchs_does(photo_file, between):
    labels = torch.arange(8)[:, None]
    steps = [IntDecoder(), ToTensor(), *between]
    for dtype in (torch.int32, torch.uint8, torch.float16, "bfloat16"):
        (found,) = first(photo_file, label=[*steps, View(dtype)])
        kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        assert found.dtype == kind and torch.equal(found.view(torch.int64), labels)
        assert found.shape == labels.view(kind).shape
    (back,) = first(photo_file, label=[*steps, View(torch.int32), View(torch.int64), Squeeze(1)])
    assert torch.equal(back, labels[:, 0])
    (images,) = first(photo_file, [ToTensor(), ToTorchImage(channels_last=False), *between, View("int32")])
    planes = np.ascontiguousarray(photo_file.images[:8].transpose(0, 3, 1, 2))
    assert np.array_equal(images, planes.view(np.int32))
    with pytest.raises(PipelineError, match=r"'label'.* the last axis is the batch|batch \(8,"):
        first(photo_file, label=[*steps, Squeeze(1), View(torch.int32)])
    with pytest.raises(PipelineError, match=r"8 bytes, no multiple of 16; View to a smaller|batch \(8, 1\)"):
        first(photo_file, label=[*steps, View(torch.complex128)])
    with pytest.raises(PipelineError, match=r"the last axis is not contiguous; put View before ToTorchImage"):
        first(photo_file, [ToTensor(), ToTorchImage(), *between, View("int32")])


def test_arrays_are_viewed_as_numpy_views_them(tmp_path):
    rows = np.arange(8 * 16, dtype=np.uint8).reshape(8, 16)
    writer = DatasetWriter(tmp_path / "x.beton", {"row": NDArrayField(rows.dtype, (16,))}, progress=False)
    writer.from_indexed_dataset([(row,) for row in rows])
    for steps in ([View("float32")], [View("float32"), ToTensor()], [ToTensor(), View(torch.float32)]):
        ((found,),) = Loader(tmp_path / "x.beton", 8, pipelines={"row": [NDArrayDecoder(), *steps]})
        assert found.shape == (8, 4) and np.array_equal(found, rows.view(np.float32), equal_nan=True)


@pytest.mark.parametrize("dims", [[1], (1,), (1, 2), [-1]])
def test_squeeze_takes_its_axes_as_a_list_as_torch_does(photo_file, dims):
    (labels,) = first(photo_file, label=[IntDecoder(), ToTensor(), View((-1, 1, 1)), Squeeze(dims)])
    assert torch.equal(labels, torch.arange(8).view(8, 1, 1).squeeze(dims))
    assert repr(Squeeze([1, 2])) == "Squeeze(1, 2)"
    for wrong in ([0], [1, "a"], ["a"]):
        with pytest.raises(PipelineError, match="Squeeze: "):
            Squeeze(wrong)


def test_a_normalisation_tells_its_type():
    assert NormalizeImage(MEAN, STD, np.float16).dtype is np.float16


@pytest.mark.parametrize("type_", [float, torch.float64, "float64"])
def test_float64_is_ffcvs_table(photo_file, type_):
    expected = ((np.arange(256)[:, None] - MEAN) / STD)[photo_file.images[:8], np.arange(3)]
    (arrays,) = first(photo_file, [NormalizeImage(MEAN, STD, type_)])
    (tensors,) = first(photo_file, [ToTensor(), ToTorchImage(), NormalizeImage(MEAN, STD, type_)])
    assert arrays.dtype == np.float64 and np.array_equal(arrays, expected)
    assert tensors.dtype == torch.float64 and np.array_equal(tensors.permute(0, 2, 3, 1), expected)
    (halves,) = first(photo_file, [NormalizeImage(MEAN, STD, type_), ToTensor(), Convert(torch.float16)])
    assert np.array_equal(halves, expected.astype(np.float16))


def test_normalising_what_a_module_flattened_is_along_the_last_axis(photo_file):
    steps = [ToTensor(), ToTorchImage(), torch.nn.Flatten(), NormalizeImage(100, 50, "float32")]
    (flat,) = first(photo_file, steps)
    images = photo_file.images[:8].transpose(0, 3, 1, 2).reshape(8, -1)
    assert np.allclose(flat, (images - 100.0) / 50, atol=1e-5)


class Named(torch.Tensor):
    """A tensor of a class that is not torch's, as torchvision's are."""


def test_steps_behind_a_module_take_tensors_of_any_class(photo_file):
    def named(batch):
        return batch.as_subclass(Named)

    mix = ImageMixup(0.4, same_lambda=False)
    steps = [mix, NormalizeImage(MEAN, STD, torch.float16)]
    pipelines = [[ToTensor(), ToTorchImage(), *between, *steps] for between in ([], [named])]
    plain, kept = (first(photo_file, steps)[0] for steps in pipelines)
    assert isinstance(kept, Named) and torch.equal(kept.as_subclass(torch.Tensor), plain)
    (labels,) = first(photo_file, label=[IntDecoder(), ToTensor(), named, ReplaceLabel([2], 77), Squeeze()])
    assert labels.tolist() == [0, 1, 77, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("step", [Convert(torch.float16), View(torch.int64)])
def test_what_a_module_made_that_is_no_tensor_is_named(photo_file, step):
    with pytest.raises((TypeError, AttributeError), match="tuple") as caught:
        first(photo_file, label=[IntDecoder(), ToTensor(), lambda batch: (batch, batch), step])
    assert any(type(step).__name__ in note for note in caught.value.__notes__)


def test_types_that_the_library_has_not_are_refused_when_the_loader_is_made(photo_file):
    with pytest.raises(PipelineError, match=r"pipeline 'label'.*Convert.*no dtype 'float128'"):
        first(photo_file, label=[IntDecoder(), ToTensor(), Convert(np.longdouble)])
    with pytest.raises(PipelineError, match=r"numpy has no bfloat16; put ToTensor\(\) before it"):
        first(photo_file, label=[IntDecoder(), Convert("bfloat16"), ToTensor()])
    (labels,) = first(photo_file, label=[IntDecoder(), ToTensor(), Convert("bfloat16")])
    assert labels.dtype == torch.bfloat16
