"""A batch of JPEGs in one call, by the engines or by the GPU's cores, filled up by tiny ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import simplejpeg

from ffcv_gpu.device.base import GpuMemory
from ffcv_gpu.jpeg.nvjpeg.handles import Handles, Images, pointer
from ffcv_gpu.native.nvjpeg_types import nvjpegChromaSubsampling_t as Css
from ffcv_gpu.native.nvjpeg_types import nvjpegOutputFormat_t as Format

__all__ = ["BatchDecoder", "Filler"]

#: pixels a side: above any engine's smallest size that we heard of, and nothing beside a photo
FILLER_SIDE = 64
#: what simplejpeg calls them, by `engine_groups`
_SUBSAMPLINGS = {0: "444", 1: "422", 2: "420", 3: "440"}
_CALL = "nvjpegDecodeBatched"


class Filler:
    """A tiny valid JPEG that fills up short batches; each place of a batch has room of its own for it.

    Parameters
    ----------
    memory : GpuMemory
    places : int
    group : int
        Of `engine_groups`: a filler unlike the images of its call would stop the engines.
    """

    def __init__(self, memory: GpuMemory, places: int, group: int) -> None:
        grey = np.full((FILLER_SIDE, FILLER_SIDE, 3), 128, np.uint8)
        encoded = simplejpeg.encode_jpeg(grey, colorsubsampling=_SUBSAMPLINGS[group])
        self._data = memory.pinned(len(encoded))
        self._data[:] = np.frombuffer(encoded, np.uint8)
        size = 3 * FILLER_SIDE * FILLER_SIDE
        self._room = memory.device_bytes(places * size)
        self.address = int(self._data.ctypes.data)
        self.length = len(encoded)
        self.pitch, self.group = 3 * FILLER_SIDE, group
        self.targets = (memory.address(self._room) + size * np.arange(places)).astype(np.uintp)


class BatchDecoder:
    """One nvJPEG state for batches, with the arrays that its call takes. One batch at a time.

    Parameters
    ----------
    handles : Handles
    handle : int
        `handles.engine` or `handles.software`.
    size : int
        Most images of a call.
    filler : Filler
        With at least `size` places.
    fitted : callable
        Takes how many images there are and for how many the state is ready; returns for how many it should
        be, at least so many and at most `size`.
    largest : (int, int), optional
        Height and width for which the engine's memory is reserved at once; else it grows as needed.

    Raises
    ------
    NvjpegError
    """

    def __init__(
        self,
        handles: Handles,
        handle: int,
        size: int,
        filler: Filler,
        fitted: Callable[[int, int], int],
        largest: tuple[int, int] | None = None,
    ) -> None:
        self.size = size
        self._prepared, self._fitted = 0, fitted
        self._handles, self._handle, self._filler = handles, handle, filler
        self._largest = largest if handle == handles.engine else None
        self._data = np.empty(size, np.uintp)
        self._lengths = np.empty(size, np.uintp)
        # nvjpegImage_t: four channel pointers, four pitches. RGBI uses the first of each.
        self._targets = np.zeros((size, 8), np.uintp)
        arrays = enumerate((self._data, self._lengths, self._targets), start=2)
        self._arguments = tuple(pointer(array, _CALL, position) for position, array in arrays)
        self._kind = ("batch", handle, filler.group)
        self._state = handles.take(self._kind, lambda: handles.call.new("nvjpegJpegStateCreate", handle))

    def prepare(self, images: int) -> None:
        """Make the state ready for batches of so many; nothing of it may be in flight."""
        call, rgb = self._handles.call, Format.NVJPEG_OUTPUT_RGBI
        self._prepared = 0  # if this fails, the state is undefined
        # One "CPU thread": the number is not used, but must not be 0.
        call("nvjpegDecodeBatchedInitialize", self._handle, self._state, images, 1, rgb)
        if self._largest is not None:
            height, width = self._largest
            call(
                "nvjpegDecodeBatchedPreAllocate",
                *(self._handle, self._state, self.size, width, height, Css.NVJPEG_CSS_444, rgb),
            )
        self._prepared = images

    def decode(self, images: Images, stream: int) -> int:
        """Start to decode 1 to `size` images in the order of `stream`; returns when it is submitted.

        Before, the host must have waited for whatever reads or writes the targets, and for the batch
        before this one.

        Returns
        -------
        int
            Fillers that the call has besides.

        Raises
        ------
        NvjpegError
            For one bad image as for any other reason: then all images must be decoded some other way. What
            was submitted before the failure may still be running, and must be waited for.
        """
        count = images.data.size
        wanted = self._fitted(count, self._prepared)
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
        self._data[:count], self._data[count:] = images.data, filler.address
        self._lengths[:count], self._lengths[count:] = images.lengths, filler.length
        self._targets[:count, 0], self._targets[count:, 0] = images.targets, filler.targets[count : self.size]
        self._targets[:count, 4], self._targets[count:, 4] = images.pitches, filler.pitch

    def give_back(self) -> None:
        """Keep the state, and the memory it has grown to, for another; nothing may be in flight."""
        self._handles.put(self._kind, self._state)
