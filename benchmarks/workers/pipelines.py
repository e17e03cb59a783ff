"""The pipelines that are compared: random-resized-crop, flip, and normalisation if a dtype is given.

Libraries are imported where they are used: each runs in a separate environment.
"""

from __future__ import annotations

from typing import Any

__all__ = ["MEAN", "STD", "ours", "theirs"]

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def ours(side: int, dtype: Any = None, *, tensors: bool = True, device: str = "") -> dict[str, Any]:
    """Return ffcv_gpu's pipelines, one fused launch; NumPy arrays unless `tensors`."""
    import numpy as np

    from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv_gpu.transforms import (
        NormalizeImage,
        RandomHorizontalFlip,
        Squeeze,
        ToDevice,
        ToTensor,
        ToTorchImage,
    )

    onto = [ToTensor(), *([ToDevice(device)] if device else [])] if tensors else []
    image = [RandomResizedCropRGBImageDecoder((side, side)), RandomHorizontalFlip(), *onto]
    image += [ToTorchImage()] if tensors else []
    image += [] if dtype is None else [NormalizeImage(np.array(MEAN), np.array(STD), dtype)]
    return {"image": image, "label": [IntDecoder(), *onto, *([Squeeze(1)] if tensors else [])]}


def theirs(side: int, dtype: Any = None, device: Any = None) -> dict[str, Any]:
    """Return FFCV's, as in its ImageNet example: normalised before ToTensor, or on the GPU after it."""
    import numpy as np
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.transforms import (
        NormalizeImage,
        RandomHorizontalFlip,
        Squeeze,
        ToDevice,
        ToTensor,
        ToTorchImage,
    )

    normalise = [] if dtype is None else [NormalizeImage(np.array(MEAN), np.array(STD), dtype)]
    image: list[Any] = [RandomResizedCropRGBImageDecoder((side, side)), RandomHorizontalFlip()]
    label: list[Any] = [IntDecoder(), ToTensor(), Squeeze()]
    if device is None:
        image += [*normalise, ToTensor(), ToTorchImage()]
    else:
        there = ToDevice(device, non_blocking=True)
        image += [ToTensor(), there, ToTorchImage(), *normalise]
        label.append(there)
    return {"image": image, "label": label}
