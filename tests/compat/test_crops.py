"""Decoders whose crop is the user's own function, as FFCV's users write them."""

import pickle
import random

import cv2
import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.fields.decoders import (
    CenterCropRGBImageDecoder,
    CornerCropRGBImageDecoder,
    RandomResizedCropRGBImageDecoder,
)
from ffcv_gpu.fields.rgb_image import ResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.pipeline.compiler import Compiler
from ffcv_gpu.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage
from ffcv_gpu.writer import DatasetWriter

N = 20


def shifted_third(height, width, scale, ratio):
    """A third of the image, somewhere, of a share drawn from `scale`."""
    h = max(1, int(height * np.random.uniform(scale[0], scale[1]) / 3))  # noqa: NPY002 (numba's)
    w = max(1, int(width / ratio))
    i = int(np.random.uniform(0, height - h + 1))  # noqa: NPY002
    j = random.randint(0, int(width) - w)
    return i, j, h, w


class Thirds(ResizedCropRGBImageDecoder):
    """After FFCV's own subclasses: positional output_size, scale and ratio as attributes, a property."""

    def __init__(self, output_size, scale=(0.5, 1.0), ratio=3.0):
        super().__init__(output_size)
        self.scale = scale
        self.ratio = ratio

    @property
    def get_crop_generator(self):
        return shifted_third


class TopLeft(ResizedCropRGBImageDecoder):
    def __init__(self, output_size, side):
        super().__init__(output_size)
        self.side = side

    @property
    def get_crop_generator(self):
        side = self.side

        def corner(height, width, _, __):
            return 0, 0, side, side

        return corner


@pytest.fixture(scope="module")
def photos(make_photo):
    return [make_photo(40 + 2 * i, 70 - i, i) for i in range(N)]


@pytest.fixture(scope="module")
def path(tmp_path_factory, photos):
    path = tmp_path_factory.mktemp("crops") / "raw.beton"
    fields = {"image": RGBImageField("raw"), "label": IntField()}
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(
        [(photo, i) for i, photo in enumerate(photos)]
    )
    return path


def by_label(loader):
    return {int(label): image for images, labels in loader
            for image, label in zip(np.asarray(images), np.asarray(labels)[:, 0], strict=True)}  # fmt: skip


def load(path, decoder, *steps, batch_size=6, **more):
    more = {"seed": 7, "drop_last": False, "pipelines": {"image": [decoder, *steps]}, **more}
    return Loader(path, batch_size, **more)


def test_the_crop_is_what_the_function_says_and_is_resampled_as_any_other(path, photos):
    images = by_label(load(path, TopLeft((16, 12), 30)))
    for i, photo in enumerate(photos):
        want = cv2.resize(photo[:30, :30], (12, 16), interpolation=cv2.INTER_AREA)
        assert np.abs(images[i].astype(int) - want).max() <= 1


def test_steps_behind_it_stay_fused_and_explain_says_who_cuts(path):
    loader = load(path, Thirds((16, 16)), RandomHorizontalFlip(), ToTensor(), ToTorchImage())
    text = loader.explain()
    line = next(line for line in text.splitlines() if "Thirds(" in line)
    assert "fused launch 1" in line and "own function, compiled by numba, seeded for each sample" in line
    assert "on the CPU while the batch is planned" in line
    assert next(iter(loader))[0].shape == (6, 3, 16, 16)


def test_random_numbers_belong_to_seed_epoch_and_sample(path):
    small = load(path, Thirds((8, 8)), batch_size=3, num_workers=1)
    large = load(path, Thirds((8, 8)), batch_size=7, num_workers=3, order=OrderOption.RANDOM)
    first, second, other = by_label(small), by_label(small), by_label(large)
    assert all(np.array_equal(first[i], other[i]) for i in range(N))
    assert sum(not np.array_equal(first[i], second[i]) for i in range(N)) > N // 2
    reseeded = by_label(load(path, Thirds((8, 8)), seed=8))
    assert sum(not np.array_equal(first[i], reseeded[i]) for i in range(N)) > N // 2


def test_one_object_in_two_outputs_cuts_alike_and_two_objects_do_not(path):
    one = Thirds((8, 8))
    specs = {
        "image": [one],
        "same": PipelineSpec("image", one),
        "other": PipelineSpec("image", Thirds((8, 8))),
    }
    image, _, same, other = next(iter(Loader(path, N, seed=1, pipelines=specs)))
    assert np.array_equal(image, same) and not np.array_equal(image, other)


def test_output_size_may_be_reassigned_and_the_function_is_not_compiled_anew(path):
    decoder = Thirds((8, 8))
    loader = load(path, decoder)
    assert next(iter(loader))[0].shape[1:] == (8, 8, 3)
    compiled = decoder._crops
    decoder.output_size = (10, 14)
    assert next(iter(loader))[0].shape[1:] == (10, 14, 3) and decoder._crops is compiled


def test_a_subclass_of_ffcvs_own_decoders_may_give_another_function(path, photos):
    class Whole(RandomResizedCropRGBImageDecoder):
        @property
        def get_crop_generator(self):
            return lambda height, width, scale, ratio: (0, 0, height, width)

    class Wider(CenterCropRGBImageDecoder):
        pass

    images = by_label(load(path, Whole((20, 20))))
    want = cv2.resize(photos[3], (20, 20), interpolation=cv2.INTER_AREA)
    assert np.abs(images[3].astype(int) - want).max() <= 1
    loader = load(path, Wider((20, 20), 0.5))
    assert "own function" not in loader.explain()  # nothing overridden: the formula for whole batches
    assert np.array_equal(
        by_label(loader)[0], by_label(load(path, CenterCropRGBImageDecoder((20, 20), 0.5)))[0]
    )
    assert issubclass(Wider, ResizedCropRGBImageDecoder)


def test_ffcvs_own_functions_through_the_loop_give_the_formulas_crops(path):
    """The same centre; for random crops the same distribution of areas."""

    class Centre(ResizedCropRGBImageDecoder):
        ratio = 0.7

        @property
        def get_crop_generator(self):
            return CenterCropRGBImageDecoder((1, 1), 0.5).get_crop_generator

    mine = by_label(load(path, Centre((9, 9))))
    formula = by_label(load(path, CenterCropRGBImageDecoder((9, 9), 0.7)))
    assert all(np.array_equal(mine[i], formula[i]) for i in range(N))


def test_a_crop_outside_its_image_is_refused_with_sample_and_sizes(path):
    loader = load(path, TopLeft((8, 8), 60))
    with pytest.raises(
        PipelineError, match=r"TopLeft.*\(0, 0, 60, 60\) for sample 0, .* height 40 and width 70"
    ):
        list(loader)


class Uncompilable(TopLeft):
    @property
    def get_crop_generator(self):
        def crop(height, width, _, __):
            return a_name_that_is_nowhere(height)  # noqa: F821

        return crop


class Fails(TopLeft):
    @property
    def get_crop_generator(self):
        def crop(height, width, _, __):
            if height > 40:
                raise ValueError("too tall")
            return 0, 0, 1, 1

        return crop


def test_what_numba_cannot_compile_is_refused_in_one_sentence_when_the_loader_is_made(path):
    with pytest.raises(PipelineError, match=r"pipeline 'image': Uncompilable.*a_name_that_is_nowhere"):
        load(path, Uncompilable((8, 8), 1))
    with pytest.raises(TypeError, match="get_crop_generator"):
        ResizedCropRGBImageDecoder((8, 8))


def test_what_the_function_raises_names_the_decoder(path):
    with pytest.raises(ValueError, match="too tall") as caught:
        list(load(path, Fails((8, 8), 1)))
    assert any("crop function of Fails(" in note for note in caught.value.__notes__)


def test_switched_off_compilation_steps_through_python(path, monkeypatch):
    compiled = by_label(load(path, TopLeft((8, 8), 30)))
    monkeypatch.setattr(Compiler, "is_enabled", Compiler.is_enabled)
    Compiler.set_enabled(False)
    loader = load(path, TopLeft((8, 8), 30))
    assert "uncompiled Python" in loader.explain()
    assert all(np.array_equal(compiled[i], image) for i, image in by_label(loader).items())


def test_it_can_be_sent_to_another_process(path):
    decoder = TopLeft((8, 8), 30)
    want = by_label(load(path, decoder))
    other = pickle.loads(pickle.dumps(decoder))
    assert repr(other) == repr(decoder) == "TopLeft(output_size=(8, 8), side=30)"
    assert all(np.array_equal(want[i], image) for i, image in by_label(load(path, other)).items())


class OldDecoder(CornerCropRGBImageDecoder):
    """FFCV's other way, but only half of it, and of a decoder that FFCV lacks."""

    def generate_code(self):
        return lambda indices, memory, metadata, storage: memory


def test_a_decoder_that_overrides_generate_code_alone_is_refused(path):
    with pytest.raises(
        PipelineError, match=r"OldDecoder defines FFCV's generate_code\(\).*has no declare_state_and_memory"
    ):
        load(path, OldDecoder((8, 8), 1.0))
