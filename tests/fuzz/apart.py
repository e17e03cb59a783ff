"""Each step by itself, image by image, in numpy, OpenCV, Pillow and torchvision: what a pipeline must equal.

Nothing here knows of launches, tables or plans. Only the random numbers come from the steps themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from ffcv_gpu import transforms as t
from ffcv_gpu.draws import Draws
from ffcv_gpu.steps import Sampling
from ffcv_gpu.transforms.rand_augment import OPERATIONS
from tests.compat.operations import AddIndex, Corner, Invert
from tests.conftest import _import_torchvision
from tests.nearest import nearest_by_pillow

__all__ = ["Drawn", "Value", "apart", "resampled", "value_of"]


@dataclass(frozen=True)
class Value:
    """An epoch of one output: values in numpy (bfloat16 as float32), and how they are delivered.

    `layout` is "HWC", "CHW" or None for what is no image (any more); `exact` and `relative` are tolerances of
    the step that made it; `unsure` marks values that are not compared.
    """

    values: Any
    dtype: str
    container: str = "numpy"
    layout: str | None = "HWC"
    exact: float = 0.0
    relative: float = 0.0
    unsure: Any = None

    def with_(self, values: Any = None, **changes: Any) -> Value:
        """Return what the next step makes of it: nothing is tolerated, unless it says so."""
        fresh = {"exact": 0.0, "relative": 0.0, "unsure": None, **changes}
        return replace(self, values=self.values if values is None else values, **fresh)


@dataclass(frozen=True)
class Drawn:
    """The random numbers of an epoch: its rows of the file, the step's draw, where batches begin."""

    draws: Draws
    draw: int
    starts: Sequence[int]

    def batches(self) -> list[slice]:
        """Return the rows of each batch."""
        ends = [*self.starts[1:], len(self.draws)]
        return [slice(a, b) for a, b in zip(self.starts, ends, strict=True)]


def value_of(batches: Sequence[Any], layout: str | None) -> Value:
    """Return what a loader gave: one output of each batch."""
    if isinstance(batches[0], torch.Tensor):
        whole = torch.cat(list(batches))
        dtype = str(whole.dtype).removeprefix("torch.")
        return Value((whole.float() if dtype == "bfloat16" else whole).numpy(), dtype, "tensor", layout)
    whole = np.concatenate(batches)
    return Value(whole, str(whole.dtype), "numpy", layout)


def resampled(image: Any, size: tuple[int, int], resize: str) -> Any:
    """Return a crop (H, W, C) of any dtype in another size, by OpenCV or Pillow."""
    height, width = size
    if image.shape[:2] == size:
        return image
    if resize == "antialias":
        planes = [
            Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), Image.Resampling.BILINEAR)
            for plane in image.transpose(2, 0, 1)
        ]
        return np.stack([np.asarray(plane) for plane in planes], axis=2)
    if resize == "nearest":
        return nearest_by_pillow(image, height, width)
    shrunk = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA)
    return shrunk.reshape(*size, -1)


def on_images(value: Value, work: Callable[[Any], Any], **changes: Any) -> Value:
    """Return `value` after `work` on its images as (N, H, W, C)."""
    assert value.layout is not None
    chw = value.layout == "CHW"
    images = value.values.transpose(0, 2, 3, 1) if chw else value.values
    made = work(images)
    unsure = changes.pop("unsure", None)
    if chw:
        made = made.transpose(0, 3, 1, 2)
        unsure = None if unsure is None else unsure.transpose(0, 3, 1, 2)
    return value.with_(np.ascontiguousarray(made), unsure=unsure, **changes)


def filling(colour: Any, dtype: str) -> Any:
    """Return a fill colour in values of `dtype`."""
    fill = np.asarray(colour, np.float64)
    if dtype == "uint8":
        return np.clip(np.rint(fill), 0, 255).astype(np.uint8)
    if dtype == "bfloat16":
        return torch.tensor(fill).float().bfloat16().float().numpy()
    with np.errstate(over="ignore"):
        return fill.astype(dtype)


@singledispatch
def apart(step: Any, value: Value, drawn: Drawn) -> Value:
    """Return what `step` makes of `value`: here, of a function or module on tensors."""
    module = step.module if isinstance(step, t.ModuleWrapper) else step
    tensor = torch.from_numpy(value.values.copy())
    tensor = tensor.bfloat16() if value.dtype == "bfloat16" else tensor
    made = value_of([module(tensor[rows]) for rows in drawn.batches()], None)
    layout = value.layout if made.values.ndim == 4 else None
    return replace(made, layout=layout, relative=1e-2 if made.dtype == "bfloat16" else 1e-5)


@apart.register
def _(step: Sampling, value: Value, drawn: Drawn) -> Value:
    def crop(images: Any) -> Any:
        count, height, width = images.shape[:3]
        boxes = step.boxes(
            drawn.draws, drawn.draw, np.full(count, height, np.int64), np.full(count, width, np.int64)
        )
        return np.stack(
            [
                resampled(image[y : y + h, x : x + w], step.frame() or (h, w), step.resize)
                for image, (y, x, h, w) in zip(images, boxes.tolist(), strict=True)
            ]
        )

    return on_images(value, crop, exact=1)


@apart.register(t.RandomHorizontalFlip)
@apart.register(t.RandomVerticalFlip)
def _(step: Any, value: Value, drawn: Drawn) -> Value:
    which = step.mirrored(drawn.draws, drawn.draw)[:, None, None, None]
    axis = 1 if step.vertical else 2
    return on_images(value, lambda images: np.where(which, np.flip(images, axis), images))


@apart.register
def _(step: t.RandomTranslate, value: Value, drawn: Drawn) -> Value:
    def shift(images: Any) -> Any:
        made = np.empty_like(images)
        if step.padding_mode == "reflect":
            pad = step.padding
            padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), "reflect")
            for n, (dy, dx) in enumerate(step.offsets(drawn.draws, drawn.draw).tolist()):
                made[n] = padded[n, pad + dy :, pad + dx :][: made.shape[1], : made.shape[2]]
            return made
        made[:] = filling(step.fill, value.dtype)
        height, width = images.shape[1:3]
        for n, (dy, dx) in enumerate(step.offsets(drawn.draws, drawn.draw).tolist()):
            for y in range(max(0, -dy), min(height, height - dy)):
                low, high = max(0, -dx), min(width, width - dx)
                if low < high:
                    made[n, y, low:high] = images[n, y + dy, low + dx : high + dx]
        return made

    return on_images(value, shift)


@apart.register(t.Cutout)
@apart.register(t.RandomErasing)
def _(step: Any, value: Value, drawn: Drawn) -> Value:
    def erase(images: Any) -> Any:
        made = images.copy()
        rectangles = step.rectangles(drawn.draws, drawn.draw, *images.shape[1:3])
        for image, (y0, x0, y1, x1) in zip(made, rectangles.tolist(), strict=True):
            image[y0:y1, x0:x1] = filling(step.fill, value.dtype)
        return made

    return on_images(value, erase)


def by_torchvision(images: Any, function: Callable[..., Any], amounts: Any) -> Any:
    """Return each image (H, W, C) after a function on (C, H, W) tensors, of its amount."""
    made = []
    for image, amount in zip(images, amounts, strict=True):
        planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        made.append(function(planes, amount).numpy().transpose(1, 2, 0))
    return np.stack(made)


def functional() -> Any:
    """Return torchvision.transforms.v2.functional."""
    return _import_torchvision().transforms.v2.functional


def adjusted(value: Value, name: str, factors: Any, neutral: float = 1.0) -> Value:
    """Return images changed by one of torchvision's adjust functions; grey ones have no colour to change."""

    def adjust(images: Any) -> Any:
        if images.shape[3] == 1 and name in ("adjust_saturation", "adjust_hue"):
            return images
        function = getattr(functional(), name)
        made = by_torchvision(images, lambda image, f: function(image, float(f)), factors)
        return np.where((factors == neutral)[:, None, None, None], images, made)

    return on_images(value, adjust, exact=1)


@apart.register(t.RandomBrightness)
@apart.register(t.RandomContrast)
@apart.register(t.RandomSaturation)
def _(step: Any, value: Value, drawn: Drawn) -> Value:
    name = type(step).__name__.replace("Random", "adjust_").lower()
    return adjusted(value, name, step.amounts(drawn.draws, drawn.draw)[:, 0])


@apart.register
def _(step: t.RandomColorJitter, value: Value, drawn: Drawn) -> Value:
    """One of its four parts: the only one that is not neutral."""
    if not step.parts():
        return value.with_()
    factors = step.factors(drawn.draws, drawn.draw)
    ranges = {"brightness": step.brightness, "contrast": step.contrast, "saturation": step.saturation}
    for column, (name, bounds) in enumerate(ranges.items()):
        if bounds != (1, 1):
            return adjusted(value, f"adjust_{name}", factors[:, column])
    return adjusted(value, "adjust_hue", factors[:, 3], 0.0)


@apart.register
def _(step: t.RandomGrayscale, value: Value, drawn: Drawn) -> Value:
    which = step.amounts(drawn.draws, drawn.draw)[:, 0] == 1

    def grey(images: Any) -> Any:
        if images.shape[3] == 1:
            return images
        made = by_torchvision(images, lambda image, _: functional().rgb_to_grayscale(image, 3), which)
        return np.where(which[:, None, None, None], made, images)

    return on_images(value, grey, exact=1)


@apart.register
def _(step: t.RandomSolarization, value: Value, drawn: Drawn) -> Value:
    limits = step.amounts(drawn.draws, drawn.draw)[:, :, None, None]
    return on_images(value, lambda images: np.where(images >= limits, 255 - images, images))


@apart.register
def _(step: t.GaussianBlur, value: Value, drawn: Drawn) -> Value:
    sigmas = step.sigmas(drawn.draws, drawn.draw)[:, 0]
    sides = [step.kernel_size] * 2

    def blur(image: Any, sigma: Any) -> Any:
        return functional().gaussian_blur(image, sides, [float(sigma)] * 2) if sigma else image

    return on_images(value, lambda images: by_torchvision(images, blur, sigmas), exact=1)


def turned(value: Value, matrices: Any, fill: Any) -> Value:
    """Return each image's nearest pixels by an inverse affine map around its centre.

    A position within a thousandth of the middle between two pixels is unsure.
    """
    unsure = []

    def warp(images: Any) -> Any:
        made = np.empty_like(images)
        made[:] = filling(fill, "uint8")
        height, width = images.shape[1:3]
        y, x = np.mgrid[:height, :width].astype(np.float64)
        y, x = y - (height - 1) / 2, x - (width - 1) / 2
        for n, (xx, xy, x0, yx, yy, y0) in enumerate(np.asarray(matrices, np.float64)):
            at_x = xx * x + xy * y + x0 + (width - 1) / 2
            at_y = yx * x + yy * y + y0 + (height - 1) / 2
            near = [np.abs(np.abs(a - np.floor(a)) - 0.5) < 2e-3 for a in (at_x, at_y)]
            unsure.append(np.repeat((near[0] | near[1])[:, :, None], images.shape[3], axis=2))
            rows, columns = np.rint(at_y).astype(int), np.rint(at_x).astype(int)
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            made[n][inside] = images[n][rows[inside], columns[inside]]
        return made

    images = value.values.transpose(0, 2, 3, 1) if value.layout == "CHW" else value.values
    made = warp(images)
    mask = np.stack(unsure)
    if value.layout == "CHW":
        made, mask = made.transpose(0, 3, 1, 2), mask.transpose(0, 3, 1, 2)
    return value.with_(np.ascontiguousarray(made), unsure=mask)


@apart.register
def _(step: t.Rotate, value: Value, drawn: Drawn) -> Value:
    angles = step.angles(drawn.draws, drawn.draw)
    cos, sin, zero = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    return turned(value, np.stack([cos, -sin, zero, sin, cos, zero], axis=1), step.fill)


@apart.register(t.RandAugment)
@apart.register(t.TrivialAugment)
def _(step: Any, value: Value, drawn: Drawn) -> Value:
    """The last of its rounds."""
    if not step.rounds():
        return value.with_()
    height, width = value.values.shape[2:] if value.layout == "CHW" else value.values.shape[1:3]
    operations, magnitudes = step.rounds()[-1].drawn(drawn.draws, drawn.draw, height, width)
    names = np.array(OPERATIONS)[operations]
    moving = np.isin(names, ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"])
    matrices = np.tile(np.array([1.0, 0, 0, 0, 1, 0]), (len(names), 1))
    for n, (name, m) in enumerate(zip(names, magnitudes, strict=True)):
        angle = np.deg2rad(m)
        matrices[n] = {
            "ShearX": (1, m, m * height / 2, 0, 1, 0),
            "ShearY": (1, 0, 0, m, 1, m * width / 2),
            "TranslateX": (1, 0, -np.trunc(m), 0, 1, 0),
            "TranslateY": (1, 0, 0, 0, 1, -np.trunc(m)),
            "Rotate": (np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0),
        }.get(name, (1, 0, 0, 0, 1, 0))
    warped = turned(value, matrices, step.fill)
    v2 = _import_torchvision().transforms.v2
    theirs = v2.RandAugment()

    def colour(image: Any, drawn: Any) -> Any:
        name, magnitude = drawn
        if name == "Sharpness" and min(image.shape[1:]) < 3:
            return image
        return theirs._apply_image_or_video_transform(
            image, str(name), float(magnitude), theirs.interpolation, theirs._fill
        )

    still = [
        ("Identity", 0) if moves else pair for moves, *pair in zip(moving, names, magnitudes, strict=True)
    ]
    coloured = on_images(value, lambda images: by_torchvision(images, colour, still), exact=1)
    made = np.where(moving[:, None, None, None], warped.values, coloured.values)
    return value.with_(made, exact=1, unsure=warped.unsure & moving[:, None, None, None])


@apart.register
def _(step: t.Poison, value: Value, drawn: Drawn) -> Value:
    opacity = step.alpha[:, :, None]
    chosen = np.isin(drawn.draws.samples, step.indices)[:, None, None, None]

    def blend(images: Any) -> Any:
        exact = np.clip(images * (1 - opacity) + step.mask * opacity, *step.clamp)
        return np.where(chosen, np.clip(exact, 0, 255), images)

    return on_images(value, blend, exact=0.502)


def rounded(values: Any, dtype: str) -> Any:
    """Return values in `dtype`; bfloat16 as float32."""
    with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dtype == "bfloat16":
            return torch.from_numpy(np.ascontiguousarray(values)).float().bfloat16().float().numpy()
        return values.astype(dtype)


#: of one rounding more than necessary
NEAR = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 2e-5, "float64": 2e-5}


@apart.register
def _(step: t.NormalizeImage, value: Value, drawn: Drawn) -> Value:
    axes = {"CHW": (1, -1, 1, 1), "HWC": (1, 1, 1, -1)}
    shape = axes[value.layout] if value.layout else [1] * (value.values.ndim - 1) + [-1]
    exact = (value.values.astype(np.float64) - step.mean.reshape(shape)) / step.std.reshape(shape)
    return value.with_(
        rounded(exact, step.type), dtype=step.type, exact=NEAR[step.type] / 20, relative=NEAR[step.type]
    )


@apart.register
def _(step: t.Convert, value: Value, drawn: Drawn) -> Value:
    made, dtype = value.values, str(step._name)
    info = np.iinfo(dtype) if np.dtype("f4" if dtype == "bfloat16" else dtype).kind in "iu" else None
    unsure = None
    if info is not None and value.values.dtype.kind == "f":  # C leaves the rest undefined
        wide = made.astype(np.float64)
        unsure = ~((wide > info.min - 1.0) & (wide < info.max + 1.0))
    return value.with_(rounded(made, dtype), dtype=dtype, unsure=unsure)


@apart.register
def _(step: t.ToTensor, value: Value, drawn: Drawn) -> Value:
    return value.with_(container="tensor")


@apart.register
def _(step: t.ToDevice, value: Value, drawn: Drawn) -> Value:
    return value.with_()


@apart.register
def _(step: t.ToTorchImage, value: Value, drawn: Drawn) -> Value:
    return value.with_(value.values.transpose(0, 3, 1, 2), layout="CHW")


@apart.register
def _(step: t.View, value: Value, drawn: Drawn) -> Value:
    if isinstance(step.target_dtype, int | tuple | list):
        shape = np.atleast_1d(step.target_dtype).tolist()
        return value.with_(value.values.reshape(len(value.values), *shape[1:]), layout=None)
    tensor = torch.from_numpy(np.ascontiguousarray(value.values))
    tensor = tensor.bfloat16() if value.dtype == "bfloat16" else tensor
    name = str(step.target_dtype).removeprefix("torch.")
    made = value_of([tensor.view(getattr(torch, name))], value.layout)
    return replace(made, container=value.container)


@apart.register
def _(step: t.Squeeze, value: Value, drawn: Drawn) -> Value:
    shape, dims = value.values.shape, {dim % value.values.ndim for dim in step.dims}
    kept = [n for n in range(1, len(shape)) if shape[n] != 1 or (dims and n not in dims)]
    made = value.values.reshape(shape[0], *(shape[n] for n in kept))
    return value.with_(made, layout=value.layout if made.shape == shape else None)


@apart.register
def _(step: t.ImageMixup, value: Value, drawn: Drawn) -> Value:
    made = np.empty(value.values.shape, np.float64)
    for rows in drawn.batches():
        draws = Draws(drawn.draws.seed, drawn.draws.epoch, drawn.draws.samples[rows])
        kept = step.kept(draws, drawn.draw).reshape(-1, *[1] * (value.values.ndim - 1))
        batch = value.values[rows].astype(np.float64)
        with np.errstate(invalid="ignore"):
            made[rows] = kept * batch + (1 - kept) * np.roll(batch, 1, 0)
    if "float" in value.dtype:
        scale = np.abs(made[np.isfinite(made)]).max(initial=1.0)
        return value.with_(made, exact=NEAR[value.dtype] * scale, relative=NEAR[value.dtype])
    return value.with_(made, exact=0.51 + 1e-6 * np.abs(made).max())


@apart.register
def _(step: Invert, value: Value, drawn: Drawn) -> Value:
    return value.with_(255 - value.values)


@apart.register
def _(step: AddIndex, value: Value, drawn: Drawn) -> Value:
    rows = drawn.draws.samples.reshape(-1, *[1] * (value.values.ndim - 1))
    return value.with_(value.values + rows, dtype="int64", container="numpy")


@apart.register
def _(step: Corner, value: Value, drawn: Drawn) -> Value:
    height, width = value.values.shape[1:3]
    return value.with_(value.values[:, : height // 2, : width // 2])


@apart.register
def _(step: t.ReplaceLabel, value: Value, drawn: Drawn) -> Value:
    chosen = np.isin(drawn.draws.samples, step.indices).reshape(-1, *[1] * (value.values.ndim - 1))
    return value.with_(np.where(chosen, rounded(np.float64(step.new_label), value.dtype), value.values))


@apart.register
def _(step: t.LabelMixup, value: Value, drawn: Drawn) -> Value:
    made = []
    for rows in drawn.batches():
        draws = Draws(drawn.draws.seed, drawn.draws.epoch, drawn.draws.samples[rows])
        own = value.values[rows].reshape(-1)
        made.append(np.stack([own, np.roll(own, 1), step.kept(draws, drawn.draw)], axis=1))
    return value.with_(np.concatenate(made), dtype="float32", exact=1e-6, relative=NEAR["float32"])


@apart.register
def _(step: t.MixupToOneHot, value: Value, drawn: Drawn) -> Value:
    made = np.zeros((len(value.values), step.num_classes))
    for row, (own, other, kept) in zip(made, value.values, strict=True):
        row[int(own)] += kept
        row[int(other)] += 1 - kept
    return value.with_(made, exact=NEAR.get(value.dtype, 0))
