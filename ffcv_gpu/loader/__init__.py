"""The loader, under FFCV's module path."""

from ffcv_gpu.loader.loader import Loader
from ffcv_gpu.loader.resident import ResidentLoader
from ffcv_gpu.sampling import OrderOption

__all__ = ["Loader", "OrderOption", "ResidentLoader"]
