"""The dull half of the fake nvJPEG: library, handles, header reading, parameters, buffers.

Decoding, faults and the class that tests use are in ``tests/fake_nvjpeg.py``.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any, TypeVar

from ffcv_gpu.native.nvjpeg_types import nvjpegBackend_t as Backend
from ffcv_gpu.native.nvjpeg_types import nvjpegExifOrientation_t, nvjpegOutputFormat_t, nvjpegScaleFactor_t
from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status
from tests.fake_nvjpeg_images import Jpeg, Refused, parse
from tests.fake_nvjpeg_objects import (
    ENGINE,
    SOFTWARE,
    Buffer,
    Decoder,
    Exclusive,
    Handle,
    JpegStream,
    Params,
    Pool,
    State,
    allocator,
    support,
)
from tests.fake_streams import FakeStreams

__all__ = ["Plumbing"]

T = TypeVar("T")
INVALID = Status.NVJPEG_STATUS_INVALID_PARAMETER


class Plumbing:
    """Objects behind opaque pointers, and the calls that only make, read or set them.

    A method ``_nvjpegX`` does what ``nvjpegX`` does; it returns nothing for success and raises `Refused`
    for any other status.
    """

    def __init__(
        self, *, engines: int, cores: int, driver: bool, version: tuple[int, int, int], streams: FakeStreams
    ) -> None:
        self.engines, self.cores, self.driver, self.version = engines, cores, driver, version
        self.streams = streams
        self.mistakes: list[str] = []
        #: bytes that nvJPEG may have in all without an allocator of the caller's; None: no limit
        self.memory_limit_bytes: int | None = None
        self.pools: list[Pool] = []
        # One lock for all fakes: work that holds the streams' comes back here, and the garbage collector may
        # drop memory, which records events, in a thread that is in here.
        self._lock = streams.lock
        self._objects: dict[int, Any] = {}
        self._gone: dict[int, str] = {}
        # Far from any size or enum value, so that an integer argument is never taken for a pointer.
        self._addresses = itertools.count(0x7FFE_0000_0000_0000, 64)

    # ---- opaque pointers

    def _new(self, out: Any, made: object) -> None:
        if not out:
            raise Refused(INVALID)
        with self._lock:
            out[0] = address = next(self._addresses)
            self._objects[address] = made

    def _get(self, kind: type[T], address: int | None) -> T:
        if address is None:
            raise Refused(INVALID)
        found = self._objects.get(address)
        if not isinstance(found, kind):
            what = self._gone.get(address) or (type(found).__name__ if found is not None else "wild pointer")
            self._mistake(f"a {what} was given as {kind.__name__}: the real library may crash")
            raise Refused(INVALID)
        return found

    def _destroy(self, kind: type[T], address: int | None) -> T:
        found = self._get(kind, address)
        if isinstance(found, Exclusive) and found.flying:
            self._mistake(f"a {kind.__name__} was destroyed while its work was in flight")
        with self._lock:
            self._gone[address] = f"destroyed {kind.__name__}"  # type: ignore[index]
            del self._objects[address]  # type: ignore[arg-type]
        return found

    def _mistake(self, text: str) -> None:
        self.mistakes.append(text)

    @property
    def allocations(self) -> int:
        """How often any of nvJPEG's own memory has grown so far; constant in steady state."""
        return sum(pool.allocations for pool in self.pools)

    def _pool(self, given: Any = None) -> Pool:
        self.pools.append(Pool(given, self._fits))
        return self.pools[-1]

    def _fits(self, size_bytes: int) -> bool:
        used = sum(pool.size for pool in self.pools if pool.allocator is None)
        return self.memory_limit_bytes is None or used + size_bytes <= self.memory_limit_bytes

    # ---- library and handle

    def _nvjpegGetProperty(self, which: int, value: Any) -> None:
        if not value or which not in (0, 1, 2):
            raise Refused(INVALID)
        value[0] = self.version[which]

    def _nvjpegGetCudartProperty(self, which: int, value: Any) -> None:
        if not value or which not in (0, 1, 2):
            raise Refused(INVALID)
        value[0] = (self.version[0], 0, 0)[which]

    def _create(self, backend: int, out: Any, flags: int = 0, device: Any = None, pinned: Any = None) -> None:
        if not self.driver:
            raise Refused(Status.NVJPEG_STATUS_EXECUTION_FAILED)
        if backend not in list(Backend):
            raise Refused(INVALID)
        if backend in ENGINE and not self.engines:
            raise Refused(Status.NVJPEG_STATUS_ARCH_MISMATCH)
        self._new(out, Handle(backend, flags, allocator(device), allocator(pinned)))

    def _nvjpegCreateSimple(self, out: Any) -> None:
        self._create(Backend.NVJPEG_BACKEND_DEFAULT, out)

    def _nvjpegCreateEx(self, backend: int, device: Any, pinned: Any, flags: int, out: Any) -> None:
        self._create(backend, out, flags, device, pinned)

    def _nvjpegCreateExV2(self, backend: int, device: Any, pinned: Any, flags: int, out: Any) -> None:
        if not device or not pinned:
            raise Refused(INVALID)
        self._create(backend, out, flags, device, pinned)

    def _nvjpegDestroy(self, handle: int | None) -> None:
        self._destroy(Handle, handle)

    def _nvjpegGetHardwareDecoderInfo(self, handle: int | None, engines: Any, cores: Any) -> None:
        on_engine = self._get(Handle, handle).backend in ENGINE
        engines[0], cores[0] = (self.engines, self.cores) if on_engine else (0, 0)

    def _nvjpegSetDeviceMemoryPadding(self, padding: int, handle: int | None) -> None:
        self._get(Handle, handle).device_padding = padding

    def _nvjpegGetDeviceMemoryPadding(self, padding: Any, handle: int | None) -> None:
        padding[0] = self._get(Handle, handle).device_padding

    def _nvjpegSetPinnedMemoryPadding(self, padding: int, handle: int | None) -> None:
        self._get(Handle, handle).pinned_padding = padding

    def _nvjpegGetPinnedMemoryPadding(self, padding: Any, handle: int | None) -> None:
        padding[0] = self._get(Handle, handle).pinned_padding

    # ---- states and decoders

    def _nvjpegJpegStateCreate(self, handle: int | None, out: Any) -> None:
        owner = self._get(Handle, handle)
        self._new(out, State(owner, pool=self._pool(owner.device)))

    def _nvjpegJpegStateDestroy(self, state: int | None) -> None:
        self._destroy(State, state).pool.release(None)

    def _nvjpegDecoderCreate(self, handle: int | None, backend: int, out: Any) -> None:
        owner = self._get(Handle, handle)
        if backend == Backend.NVJPEG_BACKEND_HARDWARE:
            if not self.engines:
                raise Refused(Status.NVJPEG_STATUS_ARCH_MISMATCH)
        elif backend not in SOFTWARE:
            raise Refused(INVALID)
        self._new(out, Decoder(owner, backend))

    def _nvjpegDecoderDestroy(self, decoder: int | None) -> None:
        self._destroy(Decoder, decoder)

    def _nvjpegDecoderStateCreate(self, handle: int | None, decoder: int | None, out: Any) -> None:
        owner = self._get(Handle, handle)
        self._new(out, State(owner, decoder=self._get(Decoder, decoder), pool=self._pool(owner.device)))

    def _nvjpegDecoderJpegSupported(
        self, decoder: int | None, stream: int | None, params: int | None, answer: Any
    ) -> None:
        backend, jpeg = self._get(Decoder, decoder).backend, self._get(JpegStream, stream).jpeg
        answer[0] = support(backend, jpeg, self._get(Params, params), batched=False)

    def _nvjpegDecodeBatchedSupported(self, handle: int | None, stream: int | None, answer: Any) -> None:
        owner, jpeg = self._get(Handle, handle), self._get(JpegStream, stream).jpeg
        wish = Params(owner, output=nvjpegOutputFormat_t.NVJPEG_OUTPUT_RGBI)
        answer[0] = support(owner.backend, jpeg, wish, batched=True)

    def _nvjpegDecodeBatchedSupportedEx(
        self, handle: int | None, stream: int | None, params: int | None, answer: Any
    ) -> None:
        owner, jpeg = self._get(Handle, handle), self._get(JpegStream, stream).jpeg
        answer[0] = support(owner.backend, jpeg, self._get(Params, params), batched=True)

    # ---- header reading

    def _nvjpegGetImageInfo(
        self,
        handle: int | None,
        data: int | None,
        length: int,
        count: Any,
        subsampling: Any,
        widths: Any,
        heights: Any,
    ) -> None:
        self._get(Handle, handle)
        if not data or not (count and subsampling and widths and heights):
            raise Refused(INVALID)
        jpeg = parse(ctypes.string_at(data, length), "frame")
        count[0], subsampling[0] = len(jpeg.factors), jpeg.subsampling
        sizes = (*jpeg.sizes, *[(0, 0)] * 4)
        for k in range(4):
            widths[k], heights[k] = sizes[k]

    def _nvjpegJpegStreamCreate(self, handle: int | None, out: Any) -> None:
        self._new(out, JpegStream(self._get(Handle, handle)))

    def _nvjpegJpegStreamDestroy(self, stream: int | None) -> None:
        self._destroy(JpegStream, stream)

    def _parse(self, handle: int | None, data: int | None, length: int, stream: int | None) -> JpegStream:
        self._get(Handle, handle)
        found = self._get(JpegStream, stream)
        if not data:
            raise Refused(INVALID)
        found.jpeg, found.whole = Jpeg(), False
        found.address, found.data = data, ctypes.string_at(data, length)
        found.parses += 1
        return found

    def _nvjpegJpegStreamParse(
        self, handle: int | None, data: int | None, length: int, metadata: int, save: int, stream: int | None
    ) -> None:
        found = self._parse(handle, data, length, stream)
        found.jpeg, found.whole, found.saved = parse(found.data, "end"), True, bool(save)

    def _nvjpegJpegStreamParseHeader(
        self, handle: int | None, data: int | None, length: int, stream: int | None
    ) -> None:
        found = self._parse(handle, data, length, stream)
        found.jpeg = parse(found.data, "scan")

    def _nvjpegJpegStreamParseTables(
        self, handle: int | None, data: int | None, length: int, stream: int | None
    ) -> None:
        self._parse(handle, data, length, stream)

    def _nvjpegJpegStreamGetJpegEncoding(self, stream: int | None, encoding: Any) -> None:
        self._read(stream, encoding, lambda jpeg: jpeg.encoding)

    def _nvjpegJpegStreamGetComponentsNum(self, stream: int | None, count: Any) -> None:
        self._read(stream, count, lambda jpeg: len(jpeg.factors))

    def _nvjpegJpegStreamGetChromaSubsampling(self, stream: int | None, subsampling: Any) -> None:
        self._read(stream, subsampling, lambda jpeg: jpeg.subsampling)

    def _nvjpegJpegStreamGetExifOrientation(self, stream: int | None, orientation: Any) -> None:
        self._read(stream, orientation, lambda jpeg: jpeg.orientation)

    def _nvjpegJpegStreamGetSamplePrecision(self, stream: int | None, precision: Any) -> None:
        self._read(stream, precision, lambda jpeg: jpeg.precision)

    def _nvjpegJpegStreamGetFrameDimensions(self, stream: int | None, width: Any, height: Any) -> None:
        if not width or not height:
            raise Refused(INVALID)
        self._read(stream, width, lambda jpeg: jpeg.width)
        self._read(stream, height, lambda jpeg: jpeg.height)

    def _nvjpegJpegStreamGetComponentDimensions(
        self, stream: int | None, component: int, width: Any, height: Any
    ) -> None:
        sizes = self._get(JpegStream, stream).jpeg.sizes
        if not width or not height or component >= len(sizes):
            raise Refused(INVALID)
        width[0], height[0] = sizes[component]

    def _read(self, stream: int | None, out: Any, value: Callable[[Jpeg], int]) -> None:
        jpeg = self._get(JpegStream, stream).jpeg
        if not out:
            raise Refused(INVALID)
        out[0] = value(jpeg)

    # ---- decode parameters

    def _nvjpegDecodeParamsCreate(self, handle: int | None, out: Any) -> None:
        self._new(out, Params(self._get(Handle, handle)))

    def _nvjpegDecodeParamsDestroy(self, params: int | None) -> None:
        self._destroy(Params, params)

    def _nvjpegDecodeParamsSetOutputFormat(self, params: int | None, output: int) -> None:
        found = self._get(Params, params)
        found.output = self._output(output)

    def _output(self, output: int) -> int:
        since_13 = (nvjpegOutputFormat_t.NVJPEG_OUTPUT_UNCHANGEDI,) if self.version < (13, 1) else ()
        if output not in list(nvjpegOutputFormat_t) or output in since_13:
            raise Refused(INVALID)
        return output

    def _nvjpegDecodeParamsSetROI(self, params: int | None, x: int, y: int, width: int, height: int) -> None:
        found = self._get(Params, params)
        if x < 0 or y < 0 or width < -1 or height < -1:
            raise Refused(INVALID)
        found.roi = (x, y, width, height)

    def _nvjpegDecodeParamsSetAllowCMYK(self, params: int | None, allow: int) -> None:
        self._get(Params, params).allow_cmyk = bool(allow)

    def _nvjpegDecodeParamsSetScaleFactor(self, params: int | None, scale: int) -> None:
        found = self._get(Params, params)
        if scale not in list(nvjpegScaleFactor_t):
            raise Refused(INVALID)
        found.scale = scale

    def _nvjpegDecodeParamsSetExifOrientation(self, params: int | None, orientation: int) -> None:
        found = self._get(Params, params)
        if orientation not in list(nvjpegExifOrientation_t):
            raise Refused(INVALID)
        found.orientation = orientation

    # ---- work buffers

    def _buffer(self, handle: int | None, kind: str, given: Any, out: Any) -> None:
        self._new(out, Buffer(self._get(Handle, handle), kind=kind, pool=self._pool(allocator(given))))

    def _resize(self, buffer: int | None, kind: str, size: int, stream: int | None) -> None:
        found = self._get_buffer(buffer, kind)
        if found.flying and size > found.pool.size:
            self._mistake(f"a {kind} buffer was resized while in use by queued work")
        padding = found.handle.pinned_padding if kind == "pinned" else found.handle.device_padding
        found.pool.resize(size, padding, stream, with_bytes=True)

    def _get_buffer(self, buffer: int | None, kind: str) -> Buffer:
        found = self._get(Buffer, buffer)
        if found.kind != kind:
            self._mistake(f"a {found.kind} buffer was given as a {kind} one: the real library may crash")
            raise Refused(INVALID)
        return found

    def _retrieve(self, buffer: int | None, kind: str, size: Any, address: Any) -> None:
        pool = self._get_buffer(buffer, kind).pool
        size[0], address[0] = pool.size, pool.address

    def _nvjpegBufferPinnedCreate(self, handle: int | None, given: Any, out: Any) -> None:
        self._buffer(handle, "pinned", given, out)

    def _nvjpegBufferPinnedCreateV2(self, handle: int | None, given: Any, out: Any) -> None:
        if not given:
            raise Refused(INVALID)
        self._buffer(handle, "pinned", given, out)

    def _nvjpegBufferPinnedResize(self, buffer: int | None, size: int, stream: int | None) -> None:
        self._resize(buffer, "pinned", size, stream)

    def _nvjpegBufferPinnedRetrieve(self, buffer: int | None, size: Any, address: Any) -> None:
        self._retrieve(buffer, "pinned", size, address)

    def _nvjpegBufferPinnedDestroy(self, buffer: int | None) -> None:
        self._get_buffer(buffer, "pinned")
        self._destroy(Buffer, buffer).pool.release(None)

    def _nvjpegBufferDeviceCreate(self, handle: int | None, given: Any, out: Any) -> None:
        self._buffer(handle, "device", given, out)

    def _nvjpegBufferDeviceCreateV2(self, handle: int | None, given: Any, out: Any) -> None:
        if not given:
            raise Refused(INVALID)
        self._buffer(handle, "device", given, out)

    def _nvjpegBufferDeviceResize(self, buffer: int | None, size: int, stream: int | None) -> None:
        self._resize(buffer, "device", size, stream)

    def _nvjpegBufferDeviceRetrieve(self, buffer: int | None, size: Any, address: Any) -> None:
        self._retrieve(buffer, "device", size, address)

    def _nvjpegBufferDeviceDestroy(self, buffer: int | None) -> None:
        self._get_buffer(buffer, "device")
        self._destroy(Buffer, buffer).pool.release(None)

    def _nvjpegStateAttachPinnedBuffer(self, state: int | None, buffer: int | None) -> None:
        self._get(State, state).pinned = self._get_buffer(buffer, "pinned")

    def _nvjpegStateAttachDeviceBuffer(self, state: int | None, buffer: int | None) -> None:
        self._get(State, state).device = self._get_buffer(buffer, "device")
