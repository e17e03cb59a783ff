"""Decoding only what boxes need: the pixels of whole decodes."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from ffcv_gpu.format import JpegFlag
from ffcv_gpu.jpeg.base import DecodeStatus
from ffcv_gpu.jpeg.crop_index import with_crop_index
from ffcv_gpu.jpeg.cropped import Cropped, cut_crops
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.jpeg.turbo import TurboBackend
from ffcv_gpu.jpeg.turbo3 import Turbo3Backend
from tests import boxed_decode
from tests.boxed_decode import GUARD, assert_crops_of, random_boxes

#: all files have an index, unless flags are given
decode = partial(boxed_decode.decode, flags=JpegFlag.CROP_INDEX)

SUBSAMPLINGS = ["444", "422", "420", "440", "411", "Gray"]
SIZES = [(97, 131), (64, 96), (130, 33), (500, 375), (33, 40)]


@pytest.fixture(params=["turbo", "turbo3"])
def inner(request):
    if request.param == "turbo3":
        request.getfixturevalue("turbojpeg3")
        return Turbo3Backend
    return TurboBackend


class Watched:
    """A backend that notes what it is asked to decode."""

    def __init__(self, inner):
        self.inner, self.name, self.capabilities = inner, inner.name, inner.capabilities
        self.sizes, self.whole = [], 0

    def submit(self, encoded, arena, offsets):
        if encoded.stored.flags.writeable:  # the memory of what was cut, not the stored bytes
            self.sizes += zip(encoded.heights.tolist(), encoded.widths.tolist(), strict=True)
        else:
            self.whole += encoded.offsets.size
        return self.inner.submit(encoded, arena, offsets)


def jpeg_of(photo, subsampling, *, index=True):
    if subsampling == "Gray":
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(photo[..., :1]), 90, "GRAY", "Gray")
    else:
        data = simplejpeg.encode_jpeg(photo, 90, "RGB", subsampling)
    return with_crop_index(data, scan_jpeg(data)) if index else data


@pytest.mark.parametrize("dct", ["accurate", "fast"])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_boxes_are_as_in_the_whole_image(make_photo, inner, subsampling, dct):
    rng, backend = np.random.default_rng(3), Watched(inner(dct))
    for seed, size in enumerate(SIZES):
        data = jpeg_of(make_photo(*size, seed), subsampling)
        boxes = random_boxes(rng, 40, *size)
        outcome, images = decode(Cropped(backend), [data] * 40, [size] * 40, boxes)
        assert not outcome.status.any() and not outcome.reasons
        assert_crops_of(images, boxes, simplejpeg.decode_jpeg(data, "RGB", dct == "fast"))
    assert backend.sizes and min(backend.sizes)[0] <= 32 and 0 < backend.whole < 200


def test_no_more_is_decoded_than_needed(make_photo):
    data, backend = jpeg_of(make_photo(160, 200), "420"), Watched(TurboBackend())
    boxes = np.array([
        [16, 0, 16, 5], [15, 63, 2, 2], [17, 64, 14, 64], [17, 65, 14, 62], [0, 0, 1, 1], [159, 199, 1, 1],
        [48, 0, 80, 200], [0, 100, 160, 20],
    ])  # fmt: skip
    decode(Cropped(backend), [data] * 8, [(160, 200)] * 8, boxes)
    # pieces of 64 pixels and an empty MCU beside them, and a pixel of chroma around; at the left edge and of
    # whole rows also a row of empty MCUs above, unless they begin with the first
    assert backend.sizes == [
        (48, 80), (32, 144), (32, 200), (16, 80), (16, 80), (16, 24), (96 + 32, 200), (160, 80)
    ] and backend.whole == 0  # fmt: skip
    flat = jpeg_of(make_photo(160, 200), "444")
    backend.sizes.clear()
    decode(Cropped(backend), [flat] * 8, [(160, 200)] * 8, boxes)
    assert backend.sizes == [
        (24, 72), (24, 136), (16, 72), (16, 72), (8, 72), (8, 16), (88, 200), (160, 72)
    ] and backend.whole == 0  # fmt: skip


def test_some_have_an_index_some_have_none(make_photo, inner):
    sizes = [(64 + 9 * k, 80) for k in range(8)]
    files = [jpeg_of(make_photo(*size, k), "420", index=k % 2 == 0) for k, size in enumerate(sizes)]
    boxes = np.array([[3, 5, 20, 30]] * 8)
    flags = np.array([JpegFlag.CROP_INDEX if k % 4 == 0 else 0 for k in range(8)])
    backend = Watched(inner())
    outcome, images = decode(Cropped(backend), files, sizes, boxes, flags=flags)
    assert not outcome.status.any() and len(backend.sizes) == 2 and backend.whole == 6
    for image, data, box in zip(images, files, boxes, strict=True):
        assert_crops_of([image], [box], simplejpeg.decode_jpeg(data))


def test_without_boxes_whole_images_are_decoded(make_photo, inner):
    data, backend = jpeg_of(make_photo(64, 80), "420"), Watched(inner())
    _, (image,) = decode(Cropped(backend), [data], [(64, 80)], None)
    assert np.array_equal(image, simplejpeg.decode_jpeg(data)) and backend.whole == 1


def test_damage_is_found_where_it_is_decoded(make_photo, inner):
    size, box = (160, 96), [40, 10, 20, 20]
    data = jpeg_of(make_photo(*size), "420")
    scan = scan_jpeg(data).scan_offset
    rng, statuses = np.random.default_rng(1), []
    for trial in range(60):
        bad, at = bytearray(data), int(rng.integers(scan, len(data) - 8))
        if trial % 2:
            bad[at] ^= 1 << rng.integers(8)
        else:
            bad[at : at + 4] = b"\xff\xd9\xff\xd9"
        outcome, (image,) = decode(Cropped(inner()), [bytes(bad)], [size], np.array([box]))
        statuses.append(int(outcome.status[0]))
        if outcome.status[0] == DecodeStatus.GOOD:  # what was written, or what libjpeg makes of these bytes
            y, x, height, width = box
            wholes = simplejpeg.decode_jpeg(data), simplejpeg.decode_jpeg(bytes(bad), strict=False)
            crops = [pixels[y : y + height, x : x + width] for pixels in (image, *wholes)]
            assert any(np.array_equal(crops[0], other) for other in crops[1:])
        else:
            assert outcome.reasons[0]
    assert {0, int(DecodeStatus.BAD_JPEG)} == set(statuses)


def test_an_index_of_another_length_is_not_followed(make_photo, inner):
    size, box = (160, 96), np.array([[40, 10, 20, 20]])
    data = jpeg_of(make_photo(*size), "420")
    at, taller = data.index(b"\xff\xef"), jpeg_of(make_photo(176, 96), "420")
    other = taller[taller.index(b"\xff\xef") : taller.index(b"\xff\xda")]
    for index in (b"", other, other.replace(b"CROP\0\1", b"CROP\0\2")):
        backend, bad = Watched(inner()), data[:at] + index + data[data.index(b"\xff\xda") :]
        outcome, images = decode(Cropped(backend), [bad], [size], box)
        assert outcome.status[0] == DecodeStatus.GOOD and not backend.sizes and backend.whole == 1
        assert_crops_of(images, box, simplejpeg.decode_jpeg(data))


def test_an_index_without_its_checksum_is_followed_by_its_flag(make_photo, inner):
    size, box, backend = (160, 96), np.array([[40, 10, 20, 20]]), Watched(inner())
    data = jpeg_of(make_photo(*size), "420")
    at, end = data.index(b"\xff\xef") + 2, data.index(b"\xff\xda")
    length = int.from_bytes(data[at : at + 2], "big") - 4
    data = data[:at] + length.to_bytes(2, "big") + data[at + 2 : end - 4] + data[end:]
    _, images = decode(Cropped(backend), [data], [size], box)
    assert backend.whole == 0
    assert_crops_of(images, box, simplejpeg.decode_jpeg(data))


def test_tables_without_codes_for_large_steps(inner):
    """Each row is brighter than the one above: no DC difference is as large as a level."""
    ramp = np.tile(np.arange(160, dtype=np.uint8)[:, None, None] + 90, (1, 64, 3))
    stream = io.BytesIO()
    Image.fromarray(ramp).save(stream, "JPEG", quality=95, optimize=True, subsampling=0)
    data = with_crop_index(stream.getvalue(), scan_jpeg(stream.getvalue()))
    boxes, backend = random_boxes(np.random.default_rng(5), 30, 160, 64), Watched(inner())
    outcome, images = decode(Cropped(backend), [data] * 30, [(160, 64)] * 30, boxes)
    assert not outcome.status.any() and backend.sizes
    assert_crops_of(images, boxes, simplejpeg.decode_jpeg(data))


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("quality", [1, 40, 75, 100])
def test_all_qualities_and_tables_made_for_the_image(make_photo, inner, quality, optimize):
    stream, size = io.BytesIO(), (203, 311)
    Image.fromarray(make_photo(*size)).save(stream, "JPEG", quality=quality, optimize=optimize)
    data = with_crop_index(stream.getvalue(), scan_jpeg(stream.getvalue()))
    boxes, backend = random_boxes(np.random.default_rng(6), 30, *size), Watched(inner())
    outcome, images = decode(Cropped(backend), [data] * 30, [size] * 30, boxes)
    assert not outcome.status.any() and backend.sizes
    assert_crops_of(images, boxes, simplejpeg.decode_jpeg(data))


def test_natural_photographs(imagenet_jpegs, inner):
    rng, cut = np.random.default_rng(7), 0
    for path in imagenet_jpegs[::20]:
        header = scan_jpeg(path.read_bytes())
        data = with_crop_index(path.read_bytes(), header)
        if data is not None:
            size, backend = (header.height, header.width), Watched(inner())
            boxes = random_boxes(rng, 10, *size)
            outcome, images = decode(Cropped(backend), [data] * 10, [size] * 10, boxes)
            assert not outcome.status.any()
            assert_crops_of(images, boxes, simplejpeg.decode_jpeg(data))
            cut += len(backend.sizes)
    assert cut > 100


def test_hostile_bytes_stay_within_their_memory(make_photo):
    size, rng = (120, 90), np.random.default_rng(4)
    data = jpeg_of(make_photo(*size), "420")
    head = scan_jpeg(data).scan_offset
    for _ in range(400):
        bad = bytearray(data)
        for at in rng.integers(2, head, rng.integers(1, 6)):
            bad[at] = rng.choice([0, 1, 255, rng.integers(256)])
        end = rng.integers(2, len(bad)) if rng.random() < 0.3 else len(bad)
        boxes = random_boxes(rng, 2, *size)
        outcome, _ = decode(Cropped(TurboBackend()), [bytes(bad[:end]), data], [size] * 2, boxes)
        assert outcome.status[1] == DecodeStatus.GOOD


def test_a_hostile_index_writes_nothing_beside_its_place(make_photo):
    size, rng, cut = (160, 96), np.random.default_rng(8), 0
    data = jpeg_of(make_photo(*size), "420")
    index, count, length = data.index(b"CROP\0\1") + 8, 19, len(data)
    end = length - scan_jpeg(data).scan_offset
    for trial in range(350):
        bad = bytearray(data)
        for piece in rng.integers(0, count, rng.integers(1, 4)):
            at = index + 10 * piece
            stored = int.from_bytes(bad[at : at + 4], "big")
            beyond = range(8 * end - 72, 8 * end + 16)
            value = int(rng.choice([0, 1, 3, 2**31, 2**32 - 1, stored, stored ^ 8, *beyond]))
            bad[at : at + 4] = value.to_bytes(4, "big")
            bad[at + 4 : at + 10] = rng.integers(0, 256, 6, np.uint8).tobytes()
        memory = np.full(length + 64, GUARD, np.uint8)
        box = random_boxes(rng, 1, *size)[0] if trial % 2 else np.array([0, 0, rng.integers(1, 140), 9])
        where = np.array([0]), np.array([length]), box[None], *(np.array([side]) for side in size)
        stored = np.frombuffer(bad, np.uint8)
        found, _ = cut_crops(stored, *where, memory, np.array([32]))
        assert (memory[:32] == GUARD).all() and (memory[32 + length :] == GUARD).all()
        assert found[0] <= length
        cut += found[0] > 0
    assert 35 < cut < 350


def test_other_sizes_than_recorded(make_photo, inner):
    data = jpeg_of(make_photo(96, 80), "420")
    outcome, _ = decode(Cropped(inner()), [data, data], [(104, 80), (96, 72)], np.array([[0, 0, 8, 8]] * 2))
    assert (outcome.status == DecodeStatus.WRONG_SIZE).all()


def test_memory_is_reused(make_photo):
    data, backend = jpeg_of(make_photo(96, 80), "420"), Cropped(TurboBackend())
    for _ in range(3):
        decode(backend, [data] * 9, [(96, 80)] * 9, np.array([[0, 0, 8, 8]] * 9))
    assert len(backend._idle) == 1
