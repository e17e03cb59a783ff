"""FFCV-SSL's names, as far as FFCV means something else by them or has none; results are torchvision's.

``from ffcv_gpu.ssl import ...`` stands for ``from ffcv.transforms import ...`` and ``from ffcv.loader import
...`` of that fork. Names that mean the same in both are here too, so that one import line serves.
"""

from __future__ import annotations

from ffcv_gpu.ssl.decoders import (
    CenterCrop,
    CornerCrop,
    LabelRandomResizedCrop,
    PadRGBImageDecoder,
    RandomResizedCrop,
)
from ffcv_gpu.ssl.loader import Loader, OrderOption, SequentialContiguous
from ffcv_gpu.ssl.translate import RandomTranslate
from ffcv_gpu.transforms import (
    GaussianBlur,
    LabelColorJitter,
    LabelGaussianBlur,
    LabelGrayscale,
    LabelRandomHorizontalFlip,
    LabelSolarization,
    LabelTranslate,
    RandomColorJitter,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomSolarization,
    Rotate,
)

__all__ = [
    "CenterCrop",
    "CornerCrop",
    "GaussianBlur",
    "LabelColorJitter",
    "LabelGaussianBlur",
    "LabelGrayscale",
    "LabelRandomHorizontalFlip",
    "LabelRandomResizedCrop",
    "LabelSolarization",
    "LabelTranslate",
    "Loader",
    "OrderOption",
    "PadRGBImageDecoder",
    "RandomColorJitter",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomSolarization",
    "RandomTranslate",
    "Rotate",
    "SequentialContiguous",
]
