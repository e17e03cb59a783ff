"""Plans: composed geometry against numpy doing one step after the other."""

import numpy as np
import pytest

from ffcv_gpu.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv_gpu.pipeline.fuse import fuse
from ffcv_gpu.pipeline.outputs import output_specs
from ffcv_gpu.plan import ImagePayloads, Planner, stage_program
from ffcv_gpu.steps import Source
from ffcv_gpu.transforms import Cutout, RandomHorizontalFlip, RandomTranslate, RandomVerticalFlip

HEIGHT, WIDTH, N = 13, 17, 64


class _Image:
    metadata_type = np.dtype("V13")

    @staticmethod
    def get_decoder_class():
        return SimpleRGBImageDecoder


def planner(steps, seed=3, epoch=0):
    (output,) = output_specs({"image": [SimpleRGBImageDecoder(), *steps]}, {"image": _Image()})
    sizes = np.full(1000, HEIGHT), np.full(1000, WIDTH)
    program = fuse(output, Source("image", _Image(), *sizes), "cpu")
    zeros = np.zeros(1000, np.int64)
    payloads = ImagePayloads(zeros, zeros, None, np.ones(1000, np.uint8), *sizes)
    return program.stages[0], Planner([program], {"image": payloads}, seed=seed, epoch=epoch)


def render(stage, plan, images):
    """What the kernel shall do, in numpy: sample by the composed map, then the operations in order."""
    constants = stage_program(stage)
    out = np.empty_like(images)
    y, x = np.arange(HEIGHT)[:, None], np.arange(WIDTH)[None, :]
    for n, image in enumerate(images):
        sign_y, shift_y, sign_x, shift_x = plan.geometry[n]
        out[n] = image[
            np.clip(sign_y * y + shift_y, 0, HEIGHT - 1), np.clip(sign_x * x + shift_x, 0, WIDTH - 1)
        ]
        for (code, column), fill in zip(constants.ops, constants.fills, strict=True):
            y0, x0, y1, x1 = plan.params[n, column : column + 4].astype(int)
            inside = (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
            out[n][inside if code == 1 else ~inside] = fill[:3]
    return out


def one_by_one(stage, images, draws):
    """The same steps, each applied to whole images with numpy."""
    images = images.copy()
    for action in stage.actions:
        step = action.step
        if isinstance(step, RandomHorizontalFlip):
            flips = step.mirrored(draws, action.draw)
            images[flips] = images[flips][:, :, ::-1]
        elif isinstance(step, RandomVerticalFlip):
            flips = step.mirrored(draws, action.draw)
            images[flips] = images[flips][:, ::-1]
        elif isinstance(step, RandomTranslate):
            pad, offsets = step.padding, step.offsets(draws, action.draw)
            for n in range(len(images)):
                padded = np.empty((HEIGHT + 2 * pad, WIDTH + 2 * pad, 3), np.uint8)
                padded[:] = step.fill
                padded[pad : -pad or None, pad : -pad or None] = images[n]
                dy, dx = offsets[n] + pad
                images[n] = padded[dy : dy + HEIGHT, dx : dx + WIDTH]
        else:
            for n, (y0, x0, y1, x1) in enumerate(step.rectangles(draws, action.draw, HEIGHT, WIDTH)):
                images[n, y0:y1, x0:x1] = step.fill
    return images


TURN, FLIP, SHIFT, ERASE = (
    RandomVerticalFlip,
    RandomHorizontalFlip,
    lambda: RandomTranslate(3, (9, 8, 7)),
    lambda: Cutout(5, (1, 2, 3)),
)


@pytest.mark.parametrize(
    "makers",
    [
        (FLIP,), (SHIFT,), (ERASE,), (FLIP, SHIFT, ERASE), (ERASE, FLIP), (ERASE, SHIFT), (SHIFT, FLIP),
        (FLIP, FLIP), (SHIFT, SHIFT), (ERASE, FLIP, SHIFT, ERASE, FLIP, SHIFT), (SHIFT, ERASE, FLIP),
        (TURN,), (TURN, TURN), (FLIP, SHIFT, TURN, ERASE), (ERASE, TURN, SHIFT, FLIP, TURN),
    ],
)  # fmt: skip
def test_composed_geometry_equals_one_step_after_the_other(makers):
    from ffcv_gpu.draws import Draws

    stage, planned = planner([make() for make in makers])
    ids = np.random.default_rng(0).permutation(1000)[:N]
    images = np.random.default_rng(1).integers(0, 255, (N, HEIGHT, WIDTH, 3), dtype=np.uint8)
    plan = planned.plan(0, ids).stages["image"][0]
    expected = one_by_one(stage, images, Draws(3, 0, ids))
    assert np.array_equal(render(stage, plan, images), expected)


def test_a_samples_parameters_do_not_depend_on_its_batch():
    _, planned = planner([FLIP(), SHIFT(), ERASE()])
    whole = planned.plan(0, np.arange(100)).stages["image"][0]
    part = planned.plan(7, np.array([99, 3, 50])).stages["image"][0]
    for name in ("boxes", "geometry", "params"):
        assert np.array_equal(getattr(whole, name)[[99, 3, 50]], getattr(part, name))


def test_epochs_and_seeds_differ():
    plans = [
        planner([SHIFT()], seed=seed, epoch=epoch)[1].plan(0, np.arange(100)).stages["image"][0].geometry
        for seed, epoch in ((1, 0), (1, 1), (2, 0))
    ]
    assert not np.array_equal(plans[0], plans[1]) and not np.array_equal(plans[0], plans[2])


def test_flip_and_translate_are_uniform():
    _, planned = planner([FLIP(), RandomTranslate(2)])
    geometry = planned.plan(0, np.arange(1000)).stages["image"][0].geometry
    assert 420 < (geometry[:, 2] == -1).sum() < 580
    counts = np.bincount(geometry[:, 1] + 2, minlength=5)
    assert counts.size == 5 and counts.min() > 140


def test_a_decoder_of_numbers_needs_no_plan():
    assert IntDecoder().first_spec(
        Source("label", type("F", (), {"metadata_type": np.dtype("<i8")})())
    ).shape == (1,)
