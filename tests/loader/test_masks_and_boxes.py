"""Masks, boxes, points and ragged arrays beside their image: what is seen in the pixels is what they say."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import ImageField, IntField, MaskField, RaggedField, RGBImageField
from ffcv_gpu.fields.decoders import (
    CenterCropRGBImageDecoder,
    PadRGBImageDecoder,
    RandomResizedCropRGBImageDecoder,
)
from ffcv_gpu.fields.ragged import BoxDecoder, KeypointDecoder, RaggedDecoder
from ffcv_gpu.format import MIN_PAGE_SIZE
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.steps import Ragged
from ffcv_gpu.transforms import (
    Convert,
    GaussianBlur,
    ImageMixup,
    NormalizeImage,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomSolarization,
    RandomTranslate,
    RandomVerticalFlip,
    ReplaceLabel,
    Rotate,
    Squeeze,
    ToTensor,
    ToTorchImage,
    View,
)
from ffcv_gpu.writer import DatasetWriter
from tests.compat.operations import Invert
from tests.nearest import nearest_by_pillow, nearest_pixels_by_pillow

N = 14
FIELDS = {
    "image": RGBImageField(),
    "mask": MaskField(),
    "ids": MaskField("uint16"),
    "boxes": RaggedField("float32", 4),
    "points": RaggedField("float64", 2),
    "words": RaggedField("int16"),
    "label": IntField(),
}


def sizes(k):
    return 70 + 9 * (k % 4), 110 - 8 * (k % 3)


def boxes_of(k):
    """k % 4 boxes that do not overlap, each with its own brightness in the picture."""
    height, width = sizes(k)
    rng = np.random.default_rng(k)
    found = []
    for j in range(k % 4):
        x0, y0 = rng.integers(0, width // 4 - 8) + j * width // 4, rng.integers(0, height - 30)
        found.append((x0, y0, x0 + rng.integers(4, 9), y0 + rng.integers(8, 30)))
    return np.array(found, np.float32).reshape(-1, 4)


class Scenes:
    """Boxes painted into the image and, as their number + 1, into the mask; every pixel has its own id."""

    def __len__(self):
        return N

    def __getitem__(self, k):
        height, width = sizes(k)
        mask = np.zeros((height, width), np.uint8)
        for j, (x0, y0, x1, y1) in enumerate(boxes_of(k).astype(int)):
            mask[y0:y1, x0:x1] = j + 1
        image = np.repeat(mask[..., None] * 60, 3, axis=2)
        ids = np.arange(height * width, dtype=np.uint16).reshape(height, width)
        points = np.array([(x + 0.5, y + 0.5) for y in (10, 33, 60) for x in (7, 50, 80)]) if k % 5 else []
        return image, mask, ids, boxes_of(k), points, np.arange(k, dtype=np.int16) - 3, k


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenes") / "scenes.beton"
    DatasetWriter(path, FIELDS, MIN_PAGE_SIZE, 2, progress=False).from_indexed_dataset(Scenes(), chunksize=3)
    return path


def batches(path, pipelines, **options):
    chosen = dict.fromkeys(FIELDS) | {"label": [Squeeze(1)]} | pipelines
    names = [name for name in chosen if chosen[name] is not None]
    options = {"num_workers": 2, "seed": 2, "drop_last": False, **options}
    loader = Loader(path, 5, pipelines=chosen, **options)
    return [dict(zip(names, batch, strict=True)) for batch in loader]


def samples(batch, name):
    """The arrays of a `Ragged` output, one by one."""
    values, offsets = batch[name]
    return [values[a:b] for a, b in pairwise(offsets)]


@pytest.mark.parametrize("order", [OrderOption.SEQUENTIAL, OrderOption.RANDOM, OrderOption.QUASI_RANDOM])
@pytest.mark.parametrize("os_cache", [True, False])
def test_ragged_arrays(path, order, os_cache):
    seen = []
    for batch in batches(path, {"words": [RaggedDecoder()], "boxes": []}, order=order, os_cache=os_cache):
        assert isinstance(batch["words"], Ragged) and batch["words"].values.dtype == np.int16
        assert batch["words"].offsets.dtype == np.int64
        for k, words, boxes in zip(
            batch["label"], samples(batch, "words"), samples(batch, "boxes"), strict=True
        ):
            np.testing.assert_array_equal(words, np.arange(k) - 3)
            np.testing.assert_array_equal(boxes, boxes_of(k))
            seen.append(k)
    assert sorted(seen) == list(range(N))


def test_ragged_arrays_as_tensors_and_padded(path):
    for batch in batches(path, {"words": None, "boxes": [ToTensor(), Convert(torch.float16)]}):
        boxes = batch["boxes"]
        assert torch.is_tensor(boxes.values) and torch.is_tensor(boxes.offsets)
        assert boxes.values.dtype == torch.float16 and boxes.offsets.dtype == torch.int64
    for batch in batches(path, {"words": [RaggedDecoder(pad_to=N, fill=-9), ToTensor()]}):
        assert batch["words"].dtype == torch.int16 and batch["words"].shape == (len(batch["label"]), N)
        for k, row in zip(batch["label"], batch["words"], strict=True):
            assert row.tolist() == [*range(-3, k - 3), *[-9] * (N - k)]
    # an epoch with the default pipelines
    chosen = dict.fromkeys(["image", "mask", "ids", "points"])
    for boxes, words, label in Loader(path, 5, pipelines=chosen):
        assert (
            torch.is_tensor(boxes.values) and words.offsets[-1] == len(words.values) and label.shape == (5, 1)
        )


@pytest.mark.parametrize("container", [[], [ToTensor()]])
def test_conversions_change_values_and_no_offsets(tmp_path, container):
    rows = [(np.full((1009 * k, 2), k, np.float32),) for k in range(4)]
    fields = {"x": RaggedField("float32", 2)}
    DatasetWriter(tmp_path / "a.beton", fields, num_workers=1).from_indexed_dataset(rows)
    for step, wanted in [(Convert("float16"), 3), (NormalizeImage([1, 2], [2, 1], "float32"), 1)]:
        ((found,),) = list(Loader(tmp_path / "a.beton", 4, pipelines={"x": [*container, step]}))
        assert found.offsets.tolist() == [0, 0, 1009, 3027, 6054]
        assert (found.values[3027:] == wanted).all() and str(found.offsets.dtype).endswith("int64")


@pytest.mark.parametrize("step", [Squeeze(1), View(-1), ReplaceLabel([1], 2), Invert()], ids=repr)
def test_steps_that_need_one_shape_refuse_ragged_arrays(path, step):
    with pytest.raises(PipelineError, match=r"pipeline 'words': .*one shape; give RaggedDecoder\(\) pad_to="):
        batches(path, {"words": [step]})
    seen = batches(path, {"words": [ToTensor(), lambda ragged: ragged.offsets[1:], Squeeze()]})
    assert seen[0]["words"].shape == (5,)


def test_a_view_goes_on_behind_a_decoder_of_arrays(path):
    decoder, crop = BoxDecoder("image", pad_to=3), RandomResizedCropRGBImageDecoder((50, 60))
    wide = PipelineSpec(decoder, transforms=[Convert("float64")])
    for batch in batches(path, {"image": [crop], "boxes": [decoder, ToTensor()], "wide": wide}):
        assert batch["wide"].dtype == np.float64
        np.testing.assert_array_equal(batch["wide"], batch["boxes"])


def test_a_file_of_empty_arrays(tmp_path):
    writer = DatasetWriter(tmp_path / "a.beton", {"x": RaggedField("float32", 4)}, MIN_PAGE_SIZE, 1)
    writer.from_indexed_dataset([([],)] * 3)
    ((found,),) = list(Loader(tmp_path / "a.beton", 3, pipelines={"x": [RaggedDecoder()]}))
    assert found.values.shape == (0, 4) and found.offsets.tolist() == [0, 0, 0, 0]
    ((found,),) = list(Loader(tmp_path / "a.beton", 3, pipelines={"x": [RaggedDecoder(pad_to=2, fill=7)]}))
    assert found.shape == (3, 2, 4) and (found == 7).all()


def test_a_mask_is_the_nearest_of_the_crop_that_its_image_shows(path):
    crop, flip = RandomResizedCropRGBImageDecoder((40, 48), scale=(0.1, 1)), RandomHorizontalFlip()
    flips = 0
    for batch in batches(path, {name: [crop, flip] for name in ("image", "mask", "ids")}):
        assert batch["mask"].shape[1:] == (40, 48, 1) and batch["ids"].dtype == np.uint16
        for k, image, mask, ids in zip(*(batch[n] for n in ("label", "image", "mask", "ids")), strict=True):
            height, width = sizes(k)
            ys, xs = divmod(ids[..., 0].astype(int), width)
            assert (ys == ys[:, :1]).all() and (xs == xs[:1]).all()  # one row and column of the source each
            flips += xs[0, 0] > xs[0, -1]
            scene = Scenes()[k]
            np.testing.assert_array_equal(mask[..., 0], scene[1][ys, xs])
            columns = xs[0, ::-1] if xs[0, 0] > xs[0, -1] else xs[0]
            seen = image[:, ::-1] if xs[0, 0] > xs[0, -1] else image
            assert any(
                np.abs(area.astype(int) - seen).max() <= 1
                for area in areas(scene[0], ys[:, 0], columns, height, width)
            )
    assert 3 < flips < N - 3


def areas(image, rows, columns, height, width):
    """The image's crops, resized, of all boxes whose nearest pixels are those."""
    tall, wide = spans(rows, height), spans(columns, width)
    assert tall and wide
    for y, h in tall:
        for x, w in wide:
            box = image[y : y + h, x : x + w]
            yield cv2.resize(box, (len(columns), len(rows)), interpolation=cv2.INTER_AREA)


def spans(pixels, size):
    """The starts and lengths, within an axis, of which those are the nearest pixels."""
    found = [(length, nearest_pixels_by_pillow(length, len(pixels))) for length in range(1, size + 1)]
    starts = [(int(pixels[0] - nearest[0]), length, nearest) for length, nearest in found]
    return [(y, n) for y, n, near in starts if 0 <= y <= size - n and (pixels == y + near).all()]


@pytest.mark.parametrize("side", [64, 224])
def test_a_shrunken_mask_lies_where_its_image_does(tmp_path, side):
    """A disc; sampled where its pixels begin, not at their centres, 4 % of the small one would differ."""
    y, x = np.mgrid[:500, :500]
    disc = (((y - 240) ** 2 + (x - 260) ** 2) < 150**2).astype(np.uint8)
    fields = {"image": RGBImageField("raw"), "mask": MaskField()}
    writer = DatasetWriter(tmp_path / "a.beton", fields, MIN_PAGE_SIZE, 1)
    writer.from_indexed_dataset([(np.repeat(255 * disc[..., None], 3, 2), disc)])
    crop = CenterCropRGBImageDecoder((side, side), 1)
    pipelines = {"image": [crop], "mask": [crop]}
    ((image, mask),) = list(Loader(tmp_path / "a.beton", 1, pipelines=pipelines, drop_last=False))
    seen, marked = image[0, ..., 0] > 127, mask[0, ..., 0] > 0
    assert (seen & marked).sum() / (seen | marked).sum() > 0.995


def test_a_shrunken_mask_is_shifted_whole(tmp_path):
    """Also by as many columns as are left out: then its ends are as far apart as if nothing were shrunk."""
    masks = np.random.default_rng(0).integers(0, 255, (40, 18, 18), np.uint8)
    DatasetWriter(tmp_path / "a.beton", {"x": MaskField()}, MIN_PAGE_SIZE, 1).from_indexed_dataset(
        [(mask,) for mask in masks]
    )
    steps = [CenterCropRGBImageDecoder((16, 16), 1), RandomTranslate(2, fill=255)]
    ((moved,),) = list(Loader(tmp_path / "a.beton", 40, pipelines={"x": steps}, seed=0))
    seen = set()
    for mask, made in zip(masks, moved[..., 0], strict=True):
        padded = np.pad(nearest_by_pillow(mask, 16, 16), 2, constant_values=255)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (16, 16))
        (place,) = np.argwhere((windows == made).all(axis=(2, 3)))
        seen.add(int(place[1]))
    assert seen == {0, 1, 2, 3, 4}


def test_masks_have_no_values_that_were_not_there(path):
    crop = RandomResizedCropRGBImageDecoder((200, 210))
    for batch in batches(path, {"mask": [crop, ToTensor(), ToTorchImage(), Convert(torch.int64)]}):
        assert batch["mask"].dtype == torch.int64 and batch["mask"].shape[1:] == (1, 200, 210)
        for k, mask in zip(batch["label"], batch["mask"], strict=True):
            assert set(mask.unique().tolist()) <= set(range(k % 4 + 1))
    loader = Loader(path, 5, pipelines=dict.fromkeys(FIELDS) | {"mask": [crop]})
    assert "nearest pixel" in loader.explain()


PIPELINES = {
    "crop and flip": lambda: [
        RandomResizedCropRGBImageDecoder((90, 120), scale=(0.3, 1)), RandomHorizontalFlip()
    ],
    "centre, always mirrored": lambda: [CenterCropRGBImageDecoder((100, 100), 1), RandomHorizontalFlip(1)],
    "crop, shift, flip": lambda: [
        RandomResizedCropRGBImageDecoder((90, 120)), RandomTranslate(15), RandomHorizontalFlip()
    ],
    "crop, rotation, flip": lambda: [
        RandomResizedCropRGBImageDecoder((90, 120), scale=(0.4, 1)), Rotate(0.8, 0.6), RandomHorizontalFlip()
    ],
    "two crops": lambda: [
        RandomResizedCropRGBImageDecoder((160, 170), scale=(0.6, 1)),
        RandomHorizontalFlip(),
        RandomResizedCrop((0.5, 1), (0.8, 1.2), (80, 90)),
    ],
    "crop, upside down": lambda: [
        RandomResizedCropRGBImageDecoder((90, 120)), RandomVerticalFlip(), RandomTranslate(9)
    ],
    "padded": lambda: [PadRGBImageDecoder()],
    "padded, shift, flip": lambda: [PadRGBImageDecoder(), RandomTranslate(9), RandomHorizontalFlip()],
}  # fmt: skip


@pytest.mark.parametrize("name", PIPELINES)
def test_boxes_lie_where_their_pixels_are(path, name):
    steps = PIPELINES[name]()
    whole = 0
    for batch in batches(path, {"image": None, "mask": steps, "boxes": [BoxDecoder("mask")]}):
        for k, mask, boxes in zip(
            batch["label"], batch["mask"][..., 0], samples(batch, "boxes"), strict=True
        ):
            assert boxes.shape == (k % 4, 4) and boxes.dtype == np.float32
            for j, (x0, y0, x1, y1) in enumerate(boxes):
                ys, xs = np.nonzero(mask == j + 1)
                if not len(ys):
                    # narrower than two pixels of the output, at most; or turned out of the picture
                    assert min(x1 - x0, y1 - y0) <= 2 or name == "crop, rotation, flip"
                    continue
                seen = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
                scale = 4.0 if name == "two crops" else 2.5  # two nearest-pixel samplings err twice
                scale = 0 if name.startswith("padded") else scale
                if name != "crop, rotation, flip":
                    np.testing.assert_allclose(boxes[j], seen, atol=scale)
                else:  # around the corners, of which the crop may have cut some off
                    assert (boxes[j, :2] <= seen[:2] + scale).all() and (
                        boxes[j, 2:] >= seen[2:] - scale
                    ).all()
                whole += 1
    assert whole > 5


def test_boxes_that_are_turned_twice_contain_their_pixels(tmp_path):
    boxes = np.random.default_rng(0).integers((0, 0, 66, 66), (40, 40, 97, 97), (60, 4))
    rows = [(np.zeros((96, 96), np.uint8), box[None].astype(np.float32)) for box in boxes]
    for (mask, _), (x0, y0, x1, y1) in zip(rows, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    fields = {"mask": MaskField(), "boxes": RaggedField("float32", 4)}
    DatasetWriter(tmp_path / "a.beton", fields, MIN_PAGE_SIZE, 1).from_indexed_dataset(rows)
    turns = [Rotate(1.0, 1.0), RandomTranslate(30), Rotate(1.0, 1.0)]
    pipelines = {"mask": turns, "boxes": [BoxDecoder("mask", pad_to=1)]}
    outside, area = [], []
    for masks, found in Loader(tmp_path / "a.beton", 20, pipelines=pipelines, seed=1):
        for mask, (x0, y0, x1, y1) in zip(masks[..., 0], found[:, 0], strict=True):
            ys, xs = np.nonzero(mask)
            outside.append(max(x0 - xs.min(), y0 - ys.min(), xs.max() + 1 - x1, ys.max() + 1 - y1))
            area.append((x1 - x0) * (y1 - y0) / ((np.ptp(xs) + 1) * (np.ptp(ys) + 1)))
    assert max(outside) < 1.5  # two nearest-pixel samplings
    assert np.median(area) < 1.1


SHIFTS = {
    "two shifts": [RandomTranslate(20), RandomTranslate(20)],
    "two shifts, crop": [CenterCropRGBImageDecoder((48, 48), 0.5), RandomTranslate(20), RandomTranslate(20)],
    "shift, flip, two shifts": [
        RandomTranslate(9), RandomHorizontalFlip(), RandomTranslate(20), RandomVerticalFlip(),
        RandomTranslate(20),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SHIFTS)
def test_what_a_shift_moved_out_of_the_image_does_not_come_back_with_the_next(tmp_path, name):
    """Boxes lie where their pixels are, exactly: nothing is resized."""
    boxes = np.random.default_rng(0).integers((0, 0, 40, 40), (40, 40, 97, 97), (60, 4))
    rows = [(np.zeros((96, 96), np.uint8), box[None].astype(np.float32)) for box in boxes]
    for (mask, _), (x0, y0, x1, y1) in zip(rows, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    fields = {"mask": MaskField(), "boxes": RaggedField("float32", 4)}
    DatasetWriter(tmp_path / "a.beton", fields, MIN_PAGE_SIZE, 1).from_indexed_dataset(rows)
    pipelines = {"mask": SHIFTS[name], "boxes": [BoxDecoder("mask", pad_to=1)]}
    there = 0
    for masks, found in Loader(tmp_path / "a.beton", 20, pipelines=pipelines, seed=1):
        for mask, (x0, y0, x1, y1) in zip(masks[..., 0], found[:, 0], strict=True):
            ys, xs = np.nonzero(mask)
            if len(ys):
                seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                assert [x0, y0, x1, y1] == seen
            else:
                assert min(x1 - x0, y1 - y0) == 0
            there += len(ys) > 0
    assert there > 20


@pytest.mark.parametrize("turned", [False, True])
def test_points_lie_where_their_pixels_are(path, tmp_path, turned):
    steps = [RandomResizedCropRGBImageDecoder((150, 160), scale=(0.5, 1)), RandomHorizontalFlip()]
    if turned:
        # 8 bits have no number for each pixel: low and high byte in two masks
        path = tmp_path / "bytes.beton"
        fields = {"low": MaskField(), "high": MaskField(), **{n: FIELDS[n] for n in ("points", "label")}}
        rows = [Scenes()[k] for k in range(N)]
        rows = [(r[2].astype(np.uint8), (r[2] >> 8).astype(np.uint8), r[4], r[6]) for r in rows]
        DatasetWriter(path, fields, MIN_PAGE_SIZE, 1).from_indexed_dataset(rows)
        steps.insert(1, Rotate(0.8, 0.6))
        made = {"points": [KeypointDecoder("low")], "label": [Squeeze(1)], "low": steps, "high": steps}
        found = []
        for low, high, points, label in Loader(path, 5, pipelines=made, drop_last=False, seed=2):
            ids = low.astype(np.uint16) + 256 * high.astype(np.uint16)
            found.append({"ids": ids, "points": points, "label": label})
    else:
        found = batches(path, {"ids": steps, "points": [KeypointDecoder("ids")]})
    checked = 0
    for batch in found:
        for k, ids, points in zip(
            batch["label"], batch["ids"][..., 0], samples(batch, "points"), strict=True
        ):
            _, width = sizes(k)
            given = np.asarray(Scenes()[k][4]).reshape(-1, 2)
            assert points.shape == given.shape and points.dtype == np.float64
            for (x, y), (px, py) in zip(given, points, strict=True):
                where = np.argwhere(ids == int(y) * width + int(x))
                if not len(where):
                    continue
                # the middle of the patch that shows the point's pixel
                (top, left), (bottom, right) = where.min(axis=0), where.max(axis=0) + 1
                # (an output pixel shows the source pixel under its corner: up to one pixel off)
                slack = 1.8 if turned else 1
                assert abs(px - (left + right) / 2) <= slack and abs(py - (top + bottom) / 2) <= slack
                checked += 1
    assert checked > 40


def test_followers_follow_in_any_order_and_with_any_workers(path):
    crop, flip = RandomResizedCropRGBImageDecoder((50, 60)), RandomHorizontalFlip()
    pipelines = {"image": [crop, flip], "boxes": [BoxDecoder("image", pad_to=4, fill=-1)]}
    found = {}
    for order in (OrderOption.SEQUENTIAL, OrderOption.RANDOM):
        for workers in (1, 3):
            for batch in batches(path, pipelines, order=order, num_workers=workers):
                for k, boxes in zip(batch["label"], batch["boxes"], strict=True):
                    np.testing.assert_array_equal(found.setdefault(int(k), boxes), boxes)
    assert (found[3][3] == -1).all() and len(found) == N


CROP = CenterCropRGBImageDecoder((8, 8), 1)


@pytest.mark.parametrize("step", [GaussianBlur(1, 3), RandomGrayscale(1), RandomSolarization(1)])
def test_masks_take_no_step_that_makes_values(path, step):
    with pytest.raises(PipelineError, match=r"computes new values, but field 'mask' holds class numbers"):
        batches(path, {"mask": [CROP, step]})
    with pytest.raises(PipelineError, match=r"works on 8-bit images, but field 'ids' holds uint16"):
        batches(path, {"ids": [CROP, step]})


def test_flips_behind_the_finished_batch_are_not_followed(path):
    steps = [CROP, ImageMixup(0.3, same_lambda=True), RandomHorizontalFlip()]
    with pytest.raises(PipelineError, match=r"like='image' cannot be followed, because it has steps on"):
        batches(path, {"image": steps, "boxes": [BoxDecoder("image")]})


@pytest.mark.parametrize(
    ("pipelines", "says"),
    [
        (
            {"boxes": [BoxDecoder("picture")]},
            "like='picture' is not an image output of this loader; image outputs: 'mask'",
        ),
        ({"boxes": [BoxDecoder("label")]}, "like='label' is not an image output"),
        ({"words": [BoxDecoder("mask")]}, r"reads floats of shape \(n, 4\), but field 'words'"),
        ({"words": [RaggedDecoder(pad_to=3)]}, "an array of 13 rows; pad_to must be at least 13"),
        (
            {"mask": [RaggedDecoder()]},
            "decodes variable-length arrays, but the class of field 'mask' is MaskField",
        ),
    ],
)
def test_bad_followers(path, pipelines, says):
    with pytest.raises(PipelineError, match=says):
        batches(path, {"mask": [CROP]} | pipelines)


def test_a_mask_of_another_size_than_its_image_is_refused(tmp_path):
    fields = {"image": RGBImageField(), "mask": MaskField(), "grey": ImageField()}
    small, large = np.zeros((20, 30), np.uint8), np.zeros((40, 60), np.uint8)
    rows = [(np.zeros((40, 60, 3), np.uint8), large if k != 2 else small, large) for k in range(4)]
    DatasetWriter(tmp_path / "a.beton", fields, MIN_PAGE_SIZE, 1).from_indexed_dataset(rows)
    crop = RandomResizedCropRGBImageDecoder((8, 8))
    says = r"'mask' and 'image' share Random.*: 30 x 20 and 60 x 40 at sample 2 of the loader \(1 samples\)"
    with pytest.raises(PipelineError, match=says):
        Loader(tmp_path / "a.beton", 2, pipelines={"image": [crop], "mask": [crop], "grey": None})
    own = RandomResizedCropRGBImageDecoder((8, 8))
    assert (
        len(Loader(tmp_path / "a.beton", 2, pipelines={"image": [crop], "mask": [own], "grey": [crop]})) == 2
    )
    Loader(
        tmp_path / "a.beton", 2, indices=[0, 1, 3], pipelines={"image": [crop], "mask": [crop], "grey": None}
    )
