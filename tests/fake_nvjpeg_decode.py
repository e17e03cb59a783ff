"""The decoding half of the fake nvJPEG: batches, and single images in one call.

An image is decoded when the call is made, into memory of our own, and written to the caller's when its
place in the stream comes. The class that tests use is in ``tests/fake_nvjpeg.py``.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import numpy as np

from ffcv_gpu.native.nvjpeg_types import (
    NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION,
    nvjpegChromaSubsampling_t,
    nvjpegExifOrientation_t,
)
from ffcv_gpu.native.nvjpeg_types import nvjpegBackend_t as Backend
from ffcv_gpu.native.nvjpeg_types import nvjpegJpegEncoding_t as Encoding
from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status
from tests.fake_nvjpeg_images import Refused, as_ycbcr, parse, render
from tests.fake_nvjpeg_objects import (
    ENGINE,
    FROM_DEVICE,
    Buffer,
    Decoder,
    Exclusive,
    Handle,
    Params,
    State,
    Work,
    support,
)
from tests.fake_nvjpeg_plumbing import INVALID, Plumbing
from tests.fake_streams import FakeStream

__all__ = ["GPU_HUFFMAN_ABOVE", "Decoding", "Fault", "ImageFault"]

#: GPU_HYBRID's batched call decodes Huffman codes on the GPU for more images than this
GPU_HUFFMAN_ABOVE = 50

BATCHED_EX = (Backend.NVJPEG_BACKEND_HARDWARE, Backend.NVJPEG_BACKEND_LOSSLESS_JPEG)
INVERTED = np.uint8(0xFF)


@dataclass
class Fault:
    """A call that shall fail, `times` times after `after` successes; None: always."""

    call: str
    status: int
    times: int | None
    after: int
    written: int


@dataclass(frozen=True)
class ImageFault:
    """An image that shall fail with `status`, or (None) be skipped in silence."""

    matches: Callable[[bytes], bool]
    status: int | None
    backends: Container[int] | None


class Decoding(Plumbing):
    """The calls that decode."""

    device_memory: Callable[[int, int], bool] | None
    host_memory: Callable[[int, int], bool] | None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        #: images by who decoded their Huffman codes: "engine", "gpu huffman", "cpu huffman"
        self.decoded: Counter[str] = Counter()
        #: rule 3; False: an engine that keeps the stream's order
        self.engine_overtakes = True
        self._image_faults: list[ImageFault] = []

    # ---- one image

    def _bytes(self, address: int | None, length: int, backend: int) -> bytes:
        if address is None:
            raise Refused(INVALID)
        allowed = self.device_memory if backend in FROM_DEVICE else self.host_memory
        if allowed is not None and not allowed(address, length):
            self._mistake(f"{length} compressed bytes at {address:#x} are not in known memory")
            raise Refused(Status.NVJPEG_STATUS_EXECUTION_FAILED)
        return ctypes.string_at(address, length)

    def _work(self, backend: int, data: bytes, wish: Params, *, batched: bool) -> Work:
        """Decode one image as `wish` says; where it goes is not known yet."""
        jpeg = parse(data, "end")
        skipped = False
        for fault in self._image_faults:
            if (fault.backends is None or backend in fault.backends) and fault.matches(data):
                if fault.status is not None:
                    raise Refused(fault.status)
                skipped = True
        if support(backend, jpeg, wish, batched=batched):
            raise Refused(Status.NVJPEG_STATUS_JPEG_NOT_SUPPORTED)
        x, y, width, height = wish.roi
        roi = wish.roi if width > 0 and height > 0 else None
        if roi is not None and (x + width > jpeg.width or y + height > jpeg.height):
            raise Refused(Status.NVJPEG_STATUS_BAD_JPEG)
        interpolate = bool(wish.handle.flags & NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION)
        # All of nvJPEG's decoders take red, green and blue for YCbCr (13.3.2, on an H200).
        read = as_ycbcr(data) if jpeg.rgb_coded else data
        planes = render(
            read, jpeg, wish.output, interpolate=interpolate, roi=roi, factor=1 << wish.scale
        )  # fmt: skip
        return Work(jpeg, data, planes, skipped=skipped, turned=self._turned(backend, wish))

    def _turned(self, backend: int, wish: Params) -> bool:
        """Say whether the image shall be turned by its EXIF tag: software fails at that, later on."""
        if wish.orientation <= nvjpegExifOrientation_t.NVJPEG_ORIENTATION_NORMAL:
            return False
        if backend in ENGINE:
            self._mistake("the fake does not turn images by their EXIF orientation")
            raise Refused(Status.NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED)
        return True

    def _views(self, destination: Any, work: Work) -> None:
        """Find the destination's memory, and refuse what would not hold the image."""
        for k, plane in enumerate(work.planes):
            address, pitch = destination.channel[k], destination.pitch[k]
            rows, row_bytes = plane.shape
            if address is None or pitch < row_bytes:
                raise Refused(INVALID)
            size = (rows - 1) * pitch + row_bytes
            if self.device_memory is not None and not self.device_memory(address, size):
                self._mistake(f"a destination of {size} bytes at {address:#x} is not in known memory")
                raise Refused(Status.NVJPEG_STATUS_EXECUTION_FAILED)
            memory = (ctypes.c_ubyte * size).from_address(address)
            work.views.append(np.ndarray(plane.shape, np.uint8, memory, strides=(pitch, 1)))

    def _count(self, backend: int, works: list[Work], *, batched: bool) -> None:
        enough = not batched or len(works) > GPU_HUFFMAN_ABOVE
        gpu = backend in FROM_DEVICE or (backend == Backend.NVJPEG_BACKEND_GPU_HYBRID and enough)
        for work in works:
            baseline = work.jpeg.encoding == Encoding.NVJPEG_ENCODING_BASELINE_DCT and work.jpeg.scans == 1
            on_gpu = "gpu huffman" if gpu and baseline else "cpu huffman"
            self.decoded["engine" if backend in ENGINE else on_gpu] += 1

    # ---- streams

    def _stream(self, handle: int | None) -> FakeStream:
        found = self.streams.find(handle or 0)
        if found is None:
            self._mistake(f"{handle:#x} is no stream of this device")
            raise Refused(Status.NVJPEG_STATUS_EXECUTION_FAILED)
        return found

    def _take(self, found: State | Buffer, stream: FakeStream) -> None:
        """Let queued work use this object: all of it must be on one stream, else nothing keeps its order."""
        if found.flying and found.stream is not stream:
            self._mistake(f"a {type(found).__name__} is used on a second stream while in flight on another")
        with self._lock:
            found.stream, found.flying = stream, found.flying + 1

    def _release(self, *used: Exclusive) -> None:
        with self._lock:
            for found in used:
                found.flying -= 1

    def _submit(self, stream: FakeStream, backend: int, works: list[Work], *used: State | Buffer) -> None:
        """Queue the writing; the engine's overtakes all that is queued, and is made right in its place."""
        early = backend in ENGINE and self.engine_overtakes
        for found in used:
            self._take(found, stream)

        def veil() -> None:
            for work in works:
                work.write(INVERTED)

        def finish() -> None:
            for work in works:
                intact = self._source_is_intact(work)
                if early:
                    # In place: whatever was done to the memory in between shows.
                    work.invert() if intact else None
                else:
                    work.write(np.uint8(0) if intact else INVERTED)
            self._release(*used)

        if early:
            stream.overtake(veil)
        stream.submit(finish)

    def _source_is_intact(self, work: Work) -> bool:
        allowed = self.host_memory
        if work.address is None or allowed is None or not allowed(work.address, len(work.data)):
            return True
        if ctypes.string_at(work.address, len(work.data)) == work.data:
            return True
        self._mistake("compressed bytes were changed while their decode was in flight")
        return False

    # ---- batches

    def _state(
        self, handle: int | None, state: int | None, decoder: int | None = None
    ) -> tuple[Handle, State]:
        owner, found = self._get(Handle, handle), self._get(State, state)
        wanted = self._get(Decoder, decoder) if decoder is not None else None
        if found.handle is not owner or found.decoder is not wanted:
            self._mistake("a state was used with another handle or decoder than it was made for")
            raise Refused(INVALID)
        return owner, found

    def _nvjpegDecodeBatchedInitialize(
        self, handle: int | None, state: int | None, batch_size: int, threads: int, output: int
    ) -> None:
        _, found = self._state(handle, state)
        if batch_size < 1 or threads < 1:
            raise Refused(INVALID)
        if found.flying:
            self._mistake("nvjpegDecodeBatchedInitialize while a batch of the state is in flight")
            raise Refused(INVALID)
        found.batch_size, found.output = batch_size, self._output(output)

    def _nvjpegDecodeBatchedPreAllocate(
        self,
        handle: int | None,
        state: int | None,
        batch_size: int,
        width: int,
        height: int,
        subsampling: int,
        output: int,
    ) -> None:
        owner, found = self._state(handle, state)
        known = subsampling in list(nvjpegChromaSubsampling_t)
        if min(batch_size, width, height) < 1 or not known:
            raise Refused(INVALID)
        self._output(output)
        if owner.backend in ENGINE:  # nothing is said of the others
            found.pool.resize(3 * batch_size * width * height, owner.device_padding, None)

    def _nvjpegDecodeBatchedParseJpegTables(
        self, handle: int | None, state: int | None, data: int | None, length: int
    ) -> None:
        self._state(handle, state)
        self._bytes(data, length, Backend.NVJPEG_BACKEND_DEFAULT)  # in host memory for every backend

    def _nvjpegDecodeBatched(
        self,
        handle: int | None,
        state: int | None,
        data: Any,
        lengths: Any,
        destinations: Any,
        stream: int | None,
        fault: Fault | None,
    ) -> None:
        owner, found = self._state(handle, state)
        wish = Params(owner, output=found.output)
        self._batch(owner, found, data, lengths, destinations, lambda k: wish, stream, fault)

    def _nvjpegDecodeBatchedEx(
        self,
        handle: int | None,
        state: int | None,
        data: Any,
        lengths: Any,
        destinations: Any,
        params: Any,
        stream: int | None,
        fault: Fault | None,
    ) -> None:
        owner, found = self._state(handle, state)
        if owner.backend not in BATCHED_EX:
            raise Refused(Status.NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED)
        if not params:
            raise Refused(INVALID)

        def wish(k: int) -> Params:
            given = self._get(Params, params[k])
            if given.output != found.output:
                raise Refused(INVALID)
            return given

        self._batch(owner, found, data, lengths, destinations, wish, stream, fault)

    def _batch(
        self,
        owner: Handle,
        state: State,
        data: Any,
        lengths: Any,
        destinations: Any,
        wish: Callable[[int], Params],
        stream: int | None,
        fault: Fault | None,
    ) -> None:
        where = self._stream(stream)
        if not (data and lengths and destinations):
            raise Refused(INVALID)
        if not state.batch_size:
            self._mistake("a batch without nvjpegDecodeBatchedInitialize (again, after a failure): may crash")
            raise Refused(Status.NVJPEG_STATUS_NOT_INITIALIZED)
        works: list[Work] = []
        try:
            for k in range(fault.written if fault else state.batch_size):
                blob = self._bytes(data[k], lengths[k], owner.backend)
                work = self._work(owner.backend, blob, wish(k), batched=True)
                self._views(destinations[k], work)
                work.address = None if owner.backend in FROM_DEVICE else data[k]
                works.append(work)
            if fault:
                raise Refused(fault.status)
            size = sum(plane.size for work in works for plane in work.planes)
            state.pool.resize(size, owner.device_padding, stream)
        except Refused:
            state.batch_size = 0
            raise
        finally:
            self._submit(where, owner.backend, [work for work in works if not work.skipped], state)
        self._count(owner.backend, works, batched=True)

    # ---- one image in one call

    def _nvjpegDecode(
        self,
        handle: int | None,
        state: int | None,
        data: int | None,
        length: int,
        output: int,
        destination: Any,
        stream: int | None,
    ) -> None:
        owner, found = self._state(handle, state)
        where = self._stream(stream)
        if not destination:
            raise Refused(INVALID)
        backend = Backend.NVJPEG_BACKEND_HYBRID  # this call never uses the engine
        wish = Params(owner, output=self._output(output))
        work = self._work(backend, self._bytes(data, length, backend), wish, batched=True)
        self._views(destination[0], work)
        self._count(backend, [work], batched=False)
        self._submit(where, backend, [] if work.skipped else [work], found)
