"""Which steps are fused, which run on the finished batch, and which lists are refused."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import (
    CenterCropRGBImageDecoder,
    CornerCropRGBImageDecoder,
    IntDecoder,
    RandomResizedCropRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.pipeline.fuse import fuse
from ffcv_gpu.pipeline.outputs import output_specs
from ffcv_gpu.steps import Source, printed
from ffcv_gpu.transforms import (
    Convert,
    Cutout,
    GaussianBlur,
    ModuleWrapper,
    NormalizeImage,
    RandomErasing,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomTranslate,
    Squeeze,
    ToDevice,
    ToTensor,
    ToTorchImage,
    View,
)

MEAN, STD = np.array([124.0, 117.0, 104.0]), np.array([58.0, 57.0, 57.0])
IMAGE = SimpleNamespace(get_decoder_class=lambda: SimpleRGBImageDecoder, metadata_type=np.dtype("V13"))
LABEL = SimpleNamespace(get_decoder_class=lambda: IntDecoder, metadata_type=np.dtype("<i8"))
FIELDS = {"image": IMAGE, "label": LABEL}


def program(steps, heights=(32, 32), widths=(40, 40)):
    spec = next(s for s in output_specs({"image": steps, "label": None}, FIELDS))
    return fuse(spec, Source("image", IMAGE, np.array(heights), np.array(widths)), "cpu")


def test_the_usual_training_pipeline_is_one_launch():
    made = program(
        [
            RandomResizedCropRGBImageDecoder((24, 20)),
            RandomHorizontalFlip(),
            Cutout(4),
            ToTensor(),
            ToTorchImage(),
            NormalizeImage(MEAN, STD, np.float16),
        ]
    )
    assert len(made.stages) == 1 and made.tail == ()
    assert made.stages[0].dtype == "float16" and not made.stages[0].planar
    assert (made.spec.shape, made.spec.dtype, made.spec.container) == ((3, 24, 20), "float16", "tensor")
    assert all("fused launch 1" in where for _, where in made.notes)


def test_contiguous_layout_is_written_by_the_launch():
    made = program([CenterCropRGBImageDecoder((8, 8), 0.5), ToTensor(), ToTorchImage(channels_last=False)])
    assert made.stages[0].planar and made.stages[0].memory_shape == (3, 8, 8)


def test_a_module_closes_the_fused_part_and_the_rest_follows_it():
    module = torch.nn.Identity()
    made = program(
        [SimpleRGBImageDecoder(), ToTensor(), ToTorchImage(), Convert(torch.float32), module, View("int32")]
    )
    assert [type(t.step) for t in made.tail] == [ModuleWrapper, View]
    assert made.fused.dtype == "float32" and made.stages[0].dtype == "float32"
    assert made.spec.shape is None


def test_whole_images_followed_by_a_crop_are_sampled_once_even_if_sizes_differ():
    crop = RandomResizedCrop((0.5, 1.0), (1.0, 1.0), 16)
    made = program([SimpleRGBImageDecoder(), crop], heights=(32, 50))
    assert len(made.stages) == 1 and made.stages[0].sampling is crop


def test_a_crop_behind_a_crop_is_a_second_launch():
    made = program(
        [
            RandomResizedCropRGBImageDecoder((24, 24)),
            RandomResizedCrop((0.5, 1.0), (1.0, 1.0), 16),
            ToTensor(),
            ToTorchImage(),
        ]
    )
    assert [stage.frame for stage in made.stages] == [(24, 24), (16, 16)]
    assert made.spec.shape == (3, 16, 16)


def test_a_mirror_between_two_lookups_is_in_their_launch():
    """It fills with no values of its own, so that it need not come after both."""
    flip = RandomHorizontalFlip()
    made = program(
        [SimpleRGBImageDecoder(), NormalizeImage(MEAN, STD, "float32"), flip, Convert("float16"), Cutout(3)]
    )
    assert len(made.stages) == 1 and not made.tail
    mirrored, erased = made.stages[0].actions
    assert (mirrored.step, mirrored.late, erased.late) == (flip, False, True)
    assert made.stages[0].dtype == "float16"


def test_a_shape_that_a_module_left_unknown_stays_so():
    made = program(
        [SimpleRGBImageDecoder(), ToTensor(), torch.nn.Identity(), ToTorchImage(), View((-1, 32 * 40 * 3))]
    )
    assert made.tail[-1].spec.shape is None and made.spec.shape == (3840,)


def test_normalised_table_equals_ffcvs_formula():
    made = program([SimpleRGBImageDecoder(), NormalizeImage(MEAN, STD, np.float16)])
    expected = ((np.arange(256)[None, :] - MEAN[:, None]) / STD[:, None]).astype(np.float16)
    assert np.array_equal(made.stages[0].table.view(np.float16), expected)


@pytest.mark.parametrize("value", [0.0, 1.0, 100.1, -3.3e-5, 250.7])
def test_bfloat16_bits_equal_torchs(value):
    mean = np.full(3, value)
    made = program([SimpleRGBImageDecoder(), ToTensor(), NormalizeImage(mean, STD, torch.bfloat16)])
    exact = ((np.arange(256)[None, :] - mean[:, None]) / STD[:, None]).astype(np.float32)
    expected = torch.from_numpy(exact).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(made.stages[0].table, expected)


def test_the_same_object_in_two_pipelines_has_one_draw():
    flip, other = RandomHorizontalFlip(), RandomHorizontalFlip()
    a, b, c = RandomResizedCropRGBImageDecoder((8, 8)), RandomResizedCropRGBImageDecoder((8, 8)), IntDecoder()
    outputs = output_specs(
        {"image": [a, flip], "view2": PipelineSpec("image", b, [flip, other]), "label": [c]}, FIELDS
    )
    one, two = outputs[0], outputs[2]
    assert [o.name for o in outputs] == ["image", "label", "view2"]
    assert one.draws[flip] == two.draws[flip]
    assert len({one.draws[a], two.draws[b], two.draws[flip], two.draws[other]}) == 4


def test_a_pipeline_may_continue_behind_a_step_of_another():
    flip, erase = RandomHorizontalFlip(), Cutout(3)
    decoder = RandomResizedCropRGBImageDecoder((8, 8))
    outputs = output_specs(
        {
            "image": [decoder, flip, erase],
            "plain": PipelineSpec(flip, transforms=[ToTensor()]),
            "label": None,
        },
        FIELDS,
    )
    assert [type(s) for s in outputs[1].steps] == [RandomHorizontalFlip, ToTensor]
    assert outputs[1].steps[0] is flip and outputs[1].decoder is decoder


def test_a_view_may_continue_behind_a_step_of_a_view():
    flip, erase, shift = RandomHorizontalFlip(), Cutout(3), RandomTranslate(2)
    pipelines = {
        "image": [SimpleRGBImageDecoder(), flip],
        "last": PipelineSpec(erase, transforms=[ToTensor()]),
        "plain": PipelineSpec(flip, transforms=[shift, erase, Squeeze()]),
        "label": None,
    }
    image, last, plain = output_specs(pipelines, FIELDS)
    assert last.steps[:3] == plain.steps[:3] == (flip, shift, erase) and len(last.steps) == 4
    assert last.decoder is image.decoder and [last.draws[s] for s in (shift, erase)] == [
        plain.draws[s] for s in (shift, erase)
    ]
    with pytest.raises(PipelineError, match=r"'last': its source .* is in no other pipeline"):
        output_specs({"last": PipelineSpec(erase, transforms=[erase])}, FIELDS)
    circle = {
        "plain": PipelineSpec(erase, transforms=[shift]),
        "last": PipelineSpec(shift, transforms=[erase]),
    }
    with pytest.raises(PipelineError, match="is in no other pipeline"):
        output_specs(circle, FIELDS)
    with pytest.raises(
        PipelineError, match=r"'view' goes on from RandomHorizontalFlip.* cannot have a decoder"
    ):
        output_specs({**pipelines, "view": PipelineSpec(flip, SimpleRGBImageDecoder())}, FIELDS)


@pytest.mark.parametrize("source", [torch.nn.Identity(), 5])
def test_a_view_of_no_step_is_refused(source):
    view = {"image": [SimpleRGBImageDecoder(), ToTensor(), torch.nn.Identity()], "view": PipelineSpec(source)}
    with pytest.raises(PipelineError, match=r"'view' must come from a field, .* not from (Identity|5)"):
        output_specs(view, FIELDS)


def test_lists_are_not_changed():
    steps = [SimpleRGBImageDecoder(), ToTensor(), torch.nn.Identity()]
    before = list(steps)
    program(steps)
    program(steps)
    assert steps == before


@pytest.mark.parametrize(
    ("steps", "word"),
    [
        ([SimpleRGBImageDecoder(), ToTorchImage()], "ToTensor"),
        ([SimpleRGBImageDecoder(), torch.nn.Identity()], "ToTensor"),
        (
            [SimpleRGBImageDecoder(), ToTensor(), torch.nn.Identity(), RandomHorizontalFlip()],
            "move it before",
        ),
        (
            [
                SimpleRGBImageDecoder(),
                NormalizeImage(MEAN, STD, "float32"),
                RandomResizedCrop((0.5, 1), (1, 1), 8),
            ],
            "uint8",
        ),
        ([SimpleRGBImageDecoder(), Cutout(33)], "does not fit"),
        ([SimpleRGBImageDecoder(), Cutout(3, fill=(1, 2))], "2 values"),
        ([SimpleRGBImageDecoder(), NormalizeImage(MEAN[:2], STD, "float32")], "2 values"),
        ([SimpleRGBImageDecoder(), NormalizeImage(MEAN, STD, "bfloat16")], "no bfloat16"),
        (
            [SimpleRGBImageDecoder(), Convert("bfloat16"), Squeeze(), ToTensor()],
            r"bfloat16; put ToTensor\(\) before Squeeze",
        ),
        (
            [SimpleRGBImageDecoder(), Convert("float16"), View("bfloat16"), ToTensor()],
            r"View: .* no dtype of numbers 'bfloat16'; put ToTensor\(\) before it",
        ),
        ([SimpleRGBImageDecoder(), Convert("S5")], "no dtype of numbers"),
        (
            [SimpleRGBImageDecoder(), Convert("float32"), RandomTranslate(2), Convert("float16")],
            r"follows RandomTranslate\(padding=2\), which fills",
        ),
        (
            [SimpleRGBImageDecoder(), View((-1, 3840)), NormalizeImage(MEAN, STD, "float32")],
            "3 values for images of 3840 channels",
        ),
        ([SimpleRGBImageDecoder(), ToTensor(), ToTorchImage(), ToTorchImage()], "ToTorchImage"),
        ([SimpleRGBImageDecoder(), SimpleRGBImageDecoder()], "must come first"),
        ([SimpleRGBImageDecoder, ToTensor()], "is a class"),
        ([SimpleRGBImageDecoder(), "flip"], "neither a step"),
        ([SimpleRGBImageDecoder(), View("float32")], r"3 bytes, no multiple of 4; .*Convert changes"),
        ([SimpleRGBImageDecoder(), ToDevice(0)], "ToTensor"),
        ([SimpleRGBImageDecoder(), Squeeze(7)], "no such axis"),
        ([IntDecoder()], "decodes integers"),
        (5, "must be a list"),
    ],
)
def test_impossible_lists_are_refused_with_the_outputs_name(steps, word):
    with pytest.raises(PipelineError, match=word) as caught:
        program(steps)
    assert "'image'" in str(caught.value)


def test_images_of_many_sizes_need_a_crop():
    with pytest.raises(PipelineError, match=r"heights 32 to 50"):
        program([SimpleRGBImageDecoder(), RandomHorizontalFlip()], heights=(32, 50))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: RandomHorizontalFlip(1.5), "between 0 and 1"),
        (lambda: Cutout(0), "crop_size"),
        (lambda: Cutout(2, fill=()), "fill"),
        (lambda: RandomTranslate(-1), "padding"),
        (lambda: RandomTranslate(None), "padding must be a whole number"),
        (lambda: RandomTranslate(float("nan")), "padding must be a whole number"),
        (lambda: RandomTranslate(1, fill="red"), "fill"),
        (lambda: RandomResizedCropRGBImageDecoder((0, 4)), "output_size"),
        (lambda: RandomResizedCropRGBImageDecoder(None), "output_size"),
        (lambda: RandomResizedCropRGBImageDecoder((4, 4), ratio=(1, float("inf"))), "ratio"),
        (lambda: RandomResizedCropRGBImageDecoder((4, 4), scale=(0.5, 0.1)), "scale"),
        (lambda: RandomResizedCropRGBImageDecoder((4, 4), ratio=5), "ratio"),
        (lambda: RandomResizedCropRGBImageDecoder((4, 4), resize="cubic"), "resize"),
        (lambda: GaussianBlur(1.0, 3, (0.1,)), "sigma must be two numbers"),
        (lambda: CenterCropRGBImageDecoder((4, 4), 1.5), "ratio must be a number > 0 and <= 1, not 1.5"),
        (lambda: CenterCropRGBImageDecoder((4, 4), 0), "ratio must be a number > 0 and <= 1, not 0"),
        (lambda: CornerCropRGBImageDecoder((4, 4), (0.5, 1)), "ratio must be a number .*, not .0.5, 1."),
        (lambda: RandomResizedCrop((0.5, 1), (1, 1), 0), "RandomResizedCrop: size must be"),
        (lambda: RandomErasing(mean="grey"), "RandomErasing: mean must be a number"),
        (lambda: PipelineSpec("image", transforms=ToTensor()), "transforms must be a list of steps"),
        (lambda: NormalizeImage(MEAN, [0, 1, 1], np.float32), "std must not be 0"),
        (lambda: NormalizeImage(MEAN, STD, np.int32), "type must be"),
        (lambda: NormalizeImage("mean", STD, np.float32), "NormalizeImage: mean must be numbers"),
        (lambda: NormalizeImage(MEAN, STD * np.nan, np.float32), "std must be finite numbers"),
        (lambda: NormalizeImage(MEAN, STD, None), "None is not a dtype"),
        (lambda: Convert(torch.ones(3)), "is not a dtype"),
        (lambda: RandomHorizontalFlip("often"), "RandomHorizontalFlip: a probability"),
        (lambda: RandomHorizontalFlip(None), "RandomHorizontalFlip: a probability"),
        (lambda: RandomTranslate(10**6), "padding must be a whole number >= 0 and <= 65535"),
        (lambda: RandomTranslate(10**400), "padding must be a whole number"),
        (lambda: CenterCropRGBImageDecoder("64", 1), r"output_size must be \(height, width\) .* not '64'"),
        (lambda: CenterCropRGBImageDecoder(np.float16, 1), "output_size must be a whole number"),
        (lambda: CenterCropRGBImageDecoder((8, 10**9), 1), "output_size must be .* <= 65535"),
        (lambda: Squeeze("width"), "Squeeze: an axis must be a whole number"),
        (lambda: View((-1, "a")), "View: a side of a shape must be a whole number"),
        (lambda: NormalizeImage(MEAN, STD, np.float32, where="tpu"), "where"),
        (lambda: Convert("no_such_type"), "not a dtype"),
        (lambda: Squeeze(0), "batch"),
        (lambda: ToDevice("tpu"), "is not a device"),
    ],
)
def test_bad_arguments_fail_when_the_step_is_made(make, word):
    with pytest.raises(PipelineError, match=word):
        make()


DECODER, CROP = RandomResizedCropRGBImageDecoder, RandomResizedCrop


@pytest.mark.parametrize(
    ("step", "name", "value", "wrong"),
    [
        (DECODER((8, 8)), "output_size", (16, 12), (16, -1)),
        (DECODER((8, 8)), "scale", (0.5, 1.0), (1.0, 0.5)),
        (DECODER((8, 8)), "scale", (0.5, 1.0), (0.5, 2.0)),
        (DECODER((8, 8)), "scale", (0.5, 1.0), 0.5),
        (DECODER((8, 8)), "ratio", (1.0, 2.0), None),
        (DECODER((8, 8)), "resize", "antialias", "bicubic"),
        (CenterCropRGBImageDecoder((8, 8), 1.0), "ratio", 0.5, 2.0),
        (CornerCropRGBImageDecoder((8, 8), 1.0), "ratio", 0.5, "x"),
        (CROP((0.1, 1), (1, 1), 8), "scale", (0.5, 1.0), (0, 1)),
        (CROP((0.1, 1), (1, 1), 8), "size", (16, 12), 0),
    ],
    ids=repr,
)
def test_what_is_assigned_to_a_crop_is_checked_at_once(step, name, value, wrong):
    setattr(step, name, value)
    for each in (step, pickle.loads(pickle.dumps(step)), copy.copy(step)):
        assert getattr(each, name) == value and f"{name}={printed(value)}" in repr(each)
    with pytest.raises(PipelineError, match=f"{type(step).__name__}: {name} must be"):
        setattr(step, name, wrong)
    assert getattr(step, name) == value


def test_a_crop_has_no_arguments_before_its_constructor():
    made = object.__new__(DECODER)
    assert not hasattr(made, "output_size") and not hasattr(made, "scale")


@pytest.mark.parametrize("device", [0, "cuda", "cuda:0", torch.device("cuda", 0), torch.device("cuda")])
def test_device_spellings_are_equal(device):
    assert ToDevice(device).target == "cuda:0"
