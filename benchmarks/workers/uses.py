"""The pipelines of ``uses``, in the names that FFCV and ffcv_gpu share: both libraries run the same lines."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

__all__ = ["PIPELINES", "Library"]

#: of CIFAR-10, as in FFCV's example
MEAN, STD = (125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)


class Library:
    """The modules of "ffcv" or "ffcv_gpu" that a pipeline is made of."""

    def __init__(self, name: str) -> None:
        self.loader = importlib.import_module(f"{name}.loader")
        self.decoders = importlib.import_module(f"{name}.fields.decoders")
        self.transforms = importlib.import_module(f"{name}.transforms")
        self.operation = importlib.import_module(f"{name}.pipeline.operation")
        self.allocation = importlib.import_module(f"{name}.pipeline.allocation_query")
        self.compiler = importlib.import_module(f"{name}.pipeline.compiler")


def label(library: Library) -> list[Any]:
    """A class."""
    t = library.transforms
    return [library.decoders.IntDecoder(), t.ToTensor(), t.Squeeze()]


def augmented(library: Library) -> list[Any]:
    """The augmentations of FFCV's CIFAR-10 example."""
    t, fill = library.transforms, tuple(map(int, MEAN))
    steps = [t.RandomHorizontalFlip(), t.RandomTranslate(padding=2, fill=fill), t.Cutout(4, fill)]
    return [library.decoders.SimpleRGBImageDecoder(), *steps]


def converted(library: Library) -> dict[str, Any]:
    """FFCV's CIFAR-10 example up to its torch module."""
    import torch

    t = library.transforms
    image = [*augmented(library), t.ToTensor(), t.ToTorchImage(), t.Convert(torch.float16)]
    return {"image": image, "label": label(library)}


def module(library: Library) -> dict[str, Any]:
    """The example with its torch module, which normalises; in float32, which CPUs compute faster."""
    import torch

    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)

    class Normalize(torch.nn.Module):
        def forward(self, images: Any) -> Any:
            return (images - mean) / std

    t = library.transforms
    image = [*augmented(library), t.ToTensor(), t.ToTorchImage(), t.Convert(torch.float32), Normalize()]
    return {"image": image, "label": label(library)}


def normalised(library: Library) -> dict[str, Any]:
    """The same, normalised by the library."""
    import numpy as np

    t = library.transforms
    normalise = t.NormalizeImage(np.array(MEAN), np.array(STD), np.float16)
    image = [*augmented(library), normalise, t.ToTensor(), t.ToTorchImage()]
    return {"image": image, "label": label(library)}


def whole(library: Library) -> dict[str, Any]:
    """Images as they are."""
    t = library.transforms
    image = [library.decoders.SimpleRGBImageDecoder(), t.ToTensor(), t.ToTorchImage()]
    return {"image": image, "label": label(library)}


def inverted(library: Library) -> dict[str, Any]:
    """Images as they are, and an operation of the user's own, compiled by the library."""
    import numpy as np

    class Invert(library.operation.Operation):  # type: ignore[name-defined, misc]
        def generate_code(self) -> Callable[..., Any]:
            samples = library.compiler.Compiler.get_iterator()

            def invert(images: Any, out: Any) -> Any:
                for n in samples(images.shape[0]):
                    out[n] = 255 - images[n]
                return out

            invert.is_parallel = True  # type: ignore[attr-defined]
            return invert

        def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, Any]:
            memory = library.allocation.AllocationQuery(previous_state.shape, np.dtype("u1"))
            return replace(previous_state, jit_mode=True), memory

    t = library.transforms
    image = [library.decoders.SimpleRGBImageDecoder(), Invert(), t.ToTensor(), t.ToTorchImage()]
    return {"image": image, "label": label(library)}


def centred(library: Library) -> dict[str, Any]:
    """ImageNet's evaluation."""
    t = library.transforms
    image = [library.decoders.CenterCropRGBImageDecoder((224, 224), 224 / 256), t.ToTensor()]
    return {"image": [*image, t.ToTorchImage()], "label": label(library)}


def default(library: Library) -> dict[str, Any]:
    """Every field by its default decoder."""
    return {}


PIPELINES: dict[str, Callable[[Library], dict[str, Any]]] = {
    "converted": converted,
    "module": module,
    "normalised": normalised,
    "whole": whole,
    "inverted": inverted,
    "centred": centred,
    "default": default,
}
