"""FFCV's classes that have no counterpart here.

Scripts import them without need, so import lines run; using one is an error that says what to do instead.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ffcv_gpu.errors import PipelineError

__all__ = ["DecoderNode", "Graph", "MemoryAllocator", "Node", "Pipeline", "RefNode", "TransformNode"]


class _Absent:
    """Raises `PipelineError` when it is made."""

    instead = "no code is generated; loader.code and loader.explain() describe what runs"

    def __init__(self, *_: Any, **__: Any) -> None:
        self._refuse()

    @classmethod
    def _refuse(cls) -> NoReturn:
        raise PipelineError(f"there is no {cls.__name__} here as in FFCV: {cls.instead}")


class Pipeline(_Absent):
    """FFCV's operations of one output with their memory; nothing of FFCV's own uses it any more."""


class Node(_Absent):
    """A node of FFCV's `Graph`."""


class DecoderNode(Node):
    """A node of FFCV's `Graph`."""


class TransformNode(Node):
    """A node of FFCV's `Graph`."""


class RefNode(Node):
    """A node of FFCV's `Graph`."""


class Graph(_Absent):
    """FFCV's graph of the generated code of all outputs."""


class MemoryAllocator(_Absent):
    """FFCV's allocator of a file's pages."""

    instead = "ffcv_gpu.writer.DatasetWriter lays out the pages of a file"
