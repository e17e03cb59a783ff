"""JPEGs one by one through nvJPEG's phases: what batches do not take, and images of a batch that failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ffcv_gpu.device.base import GpuEvent, GpuMemory
from ffcv_gpu.errors import DecodeError, NvjpegError
from ffcv_gpu.jpeg.nvjpeg.handles import Handles, Images, pointer
from ffcv_gpu.jpeg.routing import Route, RouteArray
from ffcv_gpu.native.nvjpeg_types import nvjpegBackend_t as Backend
from ffcv_gpu.native.nvjpeg_types import nvjpegOutputFormat_t as Format
from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status

__all__ = ["SingleDecoder"]

_BACKENDS = {
    Route.DECOUPLED_GPU: Backend.NVJPEG_BACKEND_GPU_HYBRID,
    Route.DECOUPLED_HYBRID: Backend.NVJPEG_BACKEND_HYBRID,
}


@dataclass(frozen=True)
class _Page:
    """Where one image is while the CPU works on it; two of them alternate."""

    pinned: int
    bitstream: int


class SingleDecoder:
    """Decoders, states and work buffers, all on one stream of their own. One thread at a time.

    The CPU's part of an image is done while the GPU works on the one before. The GPU's part begins when that
    one is done, waited for on the host, as in NVIDIA's sample, DALI and torchvision: a state and the work
    buffer on the device hold one image.
    """

    def __init__(self, handles: Handles, memory: GpuMemory) -> None:
        call, handle = handles.call, handles.software
        self._call, self._handle = call, handle
        self.stream = memory.new_stream()
        self._params = call.new("nvjpegDecodeParamsCreate", handle)
        call("nvjpegDecodeParamsSetOutputFormat", self._params, Format.NVJPEG_OUTPUT_RGBI)
        work = call.new("nvjpegBufferDeviceCreate", handle, None)
        self._decoders: dict[int, tuple[int, int]] = {}
        for route, backend in _BACKENDS.items():
            decoder = call.new("nvjpegDecoderCreate", handle, backend)
            state = call.new("nvjpegDecoderStateCreate", handle, decoder)
            call("nvjpegStateAttachDeviceBuffer", state, work)
            self._decoders[route] = decoder, state
        self._pages = [
            _Page(
                call.new("nvjpegBufferPinnedCreate", handle, None),
                call.new("nvjpegJpegStreamCreate", handle),
            )
            for _ in range(2)
        ]
        self._done: GpuEvent = memory.new_event()
        self._image = np.zeros(8, np.uintp)
        self._target = pointer(self._image, "nvjpegDecodeJpegDevice", 3)
        self._size = np.zeros(2, np.uint32)

    def decode(self, images: Images, routes: RouteArray) -> Mapping[int, str]:
        """Start to decode images, each by its route; returns when all are submitted.

        Before, the host must have waited for whatever reads or writes the targets.

        Returns
        -------
        mapping
            By index, why an image was refused. What was submitted of it may still be running.

        Raises
        ------
        NvjpegError
            If memory runs out.
        """
        refused: dict[int, str] = {}
        for i, route in enumerate(routes.tolist()):
            try:
                self._decode(images, i, route)
            except NvjpegError as error:
                if error.status == Status.NVJPEG_STATUS_ALLOCATOR_FAILURE:
                    raise
                refused[i] = str(error)
            except DecodeError as error:
                refused[i] = str(error)
        return refused

    def _decode(self, images: Images, i: int, route: int) -> None:
        call, handle, stream = self._call, self._handle, self.stream.handle
        decoder, state = self._decoders[route]
        page = self._pages[0]
        data, length = int(images.data[i]), int(images.lengths[i])
        call("nvjpegJpegStreamParse", handle, data, length, 0, 0, page.bitstream)
        self._check_size(page.bitstream, int(images.heights[i]), int(images.widths[i]))
        call("nvjpegStateAttachPinnedBuffer", state, page.pinned)
        call("nvjpegDecodeJpegHost", handle, decoder, state, self._params, page.bitstream)
        self._image[0], self._image[4] = images.targets[i], images.pitches[i]
        self._done.synchronize()
        self._pages.reverse()  # the other one is free now
        try:
            call("nvjpegDecodeJpegTransferToDevice", handle, decoder, state, page.bitstream, stream)
            call("nvjpegDecodeJpegDevice", handle, decoder, state, self._target, stream)
        finally:
            self.stream.record(self._done)

    def _check_size(self, bitstream: int, height: int, width: int) -> None:
        """Refuse what would be written beside its place: nvJPEG knows no destination's height."""
        size, name = self._size, "nvjpegJpegStreamGetFrameDimensions"
        self._call(name, bitstream, pointer(size[:1], name, 1), pointer(size[1:], name, 2))
        if (int(size[0]), int(size[1])) != (width, height):
            raise DecodeError(f"the JPEG is {size[0]} x {size[1]} pixels")
