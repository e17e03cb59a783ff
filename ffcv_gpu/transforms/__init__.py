"""The transforms, under FFCV's and FFCV-SSL's names; one file each."""

from ffcv_gpu.transforms.color_jitter import (
    LabelColorJitter,
    RandomBrightness,
    RandomColorJitter,
    RandomContrast,
    RandomSaturation,
)
from ffcv_gpu.transforms.common import Squeeze
from ffcv_gpu.transforms.convert import Convert
from ffcv_gpu.transforms.cutout import Cutout
from ffcv_gpu.transforms.erasing import RandomErasing
from ffcv_gpu.transforms.flip import LabelRandomHorizontalFlip, RandomHorizontalFlip, RandomVerticalFlip
from ffcv_gpu.transforms.gaussian_blur import GaussianBlur, LabelGaussianBlur
from ffcv_gpu.transforms.grayscale import LabelGrayscale, RandomGrayscale
from ffcv_gpu.transforms.mixup import ImageMixup, LabelMixup, MixupToOneHot
from ffcv_gpu.transforms.module import ModuleWrapper
from ffcv_gpu.transforms.normalize import NormalizeImage
from ffcv_gpu.transforms.ops import ToDevice, ToTensor, ToTorchImage, View
from ffcv_gpu.transforms.poisoning import Poison
from ffcv_gpu.transforms.rand_augment import RandAugment, TrivialAugment, TrivialAugmentWide
from ffcv_gpu.transforms.random_resized_crop import RandomResizedCrop
from ffcv_gpu.transforms.replace_label import ReplaceLabel
from ffcv_gpu.transforms.rotate import Rotate
from ffcv_gpu.transforms.solarization import LabelSolarization, RandomSolarization
from ffcv_gpu.transforms.translate import LabelTranslate, RandomTranslate

__all__ = [
    "Convert",
    "Cutout",
    "GaussianBlur",
    "ImageMixup",
    "LabelColorJitter",
    "LabelGaussianBlur",
    "LabelGrayscale",
    "LabelMixup",
    "LabelRandomHorizontalFlip",
    "LabelSolarization",
    "LabelTranslate",
    "MixupToOneHot",
    "ModuleWrapper",
    "NormalizeImage",
    "Poison",
    "RandAugment",
    "RandomBrightness",
    "RandomColorJitter",
    "RandomContrast",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomSaturation",
    "RandomSolarization",
    "RandomTranslate",
    "RandomVerticalFlip",
    "ReplaceLabel",
    "Rotate",
    "Squeeze",
    "ToDevice",
    "ToTensor",
    "ToTorchImage",
    "TrivialAugment",
    "TrivialAugmentWide",
    "View",
]
