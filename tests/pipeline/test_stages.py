"""Which launches colour operations and passes become, and what the plan says of each."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import (
    IntDecoder,
    PadRGBImageDecoder,
    RandomResizedCropRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv_gpu.kernels.codes import BRIGHTNESS, CONTRAST, ERASE_INSIDE, ERASE_OUTSIDE, HUE, SATURATION
from ffcv_gpu.pipeline.fuse import fuse
from ffcv_gpu.pipeline.outputs import output_specs
from ffcv_gpu.pipeline.program import FusedStage, PassStage
from ffcv_gpu.plan import ImagePayloads, PassPlan, Planner, StagePlan, stage_program
from ffcv_gpu.steps import Source
from ffcv_gpu.transforms import (
    Cutout,
    GaussianBlur,
    NormalizeImage,
    RandAugment,
    RandomBrightness,
    RandomColorJitter,
    RandomContrast,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomSaturation,
    RandomTranslate,
    Rotate,
    ToTensor,
    ToTorchImage,
)

IMAGE = SimpleNamespace(get_decoder_class=lambda: SimpleRGBImageDecoder, metadata_type=np.dtype("V13"))
N, HEIGHT, WIDTH = 6, 32, 40


def program(steps, channels=3, heights=None):
    (spec,) = output_specs({"image": steps}, {"image": IMAGE})
    sizes = np.full(N, HEIGHT) if heights is None else np.array(heights), np.full(N, WIDTH)
    return fuse(spec, Source("image", IMAGE, *sizes, channels=channels), "cpu")


def planned(made, seed=1):
    zeros = np.zeros(N, np.int64)
    sizes = np.full(N, HEIGHT), np.full(N, WIDTH)
    payloads = ImagePayloads(zeros, zeros, None, np.ones(N, np.uint8), *sizes)
    plan = Planner([made], {"image": payloads}, seed=seed, epoch=0).plan(0, np.arange(N))
    return plan.stages["image"]


def kinds(made):
    return "".join("p" if isinstance(stage, PassStage) else "f" for stage in made.stages)


CROP = RandomResizedCropRGBImageDecoder((24, 20))
CASES = {
    "colours are fused": ([CROP, RandomBrightness(0.5), RandomSaturation(0.5), Cutout(4)], "f"),
    "a contrast ends the launch": ([CROP, RandomContrast(0.5)], "ff"),
    "but for mirrors": ([CROP, RandomContrast(0.5), RandomHorizontalFlip()], "ff"),
    "each contrast does": ([CROP, RandomContrast(0.5), RandomContrast(0.5)], "fff"),
    "a jitter without contrast is fused": ([CROP, RandomColorJitter(0.5, 0.4, 0, 0.4, 0.1)], "f"),
    "a blur stands between two": ([CROP, GaussianBlur(0.5), NormalizeImage(0, 1, np.float32)], "fpf"),
    "passes follow each other": ([CROP, GaussianBlur(0.5), Rotate()], "fppf"),
    "a crop behind a pass": ([CROP, Rotate(), RandomResizedCrop((0.5, 1), (1, 1), 8)], "fpf"),
    "a contrast behind a pass": ([CROP, Rotate(), RandomHorizontalFlip(), RandomContrast(0.5)], "fpf"),
    "nothing is left of an idle step": ([CROP, RandomColorJitter(0.5, 0, 0, 0, 0), RandAugment(0)], "f"),
    "rounds": ([CROP, RandAugment(2)], "fpppfpppf"),
    "padding is a pass": ([PadRGBImageDecoder(), RandomContrast(0.5)], "pf"),
}


@pytest.mark.parametrize("name", CASES)
def test_launches(name):
    steps, expected = CASES[name]
    made = program(steps)
    assert kinds(made) == expected
    assert isinstance(made.stages[-1], FusedStage)
    for stage, plan in zip(made.stages, planned(made), strict=True):
        assert isinstance(plan, PassPlan if isinstance(stage, PassStage) else StagePlan)
        assert plan.params.dtype == np.float32 and len(plan.params) == N
        assert len(plan.take(slice(2, 5)).params) == 3


def test_operations_stand_in_the_order_written_with_their_columns():
    steps = [
        CROP, RandomBrightness(0.5), RandomTranslate(2), RandomColorJitter(1.0, 0.4, 0, 0.4, 0.1),
        RandomHorizontalFlip(), Cutout(3), NormalizeImage(0, 1, np.float32), Cutout(2),
    ]  # fmt: skip
    made = program(steps)
    constants = stage_program(made.stages[0])
    codes = [BRIGHTNESS, ERASE_OUTSIDE, BRIGHTNESS, SATURATION, HUE, ERASE_INSIDE, ERASE_INSIDE]
    assert constants.ops[:, 0].tolist() == codes
    assert constants.ops[:, 1].tolist() == [0, 1, 5, 6, 7, 8, 12]
    assert constants.late_from == 6 and constants.mean_columns == ()
    assert planned(made)[0].params.shape == (N, 16)


def test_the_mean_of_a_contrast_is_a_column_left_open():
    made = program([CROP, RandomBrightness(0.5), RandomContrast(0.5, 1.0), RandomSaturation(0.5)])
    first, second = (stage_program(stage) for stage in made.stages)
    assert not made.stages[0].measures and made.stages[1].measures
    assert first.mean_columns == () and second.mean_columns == (1,)
    assert second.ops.tolist() == [[CONTRAST, 0], [SATURATION, 2]]
    params = planned(made)[1].params
    assert (params[:, 0] != 1).any() and (params[:, 1] == 0).all()


def test_layout_and_type_belong_to_the_last_launch():
    steps = [CROP, GaussianBlur(0.5), ToTensor(), ToTorchImage(channels_last=False)]
    made = program([*steps, NormalizeImage(0, 1, torch.float16)])
    assert [stage.memory_shape for stage in made.stages] == [(24, 20, 3), (24, 20, 3), (3, 24, 20)]
    assert made.stages[0].dtype == "uint8" and made.stages[2].dtype == "float16"
    assert made.spec.shape == (3, 24, 20)


def test_a_plan_repeats_and_knows_the_sample_not_its_place():
    made = program([CROP, RandomColorJitter(0.5), GaussianBlur(0.5), RandAugment()])
    one, again, other = planned(made), planned(made), planned(made, seed=2)
    assert all(np.array_equal(a.params, b.params) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a.params, b.params) for a, b in zip(one, other, strict=True))


def test_images_of_four_channels_have_no_colour_operations():
    with pytest.raises(PipelineError, match="works on images of 1 or 3 channels, but field 'image' has 4"):
        program([CROP, RandomBrightness(0.5)], channels=4)
    assert kinds(program([CROP, RandomBrightness(0.5)], channels=1)) == "f"


def test_images_of_many_sizes_need_a_crop_before_a_colour():
    heights = [30, 31, 32, 33, 34, 35]
    with pytest.raises(PipelineError, match=r"pipeline 'image': .* needs images of one size") as error:
        program([SimpleRGBImageDecoder(), RandomBrightness(0.5)], heights=heights)
    assert isinstance(error.value, TypeError)  # as in FFCV
    made = program(
        [SimpleRGBImageDecoder(), RandomResizedCrop((0.5, 1), (1, 1), 8), Rotate()], heights=heights
    )
    assert kinds(made) == "fpf"


def test_steps_of_one_seed_share_a_draw_only_if_they_are_of_one_kind():
    flips, blur = (RandomHorizontalFlip(seed=3), RandomHorizontalFlip(seed=3)), GaussianBlur(0.5, seed=3)
    label = SimpleNamespace(get_decoder_class=lambda: IntDecoder, metadata_type=np.dtype("<i8"))
    fields = {"image": IMAGE, "label": label}
    (image, _) = output_specs({"image": [CROP, *flips, blur, RandomHorizontalFlip()]}, fields)
    draws = image.draws
    assert draws[flips[0]] == draws[flips[1]] != draws[blur]
    assert len({draws[step] for step in image.steps}) == 3
