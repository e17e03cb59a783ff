"""Decodes a batch of JPEGs in one call, by the engines or by the GPU's cores."""

from __future__ import annotations

import numpy as np
import simplejpeg

from ffcv_gpu.device.base import GpuMemory
from ffcv_gpu.jpeg.nvjpeg.handles import Handles, Images, pointer
from ffcv_gpu.native.nvjpeg_types import nvjpegOutputFormat_t as Format

__all__ = ["BatchDecoder", "Filler"]

#: pixels per side: negligible compared to a photo
FILLER_SIDE = 64
_CALL = "nvjpegDecodeBatched"


class Filler:
    """A tiny valid JPEG that fills up short batches, with separate output memory per place in the batch."""

    def __init__(self, memory: GpuMemory, places: int) -> None:
        grey = np.full((FILLER_SIDE, FILLER_SIDE, 3), 128, np.uint8)
        encoded = simplejpeg.encode_jpeg(grey, colorsubsampling="420")
        self._data = memory.pinned(len(encoded))
        self._data[:] = np.frombuffer(encoded, np.uint8)
        size = 3 * FILLER_SIDE * FILLER_SIDE
        self._room = memory.device_bytes(places * size)
        self.address = int(self._data.ctypes.data)
        self.length = len(encoded)
        self.pitch = 3 * FILLER_SIDE
        self.targets = (memory.address(self._room) + size * np.arange(places)).astype(np.uintp)


class BatchDecoder:
    """One nvJPEG state for batches, with the arrays that its call takes. One batch at a time.

    Parameters
    ----------
    handles : Handles
    handle : int
        `handles.engine` or `handles.software`.
    group : int
        The images' group, see `engine_groups`; states are kept and reused per group.
    size : int
        Maximum number of images per call.
    filler : Filler, optional
        Fills every call up to `size` images, and has that many places. Without it, calls vary in size.

    Raises
    ------
    NvjpegError
    """

    def __init__(
        self, handles: Handles, handle: int, group: int, size: int, filler: Filler | None = None
    ) -> None:
        self.size = size
        self._prepared = 0
        self._handles, self._handle, self._filler = handles, handle, filler
        self._data = np.empty(size, np.uintp)
        self._lengths = np.empty(size, np.uintp)
        # nvjpegImage_t: four channel pointers, four pitches. RGBI uses the first of each.
        self._targets = np.zeros((size, 8), np.uintp)
        arrays = enumerate((self._data, self._lengths, self._targets), start=2)
        self._arguments = tuple(pointer(array, _CALL, position) for position, array in arrays)
        #: `give_back()` keeps the state and its memory for another decoder; nothing may be in flight
        self._state, self.give_back = handles.lend(
            ("batch", handle, group), lambda: handles.call.new("nvjpegJpegStateCreate", handle), self
        )

    def prepare(self, images: int) -> None:
        """Prepare the state for batches of `images`; it must have nothing in flight."""
        call, rgb = self._handles.call, Format.NVJPEG_OUTPUT_RGBI
        self._prepared = 0  # if this fails, the state is undefined
        # One "CPU thread": nvJPEG does not use the number, but it must not be 0.
        call("nvjpegDecodeBatchedInitialize", self._handle, self._state, images, 1, rgb)
        self._prepared = images

    def decode(self, images: Images, stream: int) -> int:
        """Start to decode 1 to `size` images in the order of `stream`; returns once they are submitted.

        The host must first have waited for all work that reads or writes the targets, and for the previous
        batch.

        Returns
        -------
        int
            Number of fillers in the call.

        Raises
        ------
        NvjpegError
            For one bad image or any other reason; all images must then be decoded some other way. Work
            submitted before the failure may still be running, and must be waited for.
        """
        count = images.data.size
        wanted = count if self._filler is None else self.size
        if wanted != self._prepared:
            self.prepare(wanted)
        self._fill(images)
        try:
            self._handles.call(_CALL, self._handle, self._state, *self._arguments, stream)
        except BaseException:
            self._prepared = 0  # the state is undefined now
            raise
        return wanted - count

    def _fill(self, images: Images) -> None:
        count, filler = images.data.size, self._filler
        self._data[:count], self._lengths[:count] = images.data, images.lengths
        self._targets[:count, 0], self._targets[:count, 4] = images.targets, images.pitches
        if filler is not None:
            self._data[count:], self._lengths[count:] = filler.address, filler.length
            self._targets[count:, 0], self._targets[count:, 4] = filler.targets[count:], filler.pitch
