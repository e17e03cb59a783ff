"""RandomTranslate with a seed, and the label that tells the offsets."""

import numpy as np
import pytest

from ffcv_gpu import ssl
from ffcv_gpu.draws import Draws
from ffcv_gpu.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv_gpu.transforms import LabelTranslate, RandomTranslate


@pytest.mark.parametrize(("kind", "fill"), [(RandomTranslate, 0), (ssl.RandomTranslate, 128)])
def test_the_label_tells_what_the_image_shows(photo_file, kind, fill):
    pipelines = {
        "image": [SimpleRGBImageDecoder(), kind(5, seed=2)],
        "label": [IntDecoder(), LabelTranslate(5, seed=2)],
    }
    image, told = photo_file.load(pipelines)
    padded = np.pad(photo_file.images, ((0, 0), (5, 5), (5, 5), (0, 0)), constant_values=fill)
    for moved, source, (_, dy, dx) in zip(image, padded, told.astype(int), strict=True):
        assert np.array_equal(moved, source[5 + dy :][:40, 5 + dx :][:, :48])


def test_offsets_are_uniform():
    offsets = RandomTranslate(3).offsets(Draws(0, 0, np.arange(35000)), 1)
    for axis in (0, 1):
        counts = np.bincount(offsets[:, axis] + 3, minlength=7)
        assert counts / 35000 == pytest.approx(1 / 7, abs=0.01)
