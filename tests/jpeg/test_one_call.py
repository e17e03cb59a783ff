"""What the two backends of libturbojpeg share: statuses, memory, and no image that changes another's."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.jpeg.base import Decoded, DecodeStatus, Encoded, Finished
from ffcv_gpu.jpeg.turbo import TurboBackend
from ffcv_gpu.jpeg.turbo2 import Turbo2Backend
from ffcv_gpu.jpeg.turbo3 import Turbo3Backend
from tests.boxed_decode import assert_crops_of, decode

KINDS = {"libturbojpeg": Turbo2Backend, "turbojpeg3": Turbo3Backend}


@pytest.fixture(params=KINDS)
def kind(request):
    request.getfixturevalue(request.param)
    return KINDS[request.param]


def test_without_boxes_all_is_decoded(kind, make_jpeg):
    files = [make_jpeg(40, 50, 1), make_jpeg(33, 21, 2, subsampling="4:2:0")]
    sizes, backend = [(40, 50), (33, 21)], kind()
    decode(backend, files, sizes, np.array([[3, 5, 7, 9]] * 2))  # what was cropped before is forgotten
    outcome, images = decode(backend, files, sizes)
    assert not outcome.status.any()
    for image, file in zip(images, files, strict=True):
        assert np.array_equal(image, simplejpeg.decode_jpeg(file))


def test_statuses_are_those_of_simplejpeg(kind, make_jpeg):
    good = make_jpeg(20, 30)
    files = [b"", b"no jpeg at all", good[: len(good) // 2], good[:30], make_jpeg(21, 30)]
    files += [make_jpeg(20, 30, mode="CMYK"), make_jpeg(30, 20), good]
    sizes = [(20, 30)] * len(files)
    ours, theirs = kind(), TurboBackend()
    for boxes in (None, np.array([[0, 0, 20, 30]] * len(files))):
        outcome, images = decode(ours, files, sizes, boxes)
        expected, _ = decode(theirs, files, sizes)
        assert outcome.status.tolist() == expected.status.tolist() and outcome.status[:5].all()
        assert outcome.status.tolist()[-3:] == [0, DecodeStatus.WRONG_SIZE, 0]
        assert outcome.reasons == expected.reasons and all(outcome.reasons.values())
        assert np.array_equal(images[-1], simplejpeg.decode_jpeg(good))
        assert np.array_equal(images[-3], simplejpeg.decode_jpeg(files[-3]))  # CMYK


def test_a_damaged_image_does_not_harm_the_next(kind, make_jpeg, monkeypatch):
    """Here the other backend may not help."""
    rng, good = np.random.default_rng(5), make_jpeg(40, 60)
    whole, box = simplejpeg.decode_jpeg(good), np.array([[3, 21, 30, 17]] * 2)
    backend = kind()
    monkeypatch.setattr(backend, "_whole", AllBad())
    refused = 0
    for i in range(200):
        bad = np.frombuffer(good, np.uint8).copy()
        at = int(rng.integers(bad.size if i % 2 else 600))
        bad[at : at + 50] = rng.integers(0, 256, bad[at : at + 50].size)
        outcome, images = decode(backend, [bad.tobytes(), good], [(40, 60)] * 2, box)
        refused += int(outcome.status[0] != 0)
        assert outcome.status[1] == DecodeStatus.GOOD
        assert_crops_of(images[1:], box[1:], whole)
    assert refused > 50


class AllBad:
    """A backend that can do nothing."""

    def submit(self, encoded, arena, offsets):
        status = np.full(offsets.size, DecodeStatus.BAD_JPEG, np.int8)
        return Finished(Decoded(status, {}))


def test_nothing_is_read_or_written_outside_the_memory_given(kind, make_jpeg):
    file, backend = make_jpeg(20, 30), kind()
    stored, one = np.frombuffer(file, np.uint8), np.array([1])
    for offset, length in [(len(file), 99), (-5, len(file)), (0, 1 << 40), (1 << 40, 5)]:
        encoded = Encoded(stored, offset * one, length * one, 20 * one, 30 * one)
        status = backend.submit(encoded, np.zeros(1800, np.uint8), 0 * one).wait().status
        assert (status[0] == DecodeStatus.GOOD) == (length == 1 << 40)  # there, what is left is the image
    encoded = Encoded(stored, 0 * one, len(file) * one, 20 * one, 30 * one)
    for start, size in [(0, 1799), (1, 1800), (-1, 1800)]:
        with pytest.raises(PipelineError, match="arena"):
            backend.submit(encoded, np.zeros(size, np.uint8), start * one)


def test_no_image_uses_the_tables_of_another(kind, make_jpeg):
    """libjpeg keeps them for a later image without tables; from which image, would depend on the threads."""
    plain, fine = make_jpeg(40, 60, quality=50), make_jpeg(40, 60, quality=100, optimize=True)
    bare = without(plain, b"\xff\xdb")  # no quantisation tables: damaged
    frame = without(plain, b"\xff\xc4")  # no Huffman tables, as in Motion JPEG: the standard ones
    outcome, (*_, image) = decode(kind(), [fine, bare, fine, frame], [(40, 60)] * 4)
    assert outcome.status.tolist() == [0, DecodeStatus.BAD_JPEG, 0, 0]
    assert np.array_equal(image, simplejpeg.decode_jpeg(plain))


def without(file, marker):
    while (at := file.find(marker)) >= 0:
        file = file[:at] + file[at + 2 + int.from_bytes(file[at + 2 : at + 4], "big") :]
    return file


def test_an_unknown_dct_is_refused(kind):
    with pytest.raises(PipelineError, match="dct"):
        kind("slow")
