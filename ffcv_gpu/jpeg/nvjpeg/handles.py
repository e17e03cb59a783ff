"""nvJPEG's handles on one GPU, reusable objects created from them, and calls that take numpy arrays."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import NvjpegError
from ffcv_gpu.native import driver
from ffcv_gpu.native.nvjpeg import PROTOTYPES, check
from ffcv_gpu.native.nvjpeg_library import NvjpegLibrary
from ffcv_gpu.native.nvjpeg_types import NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION
from ffcv_gpu.native.nvjpeg_types import nvjpegBackend_t as Backend
from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status
from ffcv_gpu.steps import IntArray

__all__ = ["Calls", "Handles", "Images", "handles_of", "pointer"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: nvJPEG's own buffers grow in steps of this many bytes, so that they soon stop growing: each growth waits
#: for the whole GPU. The usual value of NVIDIA's samples and DALI; not measured yet.
GROWTH_BYTES = 16 << 20


WITHOUT_VIDEO = (
    "nvJPEG: the GPU's cores decode; JPEG engines, if it has any (A100, H100, L4 and others), cannot be "
    "reached, because the driver's libnvcuvid.so.1 is missing: start the container with "
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video (%s)"
)


@dataclass(frozen=True)
class Images:
    """The images of a call as nvJPEG needs them; int64 (n,) each.

    Attributes
    ----------
    data, lengths : host address and size of the compressed bytes
    targets : device address of each image's first pixel
    pitches : bytes from row to row
    heights, widths : pixels
    """

    data: IntArray
    lengths: IntArray
    targets: IntArray
    pitches: IntArray
    heights: IntArray
    widths: IntArray

    @property
    def padded(self) -> npt.NDArray[np.bool_]:
        """Which images have a gap behind each row, bool (n,)."""
        gaps: npt.NDArray[np.bool_] = self.pitches != 3 * self.widths
        return gaps

    def take(self, which: IntArray) -> Images:
        """Return the images `which`."""
        columns = (self.data, self.lengths, self.targets, self.pitches, self.heights, self.widths)
        return Images(*(column[which] for column in columns))


def pointer(array: npt.NDArray[Any], call: str, position: int) -> Any:
    """Return `array` as the argument at `position` of function `call`; keeps the array alive."""
    return array.ctypes.data_as(PROTOTYPES[call][position])


class Calls:
    """nvJPEG's functions by name; a status other than success raises `NvjpegError`."""

    def __init__(self, library: NvjpegLibrary) -> None:
        self._functions: Any = library.functions

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call function `name`."""
        check(getattr(self._functions, name)(*arguments), name)

    def new(self, name: str, *arguments: Any) -> int:
        """Call function `name`, which creates an object, and return the object's handle."""
        made = np.zeros(1, np.uintp)
        self(name, *arguments, pointer(made, name, -1))
        return int(made[0])


class Handles:
    """nvJPEG on one GPU; expensive to create, never destroyed (at exit, the driver may be gone first).

    Attributes
    ----------
    call : Calls
    software : int
        A handle whose batches are decoded by the GPU's cores.
    engine : int or None
        A handle whose batches are decoded by the JPEG engines; None for a GPU without engines.
    lanes : int
        Number of images that the engines decode at the same time; 0 without engines.

    Raises
    ------
    NvjpegError
        If there is no driver, or it cannot be used.
    """

    def __init__(self, library: NvjpegLibrary, flags: int) -> None:
        self.call = Calls(library)
        self.software = self._make(Backend.NVJPEG_BACKEND_GPU_HYBRID, flags)
        self.engine: int | None = None
        self.lanes = 0
        self._idle: dict[Hashable, list[Any]] = {}
        # Re-entrant: the garbage collector may drop a borrower in the thread that holds it.
        self._lock = threading.RLock()
        try:
            engine = self._make(Backend.NVJPEG_BACKEND_HARDWARE, flags)
            self.lanes = self._count_lanes(engine)
            self.engine = engine
        except NvjpegError as error:
            if error.status == Status.NVJPEG_STATUS_ALLOCATOR_FAILURE:
                raise
            if driver.lacks_video():
                _log.warning(WITHOUT_VIDEO, error)
            elif error.status != Status.NVJPEG_STATUS_ARCH_MISMATCH:
                _log.warning("nvJPEG: cannot use the JPEG engines; the GPU's cores decode (%s)", error)

    def _make(self, backend: Backend, flags: int) -> int:
        handle = self.call.new("nvjpegCreateEx", backend, None, None, flags)
        self.call("nvjpegSetDeviceMemoryPadding", GROWTH_BYTES, handle)
        self.call("nvjpegSetPinnedMemoryPadding", GROWTH_BYTES, handle)
        return handle

    def _count_lanes(self, engine: int) -> int:
        found, name = np.zeros(2, np.uint32), "nvjpegGetHardwareDecoderInfo"
        self.call(name, engine, pointer(found[:1], name, 1), pointer(found[1:], name, 2))
        return max(int(found[0]) * int(found[1]), 1)

    def lend(self, kind: Hashable, make: Callable[[], T], borrower: object) -> tuple[T, Callable[[], object]]:
        """Return an idle object of this kind, or else ``make()``; and a function that returns it to the pool.

        The object also returns when `borrower` is dropped; otherwise nvJPEG's memory would leak with a GPU's
        last loader. It must have nothing in flight then.
        """
        with self._lock:
            idle = self._idle.get(kind)
            thing: T | None = idle.pop() if idle else None
        if thing is None:
            thing = make()
        give_back = weakref.finalize(borrower, self._put, kind, thing)
        give_back.atexit = False
        return thing, give_back

    def _put(self, kind: Hashable, thing: Any) -> None:
        with self._lock:
            self._idle.setdefault(kind, []).append(thing)


_known: dict[tuple[NvjpegLibrary, int, int], Handles] = {}
_known_lock = threading.Lock()


def handles_of(library: NvjpegLibrary, gpu: int, *, interpolate: bool = True) -> Handles:
    """Return a GPU's handles, created once per process; the GPU must be the thread's current device.

    Parameters
    ----------
    library : NvjpegLibrary
    gpu : int
        The GPU's number.
    interpolate : bool
        True: interpolate chroma, as libjpeg and Pillow do; False: replicate it.
    """
    flags = NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION if interpolate else 0
    with _known_lock:
        found = _known.get((library, gpu, flags))
        if found is None:
            found = _known[library, gpu, flags] = Handles(library, flags)
    return found
