"""Readers: bytes of the file by offset and length. A new storage is one file here."""

from ffcv_gpu.readers.base import Reader
from ffcv_gpu.readers.mapped import MappedReader
from ffcv_gpu.readers.positioned import PositionedReader

__all__ = ["MappedReader", "PositionedReader", "Reader"]
