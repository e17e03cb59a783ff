"""Steps of any arguments: made, or refused by a `PipelineError`, and so are the lists that contain them."""

from __future__ import annotations

import inspect
import math
import random
from collections import Counter

import numpy as np
import torch

from ffcv_gpu import ssl, transforms
from ffcv_gpu.errors import BackendUnavailable, PipelineError
from ffcv_gpu.fields import decoders, ragged
from ffcv_gpu.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv_gpu.steps import Decoder, Step
from ffcv_gpu.transforms import Convert, ToTensor, ToTorchImage
from tests.fuzz.recipes import Case, loader_of

PLAIN = [None, "x", "", b"ab", -1, 0, 1, 2, 3, 0.5, 1.5, -0.5, -1.0, math.nan, math.inf, -math.inf, 10**12,
         10**400, True, object(), {}, {1}, slice(3), "float32", "bfloat16", "int7", "S5", "object", "cuda:x",
         torch.float32, np.float16, object, np.int64(3), np.float32(0.5), "cpu", "complex64"]  # fmt: skip
LISTS = [[], (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), (0.1,), (0.2, 0.5), (None, None), ("a", "b"), (-1, 3),
         (-1, "a"), (-1, 2.5), (0, 10**20), [[1, 2], [3]], np.arange(3), np.zeros((21, 18, 3)),
         np.zeros((21, 18)), torch.ones(3)]  # fmt: skip
#: what is used as truth values or compared with names, for which an array is a mistake that Python reports
FLAGS = {
    "channels_last",
    "convert_back_int16",
    "non_blocking",
    "same_lambda",
    "clip",
    "where",
    "resize",
    "corner",
}
#: for arguments without a default
GOOD = {
    "alpha": 0.5, "blur_prob": 0.5, "device": "cpu", "indices": [0], "kernel_size": 3, "like": "image",
    "magnitude": 0.5, "mask": np.zeros((21, 18, 3)), "mean": 100, "module": torch.nn.Identity(),
    "new_label": 1, "num_classes": 10, "output_size": (8, 8), "padding": 3, "ratio": 1, "same_lambda": True,
    "scale": (0.5, 1), "seed": 1, "size": 8, "std": 50, "target_dtype": "float32", "type": "float32",
}  # fmt: skip
KINDS = [
    kind
    for module in (transforms, decoders, ssl, ragged)
    for kind in map(vars(module).get, module.__all__)
    if isinstance(kind, type) and issubclass(kind, Step) and not inspect.isabstract(kind)
    and kind.__init__ is not object.__init__
]  # fmt: skip


def made(rng, kind):
    """A step with at most two arguments of any kind."""
    parameters = inspect.signature(kind).parameters.values()
    places = [p for p in parameters if p.kind is not p.VAR_POSITIONAL]
    odd = rng.sample(places, min(len(places), rng.choice([0, 1, 1, 2])))
    arguments = {}
    for parameter in places:
        if parameter in odd:
            arguments[parameter.name] = rng.choice(PLAIN if parameter.name in FLAGS else PLAIN + LISTS)
        elif parameter.default is parameter.empty:
            arguments[parameter.name] = GOOD[parameter.name]
    more = [rng.choice(PLAIN + LISTS) for p in parameters if p.kind is p.VAR_POSITIONAL]
    return kind(*more, **arguments)


def test_any_arguments_are_taken_or_refused(files):
    rng, outcomes, said = random.Random(0), Counter(), []
    before = [[], [ToTensor()], [ToTensor(), ToTorchImage()], [Convert("float32")]]
    case = Case("one", "image", ("SimpleRGBImageDecoder", (), {}), ())
    for _ in range(1200):
        outcome = "refused"
        try:
            step = made(rng, rng.choice(KINDS))
            outcome = "refused in its place"
            heads = {"image": SimpleRGBImageDecoder(), "label": IntDecoder()}
            name = rng.choice(list(heads))
            steps = [step] if isinstance(step, Decoder) else [heads[name], *rng.choice(before), step]
            loader_of(files["one"], case, {"image": [heads["image"]], name: steps}).explain()
            outcome = "taken"
        except (PipelineError, BackendUnavailable) as error:
            said.append(str(error))
        outcomes[outcome] += 1
    assert min(outcomes.values()) > 100 and len(outcomes) == 3, outcomes
    assert min(map(len, said)) > 20
