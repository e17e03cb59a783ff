"""The resources of the nvJPEG backend on one GPU, and those of each call in flight."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ffcv_gpu.device.base import GpuMemory
from ffcv_gpu.errors import NvjpegError
from ffcv_gpu.jpeg.base import ByteArray, JpegBackend
from ffcv_gpu.jpeg.nvjpeg.batch import BatchDecoder, Filler
from ffcv_gpu.jpeg.nvjpeg.experience import Experience
from ffcv_gpu.jpeg.nvjpeg.handles import Handles, Images
from ffcv_gpu.jpeg.nvjpeg.single import SingleDecoder
from ffcv_gpu.jpeg.routing import GpuDecoders, Route
from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status

__all__ = ["Gpu", "Slot", "out_of_memory"]

_log = logging.getLogger(__name__)

#: how often the decoder of single images may fail to be created
TRIES = 3


@dataclass
class Gpu:
    """What all calls of a backend share; changed by the submitting thread, under its lock, or under `books`.

    Attributes
    ----------
    books : lock
        Held briefly to use `counts` or `experience`, or to move the backend's calls and slots.
    batches : mapping of Route to int
        Maximum number of images per batched call.
    cpu : JpegBackend
        Decodes what nvJPEG refuses.
    sentinel : bool
        Whether to check for silently skipped images.
    counts : Counter
        Number of images by outcome.
    experience : Experience
        The kinds of JPEG that the engine accepts; later backends go on from it.
    """

    memory: GpuMemory
    handles: Handles
    decoders: GpuDecoders
    batches: Mapping[Route, int]
    cpu: JpegBackend
    sentinel: bool
    books: AbstractContextManager[Any] = field(default_factory=threading.RLock)
    counts: Counter[str] = field(default_factory=Counter)
    experience: Experience = field(init=False)
    _filler: Filler | None = None
    _single: tuple[SingleDecoder, Callable[[], object]] | None = None
    _failures: list[str] = field(default_factory=list)
    _reported: bool = False
    _lack_reported: bool = False

    def __post_init__(self) -> None:
        self.experience, _ = self.handles.lend("experience", Experience, self)

    def batch_decoder(self, route: Route, group: int) -> BatchDecoder:
        """Create a decoder for a batched route and images of one group.

        Raises
        ------
        NvjpegError
        """
        size = self.batches[route]
        if route == Route.ENGINE:
            assert self.handles.engine is not None, "routing sends nothing to an engine that is not there"
            return BatchDecoder(self.handles, self.handles.engine, group, size)
        if self._filler is None:
            self._filler = Filler(self.memory, size)
        return BatchDecoder(self.handles, self.handles.software, group, size, self._filler)

    def single(self) -> SingleDecoder:
        """Return the decoder of single images, created on first use.

        Raises
        ------
        NvjpegError
            After `TRIES` failures without a try: each leaves some of nvJPEG's objects behind.
        """
        if self._single is None:
            if len(self._failures) >= TRIES:
                raise NvjpegError(f"not tried again: {self._failures[-1]}")
            try:
                self._single = self.handles.lend(
                    "single", lambda: SingleDecoder(self.handles, self.memory), self
                )
            except NvjpegError as error:
                if error.status != Status.NVJPEG_STATUS_ALLOCATOR_FAILURE:
                    self._failures.append(str(error))
                raise
        return self._single[0]

    def report_failed_batch(self, images: int, error: NvjpegError) -> None:
        """Log that a batched call failed, for the first of a backend only."""
        if self._reported:
            return
        self._reported = True
        _log.warning(
            "a batch of %d JPEGs failed and is decoded one by one; later failures are only counted (%s)",
            images,
            str(error),  # a record that is kept would keep the backend, by the error's traceback
        )

    def report_lack_of_memory(self, error: NvjpegError) -> None:
        """Log that nvJPEG ran out of memory and tries again, for the first time of a backend only."""
        if self._lack_reported:
            return
        self._lack_reported = True
        _log.warning(
            "nvJPEG ran out of memory (%s); what torch or CuPy keep unused is released, and the call is "
            "repeated. If that fails, lower gpu_memory_gb= or batch_size=",
            str(error),
        )

    def give_back(self) -> None:
        """Keep the decoder of single images for another backend; nothing may be in flight."""
        if self._single is not None:
            self._single[1]()
            self._single = None


class Slot:
    """The stream, events, states, arrays and pinned memory of one call in flight."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.stream = gpu.memory.new_stream()
        #: recorded at the end of the call on this slot's stream, and on the stream of single images
        self.done, self.singles_done = gpu.memory.new_event(), gpu.memory.new_event()
        self._staging: ByteArray = np.empty(0, np.uint8)
        self._decoders: dict[tuple[Route, int], BatchDecoder] = {}

    def batch_decoder(self, route: Route, group: int) -> BatchDecoder:
        """Return the decoder of a batched route and a group of images, created on first use; see `Gpu`."""
        found = self._decoders.get((route, group))
        if found is None:
            found = self._decoders[route, group] = self._gpu.batch_decoder(route, group)
        return found

    def staging(self, size_bytes: int) -> ByteArray:
        """Return at least `size_bytes` of pinned memory; no upload from it may be in flight."""
        if self._staging.size < size_bytes:
            # Half as much again, so that it soon stops growing.
            self._staging = self._gpu.memory.pinned(size_bytes + size_bytes // 2)
        return self._staging

    def give_back(self) -> None:
        """Keep the states for another backend; nothing may be in flight."""
        for decoder in self._decoders.values():
            decoder.give_back()
        self._decoders.clear()


def out_of_memory(error: NvjpegError, images: Images) -> NvjpegError:
    """Return an error that says what was being decoded when memory ran out, and what to do."""
    pixels = images.heights * images.widths
    height, width = (int(side[pixels.argmax()]) for side in (images.heights, images.widths))
    return NvjpegError(
        f"nvJPEG ran out of GPU or pinned memory while decoding {pixels.size} images: "
        f"{images.lengths.sum() / 1e6:.1f} MB compressed, {3 * pixels.sum() / 1e6:.1f} MB of pixels, the "
        f"largest {width} x {height}. Lower gpu_memory_gb= or batch_size=, or free memory of the GPU "
        f"({error})",
        Status.NVJPEG_STATUS_ALLOCATOR_FAILURE,
    )
