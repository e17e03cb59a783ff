"""What must hold for every pipeline.

``apart``     each beginning of the list gives what its last step, by itself, makes of the one before it
``settings``  batch size, workers, order, `indices`, ranks, `os_cache` and a resume change no sample
``views``     the same step objects in a second output, or one that goes on from a step, give the same
``never``     a step that never does anything may stand anywhere
``gpu``       the fake GPU gives the CPU's batches; half of its JPEGs are decoded on the CPU
"""

from __future__ import annotations

import copy
import inspect
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ffcv_gpu import transforms as t
from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import decoders as d
from ffcv_gpu.jpeg.nvjpeg import handles
from ffcv_gpu.loader import OrderOption
from ffcv_gpu.native import nvjpeg_library
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.pipeline.outputs import output_specs
from ffcv_gpu.steps import Sampling
from tests.fake_gpu import FakeGpu
from tests.fuzz.apart import Drawn, Value, apart, resampled, value_of
from tests.fuzz.recipes import FIELDS, Case, File, Recipe, brief, build, loader_of

__all__ = ["CHECKS", "REFUSED_ON_GPU", "Wrong"]

Files = dict[str, File]

#: what a fake GPU refused, and how often
REFUSED_ON_GPU: Counter[str] = Counter()


class Wrong(AssertionError):
    """Something that must hold does not."""


# ---- epochs


def epoch_of(file: File, case: Case, pipelines: dict[str, Any], **more: Any) -> dict[str, list[Any]]:
    """Return the batches of each output; they must be what the program says they are."""
    loader = loader_of(file, case, pipelines, **more)
    columns = dict(zip(loader.code, map(list, zip(*loader, strict=True)), strict=True))
    for name, batches in columns.items():
        spec = loader.code[name].spec
        for batch in batches:
            told = tuple(batch.shape[1:]), str(batch.dtype).removeprefix("torch.")
            if told != (told[0] if spec.shape is None else spec.shape, spec.dtype or told[1]):
                raise Wrong(f"the spec says {spec}, the batch is {told}")
            if isinstance(batch, torch.Tensor) != (spec.container == "tensor"):
                raise Wrong(f"the spec says {spec}, the batch is {type(batch)}")
    return columns


def bits_of(batches: Sequence[Any]) -> Any:
    """Return samples as one array whose bytes are comparable."""
    if isinstance(batches[0], torch.Tensor):
        whole = torch.cat(list(batches))
        return (whole.view(torch.int16) if whole.dtype == torch.bfloat16 else whole).numpy()
    return np.concatenate(batches)


def by_rows(columns: dict[str, list[Any]], name: str) -> dict[int, Any]:
    """Return each sample's values under its row of the file."""
    rows = np.concatenate([np.asarray(batch).reshape(-1) for batch in columns["row"]])
    return dict(zip(rows.tolist(), bits_of(columns[name]), strict=True))


def same(expected: dict[int, Any], got: dict[int, Any], what: str) -> None:
    """Raise `Wrong` unless the samples that are in both are equal, bit by bit."""
    for row in expected.keys() & got.keys():
        one, two = expected[row], got[row]
        if (one.shape, one.dtype) != (two.shape, two.dtype):
            raise Wrong(f"{what}: row {row} is {two.dtype} {two.shape}, not {one.dtype} {one.shape}")
        if one.tobytes() != two.tobytes():
            raise Wrong(f"{what}: row {row} differs")


# ---- each step by itself


def check_apart(case: Case, files: Files) -> None:
    """Compare the whole list and each beginning of it with the last step of each.

    A mask stands beside the image of the same steps, as far as those take images, and shares its draws.
    """
    file, objects = files[case.file], [build(case.head)]
    before: Value | None = None
    for number, recipe in enumerate(case.recipes):
        for longer, alone in beginnings(recipe):
            step = objects[0] if number == 0 else build(longer)
            stood = [*objects[:number], step]
            reference = step if alone is longer else build(alone)
            before = _compared(file, case, stood, reference, before) or before
        objects = stood
    if before is None:
        raise Wrong("nothing was compared")


def beginnings(recipe: Recipe) -> Iterator[tuple[Recipe, Recipe]]:
    """Yield, for a step of several parts, steps that do more and more of them, and the last part alone."""
    name, arguments, options = recipe
    if name == "RandAugment" and arguments[0]:
        for rounds in range(1, arguments[0] + 1):
            part = (name, (rounds, *arguments[1:]), options)
            yield part, part
    elif name == "RandomColorJitter" and any(arguments[1:]):
        prob, *amounts = arguments
        for n in np.flatnonzero(amounts).tolist():
            so_far = [*amounts[: n + 1], 0, 0, 0][:4]
            alone = [amount if k == n else 0 for k, amount in enumerate(amounts)]
            yield (name, (prob, *so_far), options), (name, (prob, *alone), options)
    else:
        yield recipe, recipe


def _compared(
    file: File, case: Case, objects: list[Any], reference: Any, before: Value | None
) -> Value | None:
    """Return what a list gives, after it was compared; what is expected, or None, if only more is allowed."""
    pipelines = {case.field: objects}
    if case.field == "mask":
        try:
            loader_of(file, case, {"image": objects, **pipelines})
            pipelines["image"] = objects
        except PipelineError:
            pass  # such as a mean of one channel
    try:
        columns = epoch_of(file, case, pipelines)
    except PipelineError as error:
        if "no bfloat16" not in str(error) and "of one size" not in str(error):
            raise
        if before is None:
            return None
        columns = epoch_of(file, case, {})  # the rows are the same
    rows = np.concatenate([batch.reshape(-1) for batch in columns["row"]])
    starts = np.cumsum([0, *(len(batch) for batch in columns["row"][:-1])]).tolist()
    drawn = Drawn(Draws(case.seed, case.epoch, rows), draw_of(case.field, pipelines), starts)
    if before is None:
        expected = decoded(file, case, objects[-1], drawn)
    elif isinstance(reference, Sampling) and case.field == "mask":
        nearest = copy.copy(reference)
        vars(nearest)["resize"] = "nearest"  # which no user can choose
        expected = replace(apart(nearest, before, drawn), exact=0)
    else:
        expected = apart(reference, before, drawn)
    if case.field not in columns:
        return expected
    got = value_of(columns[case.field], expected.layout)
    compare(got, expected, f"step {len(objects) - 1}, {objects[-1]!r}")
    return got


def draw_of(name: str, pipelines: dict[str, Any]) -> int:
    """Return the random draw of the last step of an output."""
    outputs = output_specs(dict.fromkeys(FIELDS) | pipelines, FIELDS)
    (output,) = (output for output in outputs if output.name == name)
    last = (output.decoder, *output.steps)[-1]
    return output.draws[last]


def decoded(file: File, case: Case, step: Any, drawn: Drawn) -> Value:
    """Return what a decoder, or a crop that follows one of whole images, makes of what is stored."""
    stored = file.stored[case.field]
    images = [stored[row] for row in drawn.draws.samples]
    if case.field == "label":
        return Value(np.stack(images), "int64", layout=None)
    if isinstance(step, d.PadRGBImageDecoder):
        height, width = np.array([image.shape[:2] for image in stored]).max(axis=0)
        made = [np.pad(i, ((0, height - len(i)), (0, width - i.shape[1]), (0, 0))) for i in images]
        return Value(np.stack(made), str(made[0].dtype))
    heights, widths = np.array([image.shape[:2] for image in images], np.int64).T
    boxes = step.boxes(drawn.draws, drawn.draw, heights, widths).tolist()
    way = "nearest" if case.field == "mask" else step.resize
    made = [
        resampled(image[y : y + h, x : x + w], step.frame() or (h, w), way)
        for image, (y, x, h, w) in zip(images, boxes, strict=True)
    ]
    exact = 1.0 if made[0].dtype == np.uint8 and way != "nearest" else 0.0
    return Value(np.stack(made), str(made[0].dtype), exact=exact)


def compare(got: Value, expected: Value, what: str) -> None:
    """Raise `Wrong` unless two values are as near as the second one says."""
    kinds = [(v.dtype, v.container, v.values.shape) for v in (got, expected)]
    if kinds[0] != kinds[1]:
        raise Wrong(f"{what}: {kinds[0]} instead of {kinds[1]}")
    one, two = got.values.astype(np.float64), expected.values.astype(np.float64)
    with np.errstate(invalid="ignore"):
        near = np.abs(one - two) <= expected.exact + expected.relative * np.abs(two)
    near |= (one == two) | (np.isnan(one) & np.isnan(two))
    if expected.dtype == "float16":  # one may have overflown where the other just does not
        near |= (np.abs(one) > 65000) & (np.abs(two) > 65000) & (np.sign(one) == np.sign(two))
    if expected.unsure is not None:
        near |= expected.unsure
    if not near.all():
        at = tuple(np.argwhere(~near)[0].tolist())
        raise Wrong(f"{what}: {one[at]} instead of {two[at]} at {at}; {(~near).mean():.1%} are wrong")


# ---- what must not matter


def check_settings(case: Case, files: Files) -> None:
    """Load with other settings; mixup reads a partner in the batch, so its batches must stay as they are."""
    file, rng = files[case.file], random.Random(repr(case))
    pipelines = {case.field: case.objects()}
    plain = by_rows(epoch_of(file, case, pipelines), case.field)
    if len(plain) != len(file):
        raise Wrong(f"{len(plain)} of {len(file)} samples")
    settings: list[dict[str, Any]] = [{"num_workers": 1}, {"os_cache": False, "num_workers": 3}]
    batches_matter = case.has("ImageMixup", "LabelMixup")
    if not batches_matter:
        settings += [
            {"batch_size": rng.choice([1, 2, 7, 100])},
            {"order": rng.choice(list(OrderOption)), "batch_size": 6},
            {"rank": rng.randrange(3), "world_size": 3},
            {"indices": rng.sample(range(len(file)), 5)},
        ]
    for more in settings:
        same(plain, by_rows(epoch_of(file, case, pipelines, **more), case.field), f"with {more}")
    first = loader_of(file, case, pipelines)
    running = iter(first)
    for _ in range(rng.randrange(len(first))):
        next(running)
    state = first.state_dict()
    first.close()
    second = loader_of(file, case, pipelines, **({} if batches_matter else {"batch_size": 3}))
    second.load_state_dict(state)
    columns = dict(zip(second.code, map(list, zip(*second, strict=True)), strict=True))
    same(plain, by_rows(columns, case.field), f"resumed at {state['done']}")


def check_views(case: Case, files: Files) -> None:
    """Add an output that goes on from a step of the first one."""
    file, rng, objects = files[case.file], random.Random(repr(case)), case.objects()
    plain = by_rows(epoch_of(file, case, {case.field: objects}), case.field)
    for cut in {0, rng.randrange(len(objects)), len(objects) - 1}:
        if not hasattr(objects[cut], "draw_key"):
            continue  # a function has no place of its own
        view = PipelineSpec(objects[cut], transforms=objects[cut + 1 :])
        columns = epoch_of(file, case, {case.field: objects, "view": view})
        for name in (case.field, "view"):
            same(plain, by_rows(columns, name), f"{name}, with a view from step {cut}")


NEVER: list[Recipe] = [
    ("RandomHorizontalFlip", (0.0,), {}),
    ("RandomVerticalFlip", (0.0,), {}),
    ("RandomTranslate", (0,), {}),
    ("RandomErasing", (0.0,), {}),
    ("RandomBrightness", (0.5, 0.0), {}),
    ("RandomContrast", (0.5, 0.0), {}),
    ("RandomSaturation", (0.5, 0.0), {}),
    ("RandomColorJitter", (0.0,), {}),
    ("RandomGrayscale", (0.0,), {}),
    ("RandomSolarization", (0.0,), {}),
    ("GaussianBlur", (0.0, 3), {}),
    ("Rotate", (0.0,), {}),
    ("RandAugment", (0,), {}),
    ("ToDevice", ("cpu",), {}),
]


def check_never(case: Case, files: Files) -> None:
    """Insert such steps; the others keep their draws, although their places change, by seeds."""
    if case.has("Cutout", "RandomResizedCrop") or case.field == "label":
        return  # they take no seed; labels take no such steps
    file, rng = files[case.file], random.Random(repr(case))
    steps = [build(with_seed(recipe)) for recipe in case.recipes]
    plain = by_rows(epoch_of(file, case, {case.field: steps}), case.field)
    for recipe in rng.sample(NEVER, 3):
        place = rng.randint(1, len(steps))
        longer = [*steps[:place], build(recipe), *steps[place:]]
        try:
            loader_of(file, case, {case.field: longer})
        except PipelineError:
            continue  # not behind a conversion, not for class numbers ...
        columns = epoch_of(file, case, {case.field: longer})
        same(plain, by_rows(columns, case.field), f"with {recipe} at {place}")


def with_seed(recipe: Recipe) -> Recipe:
    """Return the step with a seed, if it takes one."""
    name, arguments, options = recipe
    kind = getattr(t, name, None)
    if kind is None or name == "ImageMixup" or "seed" not in inspect.signature(kind).parameters:
        return recipe
    return name, arguments, {"seed": 8, **options}


# ---- the fake GPU


def check_gpu(case: Case, files: Files) -> None:
    """Load on both; arrays there are tensors here, so what works on finished batches may round otherwise."""
    file, pipelines = files[case.file], {case.field: [*case.objects(), t.ToTensor()]}
    plain = by_rows(epoch_of(file, case, pipelines), case.field)
    tail = loader_of(file, case, pipelines).code[case.field].tail
    # what torch does to the fake's memory happens at once, as nothing is on a stream that waits
    fake = FakeGpu(deferred=not tail)
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(fake, patch)
        try:
            loader = loader_of(file, case, pipelines, device="cuda:0", cpu_share=0.5)
        except PipelineError as error:
            REFUSED_ON_GPU[brief(error)] += 1
            return
        columns = dict(zip(loader.code, map(list, zip(*loader, strict=True)), strict=True))
        fake.owner.consumer.synchronize()
        found = by_rows(columns, case.field)
        loader.close()
    fake.close()
    if not case.has("NormalizeImage", "ImageMixup", "Convert"):
        same(plain, found, "on a GPU")
        return
    for row, expected in plain.items():
        kinds = (expected.dtype, expected.shape), (found[row].dtype, found[row].shape)
        if kinds[0] != kinds[1]:
            raise Wrong(f"on a GPU: {kinds[1]} instead of {kinds[0]}")
        one, two = expected.astype(np.float64), found[row].astype(np.float64)
        if not case.has("View") and not np.allclose(one, two, 2e-3, 1.01, equal_nan=True):
            raise Wrong(f"on a GPU: row {row} differs by {np.abs(one - two).max()}")


def put_in_place(fake: FakeGpu, patch: pytest.MonkeyPatch) -> None:
    """Let loaders find the fake GPU; tensors and modules that move to it stay where they are."""
    patch.setattr("ffcv_gpu.loader.placement.require_device", lambda name: None)
    patch.setattr("ffcv_gpu.loader.assembly.gpu_device", lambda name: fake.device)
    patch.setattr(nvjpeg_library, "library", fake.nvjpeg.as_library)
    patch.setattr(handles, "_known", {})
    patch.setattr("ffcv_gpu.loader.gpu_batch.PIECE_BYTES", 1)
    to = torch.Tensor.to

    def stay(self: Any, *arguments: Any, **options: Any) -> Any:
        return self if str(arguments[:1]).startswith("('cuda") else to(self, *arguments, **options)

    patch.setattr(torch.Tensor, "to", stay)


CHECKS: dict[str, Callable[[Case, Files], None]] = {
    "apart": check_apart,
    "settings": check_settings,
    "views": check_views,
    "never": check_never,
    "gpu": check_gpu,
}
