"""nvJPEG for experiments: handles of any backend, batches in any format, single images by phase.

Statuses are returned, not raised: most experiments report them. A batch is initialised before it is decoded,
as the real library crashes otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.device import Gpu
from benchmarks.gpu.pictures import Arena, Pictures
from ffcv_gpu.jpeg.nvjpeg.handles import pointer
from ffcv_gpu.native.nvjpeg_library import NvjpegLibrary
from ffcv_gpu.native.nvjpeg_types import NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION as INTERPOLATE
from ffcv_gpu.native.nvjpeg_types import nvjpegBackend_t as Backend
from ffcv_gpu.native.nvjpeg_types import nvjpegChromaSubsampling_t as Css
from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status

__all__ = ["BACKENDS", "INTERPOLATE", "Batch", "Handle", "Job", "Refusal", "Single", "status_name"]

BACKENDS = {backend.name.removeprefix("NVJPEG_BACKEND_").lower(): backend for backend in Backend}


class Refusal(RuntimeError):
    """An nvJPEG call failed; `status` is its status."""

    def __init__(self, call: str, status: int) -> None:
        super().__init__(f"{call}: {status_name(status)}")
        self.status = status


def status_name(status: int) -> str:
    """Return a name such as "BAD_JPEG (3)"."""
    try:
        return f"{Status(status).name.removeprefix('NVJPEG_STATUS_')} ({status})"
    except ValueError:
        return f"unknown ({status})"


class Handle:
    """A handle of one backend; it is never destroyed.

    Parameters
    ----------
    library
    backend
        ``Backend`` or its short name, as in `BACKENDS`
    flags
    allocators
        (device, pinned) allocator structs of version 2

    Raises
    ------
    Refusal
    """

    def __init__(
        self, library: NvjpegLibrary, backend: int | str, flags: int = 0,
        allocators: tuple[Any, Any] | None = None,
    ) -> None:  # fmt: skip
        self.functions: Any = library.functions
        self.backend = BACKENDS[backend] if isinstance(backend, str) else Backend(backend)
        self.flags = flags
        if allocators is None:
            self.pointer = self.make("nvjpegCreateEx", int(self.backend), None, None, flags)
        else:
            self.pointer = self.make("nvjpegCreateExV2", int(self.backend), *allocators, flags)

    def __call__(self, name: str, *arguments: Any) -> int:
        """Call a function and return its status."""
        status: int = getattr(self.functions, name)(*arguments)
        return status

    def make(self, name: str, *arguments: Any) -> int:
        """Call a function that creates an object; return the object."""
        made = np.zeros(1, np.uintp)
        status = self(name, *arguments, pointer(made, name, -1))
        if status:
            raise Refusal(name, status)
        return int(made[0])

    def engines(self) -> tuple[int, int]:
        """Return the number of engines and of cores per engine; (0, 0) if unknown."""
        found, name = np.zeros(2, np.uint32), "nvjpegGetHardwareDecoderInfo"
        if self(name, self.pointer, pointer(found[:1], name, 1), pointer(found[1:], name, 2)):
            return 0, 0
        return int(found[0]), int(found[1])


@dataclass(frozen=True)
class Job:
    """The arrays of one batched call, which keep the memory that they point to alive."""

    pictures: Pictures
    arena: Arena
    arguments: tuple[Any, ...]
    arrays: tuple[npt.NDArray[Any], ...]

    @classmethod
    def of(cls, pictures: Pictures, arena: Arena, order: npt.NDArray[Any] | None = None) -> Job:
        """Make the arrays; `order` permutes the images of the call, but not their destinations."""
        order = np.arange(pictures.count) if order is None else order
        data = np.ascontiguousarray(pictures.addresses[order].astype(np.uintp))
        lengths = np.ascontiguousarray(pictures.lengths[order].astype(np.uintp))
        table = np.ascontiguousarray(arena.table[order])
        arrays = (data, lengths, table)
        call = "nvjpegDecodeBatched"
        return cls(pictures, arena, tuple(pointer(a, call, k) for k, a in enumerate(arrays, start=2)), arrays)


class Batch:
    """A state for batches of one format; re-initialised for another number of images."""

    def __init__(self, handle: Handle, size: int, output: int) -> None:
        self.handle, self.size, self.output = handle, size, int(output)
        self.state = handle.make("nvjpegJpegStateCreate", handle.pointer)
        self._ready = False

    def initialize(self) -> int:
        """Initialise the state; no batch of it may be in flight."""
        arguments = (self.handle.pointer, self.state, self.size, 1, self.output)
        status = self.handle("nvjpegDecodeBatchedInitialize", *arguments)
        self._ready = status == 0
        return status

    def preallocate(self, width: int, height: int) -> int:
        """Reserve memory for a batch of images of this size."""
        css = int(Css.NVJPEG_CSS_444)
        arguments = (self.handle.pointer, self.state, self.size, width, height, css, self.output)
        return self.handle("nvjpegDecodeBatchedPreAllocate", *arguments)

    def tables(self, data: Any) -> int:
        """Parse the tables of a JPEG in host memory."""
        arguments = (self.handle.pointer, self.state, data.ctypes.data, data.size)
        return self.handle("nvjpegDecodeBatchedParseJpegTables", *arguments)

    def decode(self, job: Job, stream: int, params: npt.NDArray[Any] | None = None) -> int:
        """Submit a batch; with `params`, one handle per image, by ``DecodeBatchedEx``."""
        if job.pictures.count != self.size:
            self.size, self._ready = job.pictures.count, False
        if not self._ready and (status := self.initialize()):
            return status
        if params is None:
            status = self.handle(
                "nvjpegDecodeBatched", self.handle.pointer, self.state, *job.arguments, stream
            )
        else:
            name = "nvjpegDecodeBatchedEx"
            given = pointer(params, name, 5)
            status = self.handle(name, self.handle.pointer, self.state, *job.arguments, given, stream)
        self._ready = self._ready and status == 0
        return status

    def give_up(self) -> None:
        """Destroy the state and free its memory; no batch of it may be in flight."""
        self.handle("nvjpegJpegStateDestroy", self.state)

    def trust(self) -> None:
        """Skip re-initialisation after a failure, to test whether the library needs it."""
        self._ready = True


class Single:
    """The decoupled calls: one decoder, one state, alternating `pages`, one stream.

    With two pages, the CPU's part of an image overlaps with the GPU's part of the previous one.
    """

    def __init__(self, gpu: Gpu, handle: Handle, decoder: int | str, output: int, pages: int = 2) -> None:
        backend = int(BACKENDS[decoder] if isinstance(decoder, str) else decoder)
        self.handle, self._gpu = handle, gpu
        self.stream = gpu.stream()
        self.decoder = handle.make("nvjpegDecoderCreate", handle.pointer, backend)
        self.state = handle.make("nvjpegDecoderStateCreate", handle.pointer, self.decoder)
        self.params = handle.make("nvjpegDecodeParamsCreate", handle.pointer)
        handle("nvjpegDecodeParamsSetOutputFormat", self.params, int(output))
        work = handle.make("nvjpegBufferDeviceCreate", handle.pointer, None)
        handle("nvjpegStateAttachDeviceBuffer", self.state, work)
        self._pages = [
            (
                handle.make("nvjpegBufferPinnedCreate", handle.pointer, None),
                handle.make("nvjpegJpegStreamCreate", handle.pointer),
            )
            for _ in range(pages)
        ]
        self._turn, self._done = 0, gpu.event()

    def decode(self, pictures: Pictures, arena: Arena, i: int) -> int:
        """Submit image i; returns the first non-zero status."""
        call, handle, stream = self.handle, self.handle.pointer, self._gpu.handle(self.stream)
        pinned, bits = self._pages[self._turn]
        if len(self._pages) == 1:
            self._gpu.await_event(self._done)
        data, length = int(pictures.addresses[i]), int(pictures.lengths[i])
        target = pointer(arena.table[i], "nvjpegDecodeJpegDevice", 3)
        status = (
            call("nvjpegJpegStreamParse", handle, data, length, 0, 0, bits)
            or call("nvjpegStateAttachPinnedBuffer", self.state, pinned)
            or call("nvjpegDecodeJpegHost", handle, self.decoder, self.state, self.params, bits)
        )
        if status:
            return status
        # A state and its device buffer hold one image (NVIDIA's sample waits here, too).
        self._gpu.await_event(self._done)
        self._turn = (self._turn + 1) % len(self._pages)
        status = call(
            "nvjpegDecodeJpegTransferToDevice", handle, self.decoder, self.state, bits, stream
        ) or call("nvjpegDecodeJpegDevice", handle, self.decoder, self.state, target, stream)
        self._gpu.record(self._done, self.stream)
        return status
