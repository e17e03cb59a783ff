"""A fake nvJPEG at the C-API boundary, so that what drives nvJPEG can be tested without a GPU.

`FakeNvjpeg` has the attributes of a library bound by `ffcv_gpu.native.nvjpeg.bind`: real ctypes functions
of the same prototypes, which take the same arguments and return the same statuses. "Device memory" is
host memory; pixels are libjpeg-turbo's and appear only when the (fake) stream is waited for.

    with FakeNvjpeg(engines=7) as library:
        handle = ctypes.c_void_p()
        check(library.nvjpegCreateEx(3, None, None, 0, ctypes.byref(handle)), "nvjpegCreateEx")

It is as unkind as the guide says the real one may be:

- the engine overwrites its output before earlier work of the stream is done (rule 3), and until its place
  in the stream comes there are wrong pixels;
- one bad image fails the whole batch, after the images before it were decoded; then the state needs
  ``nvjpegDecodeBatchedInitialize`` again (rule 7);
- on request it fails any call (`FakeNvjpeg.fail`), refuses single images (`bad_image`), or skips them in
  silence (`skip_image`, rule 8);
- what would crash or corrupt memory in the real library is written to `mistakes`; leaving the ``with``
  block raises if there are any.

What is measured and what is assumed of the real library is said where it is done: the parser, the support
query of the software backends, parameters and buffers behave as the real library was seen to; what GPUs
and engines do is the guide's word, but for what an H200 was asked: the engine's sides and frames, and
JPEGs of red, green and blue, to which no decoder gives their colours.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import traceback
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy.typing as npt

from ffcv_gpu.native import nvjpeg
from ffcv_gpu.native.nvjpeg_library import NvjpegLibrary
from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status
from tests.fake_nvjpeg_decode import GPU_HUFFMAN_ABOVE, Fault, ImageFault
from tests.fake_nvjpeg_images import Refused
from tests.fake_nvjpeg_objects import Decoder, Exclusive, Handle, State
from tests.fake_nvjpeg_phases import Phases
from tests.fake_streams import FakeStreams

__all__ = ["GPU_HUFFMAN_ABOVE", "Call", "FakeNvjpeg", "Memory"]

BATCHED = ("nvjpegDecodeBatched", "nvjpegDecodeBatchedEx")


@dataclass(frozen=True)
class Call:
    """One call that was made: `backend` of its decoder or handle, `images` of its batch (else 0)."""

    name: str
    status: int
    backend: int | None
    images: int
    thread: int


class Memory:
    """Pieces of memory that may be used: arrays are added, addresses asked for. Keeps the arrays alive."""

    def __init__(self, *arrays: npt.NDArray[Any]) -> None:
        self._arrays = list(arrays)

    def add(self, array: npt.NDArray[Any]) -> None:
        """Allow the memory of one more array."""
        self._arrays.append(array)

    def __call__(self, address: int, size_bytes: int) -> bool:
        """Say whether all of it lies in one array."""
        return any(
            array.ctypes.data <= address and address + size_bytes <= array.ctypes.data + array.nbytes
            for array in self._arrays
        )


class FakeNvjpeg(Phases):
    """See the module.

    Parameters
    ----------
    engines, cores : int
        JPEG engines of the GPU (0: none, as T4 and A10) and cores of each.
    driver : bool
        False: creation fails as without a driver.
    version : tuple
        What it says of itself.
    streams : FakeStreams, optional
        Where ``cudaStream_t`` handles come from; its own by default, as attribute `streams`.
    is_current : callable() -> bool, optional
        Whether the calling thread's current GPU is this one: no call may be made otherwise.
    device_memory, host_memory : callable(address, size_bytes) -> bool, optional
        Where pixels may be written and compressed bytes be read (`Memory`). With `host_memory`, bytes that
        change while their decode is queued are noticed, too. Without, any address is believed.

    Attributes
    ----------
    calls : list of Call
        All calls so far.
    decoded : Counter
        Images by who decoded their Huffman codes: "engine", "gpu huffman", "cpu huffman".
    mistakes : list of str
        What the caller must not do.
    """

    def __init__(
        self,
        *,
        engines: int = 0,
        cores: int = 1,
        driver: bool = True,
        version: tuple[int, int, int] = (13, 2, 3),
        streams: FakeStreams | None = None,
        is_current: Callable[[], bool] | None = None,
        device_memory: Callable[[int, int], bool] | None = None,
        host_memory: Callable[[int, int], bool] | None = None,
    ) -> None:
        streams = streams or FakeStreams()
        super().__init__(engines=engines, cores=cores, driver=driver, version=version, streams=streams)
        self.device_memory, self.host_memory = device_memory, host_memory
        self.is_current = is_current
        self.calls: list[Call] = []
        self._faults: list[Fault] = []
        for name, arguments in nvjpeg.PROTOTYPES.items():
            kind = ctypes.CFUNCTYPE(ctypes.c_int, *arguments)
            setattr(self, name, kind(functools.partial(self._call, name)))

    def __enter__(self) -> FakeNvjpeg:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.verify()

    def verify(self) -> None:
        """Raise if the library was used in a way that the real one forbids."""
        assert not self.mistakes, "\n".join(self.mistakes)

    def as_library(self) -> NvjpegLibrary:
        """Return it in the form that discovery gives."""
        functions: Any = self
        return NvjpegLibrary(functions, "fake", "fake", self.version)

    # ---- what shall go wrong

    def fail(
        self, call: str, status: int, *, times: int | None = 1, after: int = 0, written: int = 0
    ) -> None:
        """Let calls return `status`.

        Parameters
        ----------
        call : str
            The function's name.
        status : int
            An nvjpegStatus_t.
        times : int or None
            How many calls; None: all from now on.
        after : int
            How many calls succeed before.
        written : int
            Of a batched call: how many of its first images are decoded all the same.
        """
        assert call in nvjpeg.PROTOTYPES
        self._faults.append(Fault(call, status, times, after, written))

    def bad_image(
        self,
        which: bytes | Callable[[bytes], bool],
        status: int = Status.NVJPEG_STATUS_BAD_JPEG,
        *,
        backends: Container[int] | None = None,
    ) -> None:
        """Let one image (these bytes, or those a predicate takes) fail, on `backends` only or on all."""
        self._image_faults.append(ImageFault(_matcher(which), status, backends))

    def skip_image(
        self, which: bytes | Callable[[bytes], bool], *, backends: Container[int] | None = None
    ) -> None:
        """Let calls with this image succeed without a pixel of it written."""
        self._image_faults.append(ImageFault(_matcher(which), None, backends))

    # ---- every call

    def _call(self, name: str, *arguments: Any) -> int:
        objects = [self._objects.get(a) for a in arguments if isinstance(a, int)]
        if self.is_current is not None and not self.is_current():
            self._mistake(f"{name}: this is not the GPU that is current in the calling thread")
        images = 0
        try:
            with self._one_thread(name, objects):
                fault, decode = self._fault(name), getattr(self, f"_{name}")
                if name in BATCHED:
                    images = next((o.batch_size for o in objects if isinstance(o, State)), 0)
                    decode(*arguments, fault)
                elif fault is not None:
                    raise Refused(fault.status)
                else:
                    decode(*arguments)
            status = 0
        except Refused as refused:
            status = refused.status
        except Exception:  # noqa: BLE001 - nothing can be raised through a C function
            self._mistake(f"the fake itself failed in {name}:\n{traceback.format_exc()}")
            status = int(Status.NVJPEG_STATUS_INTERNAL_ERROR)
        deciders = [o for kind in (Decoder, Handle) for o in objects if isinstance(o, kind)]
        backend = deciders[0].backend if deciders else None
        self.calls.append(Call(name, status, backend, images, threading.get_ident()))
        return status

    def _fault(self, name: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.call != name or fault.times == 0:
                    continue
                if fault.after:
                    fault.after -= 1
                    continue
                fault.times = None if fault.times is None else fault.times - 1
                return fault
        return None

    @contextmanager
    def _one_thread(self, name: str, objects: list[Any]) -> Iterator[None]:
        """States, bitstreams, parameters and buffers belong to one thread at a time."""
        me, mine = threading.get_ident(), []
        with self._lock:
            for found in objects:
                if not isinstance(found, Exclusive):
                    continue
                if found.user is not None:
                    self._mistake(f"{name}: a {type(found).__name__} is in use by another thread")
                else:
                    found.user = me
                    mine.append(found)
        try:
            yield
        finally:
            for found in mine:
                found.user = None


def _matcher(which: bytes | Callable[[bytes], bool]) -> Callable[[bytes], bool]:
    return which if callable(which) else lambda data: data == which
