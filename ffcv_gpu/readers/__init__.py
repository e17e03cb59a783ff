"""Readers: bytes of the file by offset and length. A new storage is one file here."""

from ffcv_gpu.readers.base import Bundled, EpochRanges, EpochReader, RangeReader, Reader, Unscheduled
from ffcv_gpu.readers.joined import JoinedReader
from ffcv_gpu.readers.mapped import MappedReader
from ffcv_gpu.readers.paged import JoinedPages, PagedReader, PageFile
from ffcv_gpu.readers.positioned import PositionedReader
from ffcv_gpu.readers.remote import MirroredReader, RemoteFile, is_url

__all__ = [
    "Bundled",
    "EpochRanges",
    "EpochReader",
    "JoinedPages",
    "JoinedReader",
    "MappedReader",
    "MirroredReader",
    "PageFile",
    "PagedReader",
    "PositionedReader",
    "RangeReader",
    "Reader",
    "RemoteFile",
    "Unscheduled",
    "is_url",
]
