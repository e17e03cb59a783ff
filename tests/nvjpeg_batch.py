"""A batched call of nvJPEG with arrays around it, and what its pixels should be: for tests of the fake."""

from __future__ import annotations

import ctypes
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from ffcv_gpu.native import nvjpeg
from ffcv_gpu.native.nvjpeg_types import nvjpegBackend_t as Backend
from ffcv_gpu.native.nvjpeg_types import nvjpegImage_t
from ffcv_gpu.native.nvjpeg_types import nvjpegOutputFormat_t as Format
from tests.nvjpeg_probe import made

MakeJpeg = Callable[..., bytes]
Planes = list[npt.NDArray[np.uint8]]

HARDWARE, HYBRID = Backend.NVJPEG_BACKEND_HARDWARE, Backend.NVJPEG_BACKEND_HYBRID
GPU_HYBRID = Backend.NVJPEG_BACKEND_GPU_HYBRID
RGBI = Format.NVJPEG_OUTPUT_RGBI
UNTOUCHED = 0xA5


class Batch:
    """A handle, a state and the arrays of one batched call; each plane has a pitch of its own."""

    def __init__(
        self,
        library: Any,
        jpegs: list[bytes],
        shapes: list[list[tuple[int, int]]],
        *,
        backend: int = GPU_HYBRID,
        output: int = RGBI,
        flags: int = 0,
        pitch: int = 13,
    ) -> None:
        self.library, self.jpegs, self.output = library, jpegs, output
        self.handle = ctypes.c_void_p()
        status = library.nvjpegCreateEx(backend, None, None, flags, ctypes.byref(self.handle))
        nvjpeg.check(status, "nvjpegCreateEx")
        self.state = made(library.nvjpegJpegStateCreate, self.handle)
        count = len(jpegs)
        self.data = (ctypes.c_void_p * count)()
        self.lengths = (ctypes.c_size_t * count)(*map(len, jpegs))
        self.slab = np.frombuffer(bytearray(b"".join(jpegs)) or bytearray(1), np.uint8)
        self.images = (nvjpegImage_t * count)()
        self.memory: list[Planes] = []
        at = self.slab.ctypes.data
        for k, planes in enumerate(shapes):
            self.data[k], at = at, at + len(jpegs[k])
            self.memory.append(
                [np.full((rows + 2, size + pitch), UNTOUCHED, np.uint8) for rows, size in planes]
            )
            for channel, memory in enumerate(self.memory[k]):
                self.images[k].channel[channel] = memory[1:].ctypes.data
                self.images[k].pitch[channel] = memory.shape[1]
        self.shapes = shapes

    def initialize(self, count: int | None = None) -> int:
        size = len(self.jpegs) if count is None else count
        return self.library.nvjpegDecodeBatchedInitialize(self.handle, self.state, size, 1, self.output)

    def decode(self, stream: int = 0, params: Any = None) -> int:
        front = (self.handle, self.state, self.data, self.lengths, self.images)
        if params is not None:
            return self.library.nvjpegDecodeBatchedEx(*front, params, stream)
        return self.library.nvjpegDecodeBatched(*front, stream)

    def planes(self, k: int) -> Planes:
        """The planes of image k, after a look at the bytes around each row."""
        out = []
        for memory, (rows, size) in zip(self.memory[k], self.shapes[k], strict=True):
            around = memory.copy()
            around[1 : rows + 1, :size] = UNTOUCHED
            assert (around == UNTOUCHED).all(), "written outside the image"
            out.append(memory[1 : rows + 1, :size])
        return out

    def untouched(self, k: int) -> bool:
        return all((memory == UNTOUCHED).all() for memory in self.memory[k])


def rgbi(jpeg: bytes) -> list[tuple[int, int]]:
    height, width = simplejpeg.decode_jpeg_header(jpeg, strict=False)[:2]
    return [(int(height), 3 * int(width))]


def pixels(jpeg: bytes, *, interpolated: bool = False) -> npt.NDArray[np.uint8]:
    """RGB, rows flat; replicated chroma unless `interpolated`."""
    decoded = simplejpeg.decode_jpeg(jpeg, "RGB", fastupsample=not interpolated)
    return decoded.reshape(len(decoded), -1)


def pillow(jpeg: bytes, mode: str | None = None) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(jpeg)) as image:
        if mode is not None:
            image.draft(mode, image.size)
            assert image.mode == mode
        return np.asarray(image)
