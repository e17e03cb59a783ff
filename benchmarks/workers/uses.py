"""Pipelines of what FFCV's users load besides photographs, in names that FFCV and ffcv_gpu share.

Each function gets a library's modules; so both libraries run the same lines.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["PIPELINES", "Library"]

#: of CIFAR-10, as FFCV's example has them
MEAN, STD = (125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)


class Library:
    """The modules of "ffcv" or "ffcv_gpu" that a pipeline is made of."""

    def __init__(self, name: str) -> None:
        self.loader, self.decoders, self.transforms, self.operation, self.state, self.memory = (
            importlib.import_module(f"{name}.{module}")
            for module in (
                *("loader", "fields.decoders", "transforms", "pipeline.operation", "pipeline.state"),
                "pipeline.allocation_query",
            )
        )


def label(library: Library) -> list[Any]:
    """A class."""
    t = library.transforms
    return [library.decoders.IntDecoder(), t.ToTensor(), t.Squeeze()]


def augmented(library: Library) -> list[Any]:
    """The augmentations of FFCV's CIFAR-10 example."""
    t, fill = library.transforms, tuple(map(int, MEAN))
    steps = [t.RandomHorizontalFlip(), t.RandomTranslate(padding=2, fill=fill), t.Cutout(4, fill)]
    return [library.decoders.SimpleRGBImageDecoder(), *steps]


def cifar(library: Library) -> dict[str, Any]:
    """FFCV's CIFAR-10 example up to its torch module."""
    import torch

    t = library.transforms
    image = [*augmented(library), t.ToTensor(), t.ToTorchImage(), t.Convert(torch.float16)]
    return {"image": image, "label": label(library)}


def cifar_module(library: Library) -> dict[str, Any]:
    """FFCV's CIFAR-10 example: normalised by a torch module (here: in float32, which CPUs compute faster)."""
    import torch

    class Normalize(torch.nn.Module):
        mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)

        def forward(self, images: Any) -> Any:
            return (images - self.mean) / self.std

    t = library.transforms
    image = [*augmented(library), t.ToTensor(), t.ToTorchImage(), t.Convert(torch.float32), Normalize()]
    return {"image": image, "label": label(library)}


def cifar_normalised(library: Library) -> dict[str, Any]:
    """The same, normalised by the library."""
    import numpy as np

    t = library.transforms
    normalise = t.NormalizeImage(np.array(MEAN), np.array(STD), np.float16)
    image = [*augmented(library), normalise, t.ToTensor(), t.ToTorchImage()]
    return {"image": image, "label": label(library)}


def whole(library: Library) -> dict[str, Any]:
    """Whole images, as they are."""
    t = library.transforms
    image = [library.decoders.SimpleRGBImageDecoder(), t.ToTensor(), t.ToTorchImage()]
    return {"image": image, "label": label(library)}


def own(library: Library) -> dict[str, Any]:
    """Whole images, and an operation of the user's own in the middle, compiled and parallel."""
    from dataclasses import replace

    import numpy as np

    class Invert(library.operation.Operation):  # type: ignore[name-defined, misc]
        def generate_code(self) -> Callable[..., Any]:
            from numba import prange  # FFCV's users write Compiler.get_iterator()

            def invert(images: Any, out: Any) -> Any:
                for n in prange(images.shape[0]):
                    out[n] = 255 - images[n]
                return out

            invert.is_parallel = True  # type: ignore[attr-defined]
            return invert

        def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, Any]:
            query = library.memory.AllocationQuery(previous_state.shape, np.dtype("u1"))
            return replace(previous_state, jit_mode=True), query

    t = library.transforms
    image = [library.decoders.SimpleRGBImageDecoder(), Invert(), t.ToTensor(), t.ToTorchImage()]
    return {"image": image, "label": label(library)}


def centre(library: Library) -> dict[str, Any]:
    """Evaluation of ImageNet."""
    t = library.transforms
    image = [library.decoders.CenterCropRGBImageDecoder((224, 224), 224 / 256), t.ToTensor()]
    return {"image": [*image, t.ToTorchImage()], "label": label(library)}


def table(library: Library) -> dict[str, Any]:
    """FFCV's linear regression."""
    arrays = [library.decoders.NDArrayDecoder(), library.transforms.ToTensor()]
    numbers = [library.decoders.FloatDecoder(), library.transforms.ToTensor()]
    return {"covariate": arrays, "label": numbers}


def default(library: Library) -> dict[str, Any]:
    """Nothing said: every field by its default decoder."""
    return {}


PIPELINES: dict[str, Callable[[Library], dict[str, Any]]] = {
    "cifar": cifar,
    "cifar module": cifar_module,
    "cifar normalised": cifar_normalised,
    "whole": whole,
    "own operation": own,
    "centre": centre,
    "table": table,
    "default": default,
}
