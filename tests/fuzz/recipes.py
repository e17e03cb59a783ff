"""Random pipelines that a Loader accepts, as recipes: printed, they can be built again."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ffcv_gpu import ssl
from ffcv_gpu import transforms as t
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import ImageField, IntField, MaskField, RGBImageField
from ffcv_gpu.fields import decoders as d
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.writer import DatasetWriter
from tests.compat import operations
from tests.conftest import _make_jpeg, _make_photo

__all__ = ["FIELDS", "Case", "File", "Found", "Recipe", "brief", "build", "generated", "loader_of", "written"]

#: of the images of the first file; some are larger than the fields' max_resolution
ODD = [(1, 1), (1, 17), (23, 1), (2, 90), (40, 48), (130, 7), (64, 64), (200, 150), (9, 8), (33, 31), (5, 5),
       (3, 200), (71, 50)]  # fmt: skip
ONE = [(21, 18)] * 11
FIELDS = {
    "image": RGBImageField(max_resolution=120),
    "grey": ImageField(),
    "two": ImageField(2),
    "rgba": ImageField(4),
    "deep": ImageField(3, "uint16"),
    "real": ImageField(1, "float32"),
    "mask": MaskField(max_resolution=120),
    "label": IntField(),
    "row": IntField(),
}
CHANNELS = {"image": 3, "grey": 1, "two": 2, "rgba": 4, "deep": 3, "real": 1, "mask": 1}
DTYPES = {"deep": "uint16", "real": "float32", "label": "int64"}


# ---- files


class Samples:
    """Photographs of some sizes, as every kind of field; every second RGB image is a JPEG."""

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, i: int) -> tuple[Any, ...]:
        photo = _make_photo(*self.sizes[i], seed=i)
        if i == 4:
            photo[:] = 90
        kinds = [{"subsampling": s} for s in ("4:2:0", "4:4:4", "4:2:2")] + [{"mode": "L"}]
        image = _make_jpeg(*self.sizes[i], seed=i, **kinds[i // 2 % 4]) if i % 2 else photo
        rgba = np.concatenate([photo, photo[::-1, :, :1]], 2)
        deep = photo.astype(np.uint16) * 257
        real = (photo[..., 0] / np.float32(17) - 3).astype(np.float32)
        mask = photo[..., 2] // 8
        return image, photo[..., 1].copy(), photo[..., :2].copy(), rgba, deep, real, mask, i * 7 % 10, i


@dataclass(frozen=True)
class File:
    """A written file, and what each of its samples is when it is read by itself."""

    path: Path
    stored: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.stored["row"])


def written(folder: Path) -> dict[str, File]:
    """Write a file of images of odd sizes, and one of images of one size."""
    made = {}
    for name, sizes in (("odd", ODD), ("one", ONE)):
        path = folder / f"{name}.beton"
        DatasetWriter(path, FIELDS, num_workers=1, progress=False).from_indexed_dataset(Samples(sizes))
        heads = {kind: [d.SimpleRGBImageDecoder()] for kind in CHANNELS}
        heads |= {kind: [d.IntDecoder()] for kind in ("label", "row")}
        columns: dict[str, list[Any]] = {kind: [] for kind in FIELDS}
        for i in range(len(sizes)):
            (batch,) = Loader(path, 1, 1, indices=[i], pipelines=heads)
            for kind, value in zip(FIELDS, batch, strict=True):
                columns[kind].append(value[0])
        made[name] = File(path, columns)
    return made


# ---- recipes

Recipe = tuple[str, tuple[Any, ...], dict[str, Any]]


def scaled(batch: Any) -> Any:
    """Work as users' own functions do."""
    return batch * 2 + 1


def halved(batch: Any) -> Any:
    """Leave out half of the last axis."""
    return batch[..., : max(1, batch.shape[-1] // 2)]


def python(kind: type) -> Any:
    """Return an operation of tests.compat.operations that is not compiled, which takes a second each."""
    declare = operations.python_mode(kind.declare_state_and_memory)  # type: ignore[attr-defined]
    return type(kind.__name__, (kind,), {"declare_state_and_memory": declare})()


NAMES = {
    **vars(d),
    **vars(t),
    "SslCrop": ssl.RandomResizedCrop,
    "scaled": lambda: scaled,
    "halved": lambda: halved,
    "Identity": torch.nn.Identity,
    "Flatten": torch.nn.Flatten,
    "Invert": lambda: operations.Invert(False),
    "AddIndex": lambda: python(operations.AddIndex),
    "Corner": lambda: python(operations.Corner),
}


def build(recipe: Recipe) -> Any:
    """Return the step of a recipe."""
    name, arguments, options = recipe
    if name != "Poison":
        return NAMES[name](*arguments, **options)
    shape, rows = arguments
    rng = np.random.default_rng(1)
    mask, alpha = rng.integers(0, 256, shape), rng.random(shape[:2]) * (rng.random(shape[:2]) < 0.6)
    return t.Poison(mask, alpha, rows, **options)


SIZES = ((1, 1), (1, 7), (9, 1), (5, 4), (16, 16), (24, 20), (33, 48), (64, 3), (21, 18))
FLOATS = ("float16", "float32", "float64", "bfloat16")
PARTS = [0, 0.5]


def made_head(rng: random.Random, file: str) -> Recipe:
    """Return a decoder for a file of images of one size, or of many."""
    size, resize = rng.choice(SIZES), {"resize": rng.choice(["area", "area", "antialias"])}
    scale = rng.choice([(0.08, 1.0), (0.5, 1.0), (1, 1)])
    ratio = rng.choice([(0.75, 4 / 3), (1, 1), (0.1, 9)])
    share = rng.choice([1.0, 0.875, 0.3, 0.01])
    kinds: list[Recipe] = [
        ("CenterCropRGBImageDecoder", (size, share), resize),
        ("RandomResizedCropRGBImageDecoder", (size, scale, ratio), resize),
        ("CornerCropRGBImageDecoder", (size, share, "bottom_right"), resize),
        ("ResizedRGBImageDecoder", (size,), resize),
        ("SslCrop", (size, scale, ratio, 5, rng.choice([None, 6])), resize),
        ("SimpleRGBImageDecoder", (), {}),
    ]
    several = [("SimpleRGBImageDecoder", (), {})] * 3 if file == "one" else [("PadRGBImageDecoder", (), {})]
    return rng.choice(kinds + several)


def made_step(rng: random.Random, channels: int, shape: tuple[int, ...]) -> Recipe:
    """Return a step for images that may well be in the wrong place."""
    p, seed, size = rng.choice([0.5, 1.0, 0.5, 0.0]), rng.randrange(4), rng.choice(SIZES)
    colour = tuple(rng.choice([0, 8, 99.5, 255]) for _ in range(channels))
    fill = rng.choice([0, 7, 255, 0.5, -1.5, 300, colour])
    mean = [rng.uniform(90, 130) for _ in range(channels)]
    std = [rng.uniform(40, 70) for _ in range(channels)]
    seeded = rng.choice([{}, {"seed": seed}])
    jitter = *(rng.choice(PARTS) for _ in range(3)), rng.choice([0, 0.2])
    rounds = rng.choice([0, 1, 2]), rng.choice([3, 17, 30])
    views = [-1, (-1, int(np.prod(shape))), "int16", "int32", "float16", "bfloat16", "int8"]
    kinds: dict[Callable[[], Recipe], int] = {
        lambda: ("RandomHorizontalFlip", (p,), seeded): 4,
        lambda: ("RandomVerticalFlip", (p,), seeded): 2,
        lambda: ("RandomTranslate", (rng.choice([0, 1, 3, 30, 1000]), fill), seeded): 4,
        lambda: ("RandomTranslate", (rng.choice([1, 3, 8]), fill), {"padding_mode": "reflect", **seeded}): 3,
        lambda: ("Cutout", (rng.choice([None, 1, 2, 5]), fill), {}): 3,
        lambda: ("RandomErasing", (p, (0.02, 0.6), (0.3, 3), fill), seeded): 3,
        lambda: ("RandomResizedCrop", ((0.3, 1.0), (0.5, 2.0), size),
                 {"resize": rng.choice(["area", "antialias"])}): 2,
        lambda: ("RandomBrightness", (0.6, p), seeded): 1,
        lambda: ("RandomContrast", (0.6, p), seeded): 2,
        lambda: ("RandomSaturation", (0.6, p), seeded): 1,
        lambda: ("RandomColorJitter", (p, *jitter), {"seed": seed}): 2,
        lambda: ("RandomGrayscale", (p,), seeded): 1,
        lambda: ("RandomSolarization", (p, rng.choice([0, 100, 128.5, 256])), seeded): 2,
        lambda: ("GaussianBlur", (p, rng.choice([1, 3, 5]), (0.3, 2.0)), seeded): 2,
        lambda: ("Rotate", (p, rng.choice([0.2, 3.2])), {"fill": fill, **seeded}): 2,
        lambda: ("RandAugment", (*rounds, 31, fill), {"seed": seed}): 1,
        lambda: ("TrivialAugment", (31, fill), {"seed": seed}): 1,
        lambda: ("Poison", (shape, [0, 3, 4, 7]), rng.choice([{}, {"clamp": (5, 250)}])): 1,
        lambda: ("NormalizeImage", (mean, std, rng.choice(FLOATS)), {}): 4,
        lambda: ("Convert", (rng.choice([*FLOATS, *FLOATS, "int32", "uint8", "int64"]),), {}): 2,
        lambda: ("ImageMixup", (0.6, rng.choice([True, False])), {}): 1,
        lambda: ("ToTensor", (), {}): 4,
        lambda: ("ToTorchImage", (rng.choice([True, False]),), {}): 4,
        lambda: ("ToDevice", ("cpu",), {}): 1,
        lambda: ("View", (rng.choice(views),), {}): 1,
        lambda: ("Squeeze", rng.choice([(), (1,), (3,), (-1,)]), {}): 1,
        lambda: (rng.choice(["scaled", "halved", "Identity", "Flatten"]), (), {}): 1,
        lambda: (rng.choice(["Invert", "AddIndex", "Corner"]), (), {}): 1,
    }  # fmt: skip
    (chosen,) = rng.choices(list(kinds), list(kinds.values()))
    return chosen()


def made_label_step(rng: random.Random) -> Recipe:
    """Return a step for labels."""
    kinds: list[Recipe] = [
        ("ToTensor", (), {}),
        ("Squeeze", rng.choice([(), (1,), (-1,)]), {}),
        ("View", (rng.choice([-1, (-1, 1), (-1, 1, 1), "float64"]),), {}),
        ("Convert", (rng.choice([*FLOATS, "int32", "uint8", "int16"]),), {}),
        ("ReplaceLabel", ([1, 2, 12, 99], rng.choice([0, 9, 300, -1, 0.5])), {}),
        ("LabelMixup", (0.6, rng.choice([True, False])), {}),
        ("MixupToOneHot", (rng.choice([10, 301]),), {}),
        ("NormalizeImage", ([2.0], [3.0], rng.choice(FLOATS)), {}),
        (rng.choice(["scaled", "Identity", "AddIndex"]), (), {}),
        ("RandomHorizontalFlip", (), {}),
    ]
    return rng.choice(kinds)


# ---- cases


@dataclass(frozen=True)
class Case:
    """One pipeline and how it is loaded; `refused` counts what the loader said about other steps."""

    file: str
    field: str
    head: Recipe
    steps: tuple[Recipe, ...]
    batch_size: int = 4
    seed: int = 0
    epoch: int = 0
    order: str = "SEQUENTIAL"
    refused: Counter[str] = field(default_factory=Counter, compare=False, repr=False)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The whole list."""
        return (self.head, *self.steps)

    def objects(self) -> list[Any]:
        """Return the whole list, built."""
        return [build(recipe) for recipe in self.recipes]

    def has(self, *names: str) -> bool:
        """Whether one of these steps is in the list."""
        return any(name in names for name, _, _ in self.recipes)


class Found(Exception):
    """A case that could not even be made, for another reason than a `PipelineError`."""


def loader_of(file: File, case: Case, pipelines: dict[str, Any], **more: Any) -> Loader:
    """Return a loader of these outputs and of the samples' rows."""
    settings = {"num_workers": 2, "drop_last": False, "seed": case.seed, "order": OrderOption[case.order]}
    chosen = dict.fromkeys(FIELDS) | pipelines | {"row": [d.IntDecoder()]}
    loader = Loader(file.path, pipelines=chosen, **{"batch_size": case.batch_size, **settings, **more})
    loader.next_epoch = case.epoch
    return loader


def brief(error: BaseException) -> str:
    """Return what errors of one kind say alike: without numbers and arguments."""
    text = re.sub(r"\d+(\.\d+)?", "#", str(error))
    while (less := re.sub(r"\([^()]*\)", "", text)) != text:
        text = less
    return text


#: steps behind which only the finished batch is worked on: not too early
ENDING = ("scaled", "halved", "Identity", "Flatten", "Invert", "AddIndex", "Corner", "View", "Squeeze",
          "Convert", "NormalizeImage", "ImageMixup")  # fmt: skip


def generated(seed: int, files: dict[str, File], longest: int = 7) -> Case:
    """Return a valid case. Steps that a loader refuses are counted and left out.

    Raises
    ------
    Found
        If a loader raises anything but `PipelineError`.
    """
    rng = random.Random(seed)
    case = _begun(rng)
    wanted, pending = rng.randint(0, longest), ()
    shape, before = (1, 1, CHANNELS.get(case.field, 1)), DTYPES.get(case.field, "uint8")
    for _ in range(4 * wanted):
        if len(case.steps) >= wanted:
            break
        recipe = _next(rng, case, shape)
        early = case.field != "label" and recipe[0] in ENDING and len(case.steps) < wanted - 1
        if (early and rng.random() < 0.7) or not _takes(recipe, shape, before):
            continue
        tried = replace(case, steps=(*case.steps, *pending, recipe))
        try:
            spec = loader_of(files[case.file], tried, {case.field: tried.objects()}).code[case.field].spec
        except PipelineError as error:
            case.refused[brief(error)] += 1
            # the next step may mend it: a tensor, a crop
            mends = "no bfloat16" in str(error) or ("of one size" in str(error) and not case.steps)
            pending = (recipe,) if mends else ()
            continue
        except Exception as error:
            raise Found(f"{tried}: {error!r}") from error
        case, pending, before = tried, (), f"{spec.container} {spec.dtype}"
        shape = tuple(spec.shape or (1, 1, 1))
        shape = (*shape[1:], shape[0]) if spec.layout == "CHW" else shape
    return _that_loads(case, files)


def _that_loads(case: Case, files: dict[str, File]) -> Case:
    """Return the case without last steps that are refused while loading: for what a module or label is."""
    while True:
        try:
            for _ in loader_of(files[case.file], case, {case.field: case.objects()}):
                pass
        except PipelineError as error:
            case.refused[f"while loading, {brief(error)}"] += 1
        except Exception as error:
            raise Found(f"{case}: {error!r}") from error
        else:
            return case
        if not case.steps:  # a decoder of whole images without a crop
            return replace(case, head=("CenterCropRGBImageDecoder", ((16, 12), 1.0), {}))
        case = replace(case, steps=case.steps[:-1])


def _begun(rng: random.Random) -> Case:
    file = rng.choice(["odd", "one"])
    kind = rng.choice(["image"] * 6 + [kind for kind in FIELDS if kind not in ("image", "row")])
    head = ("IntDecoder", (), {}) if kind == "label" else made_head(rng, file)
    order = rng.choice([order.name for order in OrderOption])
    return Case(
        file, kind, head, (), rng.choice([1, 3, 4, 5, 16]), rng.randrange(99), rng.randrange(3), order
    )


def _next(rng: random.Random, case: Case, shape: tuple[int, ...]) -> Recipe:
    if case.field == "label" and rng.random() < 0.9:
        return made_label_step(rng)
    images = len(shape) == 3
    return made_step(
        rng, shape[-1] if images else CHANNELS.get(case.field, 1), shape if images else (1, 1, 1)
    )


def _takes(recipe: Recipe, shape: tuple[int, ...], before: str) -> bool:
    """Return whether a step's own code takes such a batch: what it raises is the user's."""
    name = recipe[0]
    if name == "Corner":
        return len(shape) == 3 and min(shape) > 1
    if name == "AddIndex" and "tensor" in before:
        return False  # torch's sums are of the tensor's dtype
    if name in ("AddIndex", "Invert") and "int" not in before:
        return False
    return "uint16" not in before or name not in ("Invert", "scaled")  # torch hardly knows uint16
