"""The CPU backend that crops, against whole decodes by simplejpeg."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import simplejpeg

from ffcv_gpu.errors import BackendUnavailable
from ffcv_gpu.jpeg.base import DecodeStatus
from ffcv_gpu.jpeg.turbo3 import Turbo3Backend
from ffcv_gpu.native import turbojpeg, turbojpeg3
from tests.boxed_decode import GUARD, assert_crops_of, decode, random_boxes
from tests.odd_jpegs import in_410

needs_library = pytest.mark.usefixtures("turbojpeg3")
SUBSAMPLINGS = ["444", "422", "420", "440", "411", "Gray"]


@needs_library
@pytest.mark.parametrize("dct", ["accurate", "fast"])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_what_lies_in_a_box_is_what_the_whole_decode_has_there(make_photo, subsampling, dct):
    rng, backend = np.random.default_rng(7), Turbo3Backend(dct)
    for seed, (height, width) in enumerate([(97, 131), (64, 96), (130, 33), (5, 3), (1, 1)]):
        photo, space = make_photo(height, width, seed), "RGB"
        if subsampling == "Gray":
            photo, space = np.ascontiguousarray(photo[..., :1]), "GRAY"
        file = simplejpeg.encode_jpeg(photo, 90, space, subsampling)
        whole = simplejpeg.decode_jpeg(file, fastdct=dct == "fast")
        boxes = random_boxes(rng, 60, height, width)
        outcome, images = decode(backend, [file] * 60, [(height, width)] * 60, boxes)
        assert not outcome.status.any(), outcome.reasons
        assert_crops_of(images, boxes, whole)


@needs_library
@pytest.mark.parametrize("width", [1, 2, 17, 18, 19, 34])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS[:-1])
def test_the_last_columns(subsampling, width):
    """Where libjpeg would decode only one column of chroma, it would not interpolate between rows."""
    noise = np.random.default_rng(0).integers(0, 256, (20, width, 3), dtype=np.uint8)
    file = simplejpeg.encode_jpeg(noise, 90, "RGB", subsampling)
    boxes = np.array([(y, width - w, 1, w) for w in (1, 2, 3) if w <= width for y in range(20)])
    outcome, images = decode(Turbo3Backend(), [file] * len(boxes), [(20, width)] * len(boxes), boxes)
    assert not outcome.status.any()
    assert_crops_of(images, boxes, simplejpeg.decode_jpeg(file))


@needs_library
@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"restart_marker_blocks": 3}, {"keep_rgb": True}, {"mode": "L"}]
)
def test_other_forms(make_jpeg, options):
    file = make_jpeg(75, 118, 3, **options)
    whole = simplejpeg.decode_jpeg(file)
    boxes = random_boxes(np.random.default_rng(1), 40, 75, 118)
    outcome, images = decode(Turbo3Backend(), [file] * 40, [(75, 118)] * 40, boxes)
    assert not outcome.status.any(), outcome.reasons
    assert_crops_of(images, boxes, whole)


@needs_library
def test_published_photographs(imagenet_jpegs):
    rng, backend = np.random.default_rng(0), Turbo3Backend()
    for path in imagenet_jpegs[::25]:
        file = path.read_bytes()
        whole = simplejpeg.decode_jpeg(file)
        boxes = random_boxes(rng, 4, *whole.shape[:2])
        outcome, images = decode(backend, [file] * 4, [whole.shape[:2]] * 4, boxes)
        assert not outcome.status.any(), outcome.reasons
        assert_crops_of(images, boxes, whole)


@needs_library
def test_only_the_box_and_a_margin_is_written(make_jpeg):
    _, (image,) = decode(Turbo3Backend(), [make_jpeg(200, 300)], [(200, 300)], np.array([[50, 100, 60, 80]]))
    rows, columns = np.nonzero((image != GUARD).any(axis=2))
    assert (rows.min(), rows.max()) == (50, 109)
    assert 100 - 32 < columns.min() <= 100 and 179 <= columns.max() <= 181


@needs_library
def test_a_chroma_sampling_that_the_other_backend_cannot_decode():
    outcome, (image,) = decode(Turbo3Backend(), [in_410()], [(16, 32)], np.array([[5, 7, 8, 9]]))
    assert not outcome.status.any() and (image == 128).all()


@needs_library
def test_damage_is_noticed_down_to_the_end_of_the_box(make_jpeg):
    file = make_jpeg(200, 300)
    cut = file[: len(file) // 2] + b"\xff\xd9"
    whole = simplejpeg.decode_jpeg(file)
    boxes = np.array([[0, 0, 200, 300], [150, 20, 30, 40], [10, 20, 30, 40]])
    outcome, images = decode(Turbo3Backend(), [cut] * 3, [(200, 300)] * 3, boxes)
    assert outcome.status.tolist() == [DecodeStatus.BAD_JPEG, DecodeStatus.BAD_JPEG, DecodeStatus.GOOD]
    assert np.array_equal(images[2][10:40, 20:60], whole[10:40, 20:60])


# ---- where the library is looked for


@pytest.fixture
def searched(monkeypatch):
    """Both versions are looked for once a process; here anew, among the names given."""

    def search(names, wanted=None):
        for module in (turbojpeg, turbojpeg3):
            module.library.cache_clear()
        monkeypatch.setattr(turbojpeg, "_NAMES", names)
        if wanted is None:
            monkeypatch.delenv("FFCV_GPU_TURBOJPEG", raising=False)
        else:
            monkeypatch.setenv("FFCV_GPU_TURBOJPEG", wanted)

    yield search
    for module in (turbojpeg, turbojpeg3):
        module.library.cache_clear()


def test_without_it_one_is_told_what_to_install(searched):
    searched(("libno-such-thing.so",))
    assert turbojpeg3.library() is None
    with pytest.raises(BackendUnavailable, match=r"none is installed.*conda install"):
        Turbo3Backend()
    searched((), "off")
    with pytest.raises(BackendUnavailable, match="FFCV_GPU_TURBOJPEG=off"):
        Turbo3Backend()


def test_a_file_that_is_no_libturbojpeg_is_an_error(searched, tmp_path):
    (tmp_path / "lib.so").write_bytes(b"no library")
    searched((), str(tmp_path / "lib.so"))
    with pytest.raises(BackendUnavailable, match="is not libturbojpeg"):
        turbojpeg3.library()


class OfTwo:
    """As much of a library of 2.x as is looked at."""

    _name = "libturbojpeg.so.of-2.x"


def test_version_2_is_passed_over_and_still_serves_the_lossless_transform(searched, monkeypatch):
    searched(("libturbojpeg.so.of-2.x",))
    monkeypatch.setattr(turbojpeg, "_load", lambda name: OfTwo())
    monkeypatch.setattr(ctypes, "CDLL", lambda name: OfTwo())
    assert turbojpeg3.library() is None and turbojpeg.library() is not None
    with pytest.raises(BackendUnavailable, match=r"of-2.x is version 2.x, which cannot crop"):
        turbojpeg3.required()
