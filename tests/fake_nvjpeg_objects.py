"""What stands behind the fake nvJPEG's handles, and which image each backend takes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.native import nvjpeg_types as types
from ffcv_gpu.native.nvjpeg_types import nvjpegBackend_t as Backend
from ffcv_gpu.native.nvjpeg_types import nvjpegChromaSubsampling_t as Css
from ffcv_gpu.native.nvjpeg_types import nvjpegJpegEncoding_t as Encoding
from ffcv_gpu.native.nvjpeg_types import nvjpegOutputFormat_t as Format
from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status
from tests.fake_nvjpeg_images import Jpeg, Refused
from tests.fake_streams import FakeStream

__all__ = ["Buffer", "Decoder", "Handle", "JpegStream", "Params", "Pool", "State", "allocator", "support"]

SOFTWARE = (Backend.NVJPEG_BACKEND_DEFAULT, Backend.NVJPEG_BACKEND_HYBRID, Backend.NVJPEG_BACKEND_GPU_HYBRID)
ENGINE = (Backend.NVJPEG_BACKEND_HARDWARE, Backend.NVJPEG_BACKEND_HARDWARE_DEVICE)
FROM_DEVICE = (Backend.NVJPEG_BACKEND_GPU_HYBRID_DEVICE, Backend.NVJPEG_BACKEND_HARDWARE_DEVICE)
ENGINE_CSS = (
    Css.NVJPEG_CSS_444,
    Css.NVJPEG_CSS_422,
    Css.NVJPEG_CSS_420,
    Css.NVJPEG_CSS_440,
    Css.NVJPEG_CSS_GRAY,
)
#: the largest; the smallest is 1 (H200: 16384 pixels are decoded, 16400 refused)
ENGINE_SIDE = 16384
UNCHANGED = (Format.NVJPEG_OUTPUT_UNCHANGED, Format.NVJPEG_OUTPUT_UNCHANGEDI)
AS_STORED = (*UNCHANGED, Format.NVJPEG_OUTPUT_YUV)


# ---- memory

Malloc = Callable[[Any, int, int | None], int]
Free = Callable[[int, int, int | None], int]


def allocator(given: Any) -> tuple[Malloc, Free] | None:
    """Return (malloc, free) of an allocator struct of either version and kind, or None for a null pointer."""
    if not given:
        return None
    struct = given.contents
    if isinstance(struct, types.nvjpegDevAllocator_t):
        malloc, free = types.tDevMalloc(struct.dev_malloc), types.tDevFree(struct.dev_free)
        return (lambda out, size, stream: malloc(out, size)), (lambda p, size, stream: free(p))
    if isinstance(struct, types.nvjpegPinnedAllocator_t):
        malloc, free = types.tPinnedMalloc(struct.pinned_malloc), types.tPinnedFree(struct.pinned_free)
        return (lambda out, size, stream: malloc(out, size, 0)), (lambda p, size, stream: free(p))
    kind = "dev" if isinstance(struct, types.nvjpegDevAllocatorV2_t) else "pinned"
    malloc = types.tDevMallocV2(getattr(struct, f"{kind}_malloc"))
    free = types.tDevFreeV2(getattr(struct, f"{kind}_free"))
    mine = getattr(struct, f"{kind}_ctx")
    return (
        lambda out, size, stream: malloc(mine, out, size, stream),
        lambda p, size, stream: free(mine, p, size, stream),
    )


@dataclass(eq=False)
class Pool:
    """A piece of memory that grows as nvJPEG's do.

    Rounded up to the handle's padding; the old piece is freed before the new one is asked for; a refusal
    leaves it empty (as seen in the real library). Without an allocator of the caller's it has no bytes, only
    a size, against `limit`.
    """

    allocator: tuple[Malloc, Free] | None = None
    limit: Callable[[int], bool] = lambda size_bytes: True
    size: int = 0
    address: int | None = None
    allocations: int = 0
    bytes: Any = None

    def resize(self, size: int, padding: int, stream: int | None, *, with_bytes: bool = False) -> None:
        if size <= self.size:
            return
        size += -size % max(padding, 1)
        self.release(stream)
        self.allocations += 1
        if self.allocator is not None:
            out = ctypes.c_void_p()
            refused = self.allocator[0](ctypes.pointer(out), size, stream) != 0
            self.address = out.value
        else:
            refused = not self.limit(size)
            if with_bytes and not refused:
                self.bytes = ctypes.create_string_buffer(size)
                self.address = ctypes.addressof(self.bytes)
        if refused:
            self.address = None
            raise Refused(Status.NVJPEG_STATUS_ALLOCATOR_FAILURE)
        self.size = size

    def release(self, stream: int | None) -> None:
        if self.allocator is not None and self.address is not None:
            self.allocator[1](self.address, self.size, stream)
        self.size, self.address, self.bytes = 0, None, None


# ---- objects


@dataclass(eq=False)
class Handle:
    """nvjpegHandle_t. Thread-safe, as the real one."""

    backend: int
    flags: int = 0
    device: tuple[Malloc, Free] | None = None
    pinned: tuple[Malloc, Free] | None = None
    device_padding: int = 0
    pinned_padding: int = 0


@dataclass(eq=False)
class Exclusive:
    """Something that belongs to one thread at a time; `user` is the thread that is in a call with it."""

    handle: Handle
    user: int | None = None
    flying: int = 0


@dataclass(eq=False)
class Params(Exclusive):
    """nvjpegDecodeParams_t."""

    output: int = Format.NVJPEG_OUTPUT_UNCHANGED
    roi: tuple[int, int, int, int] = (0, 0, -1, -1)
    allow_cmyk: bool = False
    scale: int = 0
    orientation: int = 0


@dataclass(eq=False)
class JpegStream(Exclusive):
    """nvjpegJpegStream_t. `jpeg` is empty after a parse that failed."""

    jpeg: Jpeg = field(default_factory=Jpeg)
    data: bytes = b""
    address: int = 0
    saved: bool = False
    whole: bool = False
    parses: int = 0


@dataclass(eq=False)
class Decoder:
    """nvjpegJpegDecoder_t."""

    handle: Handle
    backend: int


@dataclass(eq=False)
class Buffer(Exclusive):
    """nvjpegBufferPinned_t or nvjpegBufferDevice_t; `flying`: copies out of or into it that are queued."""

    kind: str = ""
    pool: Pool = field(default_factory=Pool)
    stream: FakeStream | None = None


@dataclass(eq=False)
class State(Exclusive):
    """nvjpegJpegState_t: of batches, or of a decoder's single images. `flying`: decodes that are queued."""

    decoder: Decoder | None = None
    pool: Pool = field(default_factory=Pool)
    stream: FakeStream | None = None
    batch_size: int = 0
    output: int = 0
    pinned: Buffer | None = None
    device: Buffer | None = None
    # one image on its way through the three phases
    hosted: Work | None = None
    transferred: bool = False


@dataclass(eq=False)
class Work:
    """One image that will be written: `planes` (rows, bytes of a row) to `views` of the destination.

    `address`: where `data` was read and must stay as it is; None if it may change.
    """

    jpeg: Jpeg
    data: bytes
    planes: list[npt.NDArray[np.uint8]]
    views: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    address: int | None = None
    skipped: bool = False
    turned: bool = False
    parse: tuple[JpegStream, int] | None = None

    def write(self, mask: np.uint8) -> None:
        """Write the pixels, changed by `mask`: 0 for the right ones."""
        for view, plane in zip(self.views, self.planes, strict=True):
            np.bitwise_xor(plane, mask, out=view)

    def invert(self) -> None:
        """Invert what is there now."""
        for view in self.views:
            np.invert(view, out=view)


# ---- who takes what


def support(backend: int, jpeg: Jpeg, params: Params, *, batched: bool) -> int:
    """Return what nvJPEG's support query answers: 0 for yes, else a status.

    For the software backends' single images this was read off the real library. For the others it is the
    guide's table, with ARCH_MISMATCH for every no.
    """
    no, four = Status.NVJPEG_STATUS_ARCH_MISMATCH, len(jpeg.factors) == 4
    if params.output == Format.NVJPEG_OUTPUT_UNCHANGEDI_U16:
        return no
    if backend == Backend.NVJPEG_BACKEND_LOSSLESS_JPEG:
        return no  # lossless files are not simulated
    if backend not in SOFTWARE:
        return no if fixed_function_refuses(backend, jpeg, params, batched=batched) else 0
    if jpeg.encoding == Encoding.NVJPEG_ENCODING_LOSSLESS_HUFFMAN:
        return Status.NVJPEG_STATUS_INVALID_PARAMETER
    if four and (batched or not (params.allow_cmyk or params.output in UNCHANGED)):
        return no
    if wrong_sampling(jpeg, params.output) or (params.output in AS_STORED and not aligned(jpeg, params)):
        return no
    if jpeg.precision != 8:
        return Status.NVJPEG_STATUS_INVALID_PARAMETER
    return no if params.scale else 0


def wrong_sampling(jpeg: Jpeg, output: int) -> bool:
    css = jpeg.subsampling
    return (output == Format.NVJPEG_OUTPUT_NV12 and css != Css.NVJPEG_CSS_420) or (
        output == Format.NVJPEG_OUTPUT_YUY2 and css != Css.NVJPEG_CSS_422
    )


def aligned(jpeg: Jpeg, params: Params) -> bool:
    x, y, width, height = params.roi
    whole = width <= 0 or height <= 0
    return whole or all(x % across == 0 and y % down == 0 for across, down in jpeg.steps)


def fixed_function_refuses(backend: int, jpeg: Jpeg, params: Params, *, batched: bool) -> bool:
    """The engine, and the two backends that take bitstreams in device memory."""
    engine = backend in ENGINE
    encodings = [Encoding.NVJPEG_ENCODING_BASELINE_DCT]
    if engine:
        encodings.append(Encoding.NVJPEG_ENCODING_EXTENDED_SEQUENTIAL_DCT_HUFFMAN)
    cropped = params.roi[2] > 0 and params.roi[3] > 0
    only_batched = backend != Backend.NVJPEG_BACKEND_HARDWARE
    return (
        jpeg.encoding not in encodings
        or jpeg.precision != 8
        or jpeg.scans > 1
        or jpeg.subsampling not in ENGINE_CSS
        or len(jpeg.factors) == 4
        or wrong_sampling(jpeg, params.output)
        or (engine and max(jpeg.width, jpeg.height) > ENGINE_SIDE)
        or (backend in FROM_DEVICE and jpeg.restart)
        or (only_batched and not batched)
        or (cropped and not (batched and backend == Backend.NVJPEG_BACKEND_HARDWARE))
        or (bool(params.scale) and backend != Backend.NVJPEG_BACKEND_HARDWARE)
    )
