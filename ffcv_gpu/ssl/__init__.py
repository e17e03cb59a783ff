"""FFCV-SSL's names that FFCV lacks or uses for something else; results are torchvision's.

``from ffcv_gpu.ssl import ...`` replaces the fork's ``from ffcv.transforms import ...`` and ``from
ffcv.loader import ...``. Names that mean the same in both are also here, so one import line is enough.
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
