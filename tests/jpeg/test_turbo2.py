"""Whole images by libturbojpeg's older functions, against simplejpeg, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg

from ffcv_gpu.errors import BackendUnavailable, PipelineError
from ffcv_gpu.jpeg.turbo2 import Turbo2Backend
from ffcv_gpu.native import turbojpeg
from tests.boxed_decode import decode
from tests.odd_jpegs import in_410

needs_library = pytest.mark.usefixtures("libturbojpeg")
SIZES = [(97, 131), (64, 96), (130, 33), (5, 3), (1, 1), (20, 17)]


@needs_library
@pytest.mark.parametrize("dct", ["accurate", "fast"])
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411", "Gray"])
def test_pixels(make_photo, subsampling, dct):
    files = []
    for seed, size in enumerate(SIZES):
        photo, space = make_photo(*size, seed), "RGB"
        if subsampling == "Gray":
            photo, space = np.ascontiguousarray(photo[..., :1]), "GRAY"
        files.append(simplejpeg.encode_jpeg(photo, 90, space, subsampling))
    boxes = np.array([[0, 0, 1, 1]] * len(files))  # a backend that cannot crop ignores them
    for part in (None, boxes):
        outcome, images = decode(Turbo2Backend(dct), files, SIZES, part)
        assert not outcome.status.any()
        for file, image in zip(files, images, strict=True):
            assert np.array_equal(image, simplejpeg.decode_jpeg(file, fastdct=dct == "fast"))


@needs_library
@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"restart_marker_blocks": 3}, {"keep_rgb": True}, {"mode": "L"}]
)
def test_other_forms(make_jpeg, options):
    file = make_jpeg(75, 118, 3, **options)
    outcome, (image,) = decode(Turbo2Backend(), [file], [(75, 118)])
    assert not outcome.status.any() and np.array_equal(image, simplejpeg.decode_jpeg(file))


@needs_library
def test_published_photographs(imagenet_jpegs):
    files = [path.read_bytes() for path in imagenet_jpegs[::25]]
    expected = [simplejpeg.decode_jpeg(file) for file in files]
    outcome, images = decode(Turbo2Backend(), files, [image.shape[:2] for image in expected])
    assert not outcome.status.any(), outcome.reasons
    assert all(np.array_equal(*pair) for pair in zip(images, expected, strict=True))


@needs_library
def test_a_chroma_sampling_without_a_name_gets_the_status_of_simplejpeg():
    outcome, _ = decode(Turbo2Backend(), [in_410()], [(16, 32)])
    assert outcome.status[0] and "subsampling" in outcome.reasons[0]


@needs_library
def test_files_are_decoded_to_memory_of_their_own(make_jpeg):
    file = np.frombuffer(make_jpeg(20, 30), np.uint8)
    memory, small = np.zeros(3 * 20 * 30, np.uint8), np.zeros(1799, np.uint8)
    rest = memory, 20, 30, None
    assert list(Turbo2Backend().decode_files([(4, file, *rest), (7, file[:50], *rest)])) == [7]
    assert np.array_equal(memory.reshape(20, 30, 3), simplejpeg.decode_jpeg(file.tobytes()))
    with pytest.raises(PipelineError, match="does not fit"):
        Turbo2Backend().decode_files([(0, file, small, 20, 30, None)])


def test_without_it_one_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(turbojpeg, "library", lambda: None)
    monkeypatch.delenv("FFCV_GPU_TURBOJPEG", raising=False)
    with pytest.raises(BackendUnavailable, match=r"none is installed.*apt install.*conda install"):
        Turbo2Backend()
