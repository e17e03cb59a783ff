"""Decodes JPEGs one by one in nvJPEG's phases: those unfit for batches, and the images of failed batches."""

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
    """nvJPEG's buffers of one image while the CPU works on it; two pages alternate."""

    pinned: int
    bitstream: int


class SingleDecoder:
    """Decoders, states and work buffers, all on their own stream. Only one thread at a time may use it.

    The CPU processes an image while the GPU works on the previous one. The host waits for the previous image
    before the GPU starts the next, as in NVIDIA's sample, DALI and torchvision, because a state and the work
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
        """Start to decode images, each by its route; returns once all are submitted.

        The host must first have waited for all work that reads or writes the targets.

        Returns
        -------
        mapping
            Index -> why the image was refused. Work already submitted for it may still be running.

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
        self._pages.reverse()  # the other page is free now
        try:
            call("nvjpegDecodeJpegTransferToDevice", handle, decoder, state, page.bitstream, stream)
            call("nvjpegDecodeJpegDevice", handle, decoder, state, self._target, stream)
        finally:
            self.stream.record(self._done)

    def _check_size(self, bitstream: int, height: int, width: int) -> None:
        """Raise if the size is wrong: nvJPEG is not told the target's height and may write out of bounds."""
        size, name = self._size, "nvjpegJpegStreamGetFrameDimensions"
        self._call(name, bitstream, pointer(size[:1], name, 1), pointer(size[1:], name, 2))
        if (int(size[0]), int(size[1])) != (width, height):
            raise DecodeError(f"the JPEG is {size[0]} x {size[1]} pixels")
