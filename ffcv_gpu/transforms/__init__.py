"""The transforms, under FFCV's names; one file each."""

from ffcv_gpu.transforms.convert import Convert
from ffcv_gpu.transforms.cutout import Cutout
from ffcv_gpu.transforms.flip import RandomHorizontalFlip
from ffcv_gpu.transforms.module import ModuleWrapper
from ffcv_gpu.transforms.normalize import NormalizeImage
from ffcv_gpu.transforms.ops import Squeeze, ToDevice, ToTensor, ToTorchImage, View
from ffcv_gpu.transforms.random_resized_crop import RandomResizedCrop
from ffcv_gpu.transforms.translate import RandomTranslate

__all__ = [
    "Convert",
    "Cutout",
    "ModuleWrapper",
    "NormalizeImage",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomTranslate",
    "Squeeze",
    "ToDevice",
    "ToTensor",
    "ToTorchImage",
    "View",
]
