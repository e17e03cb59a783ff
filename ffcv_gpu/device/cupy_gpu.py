"""CuPy as the owner of a GPU's memory, if torch is not installed. Contains no policy.

CuPy's pool reuses freed memory at once, in the order of one stream, and does not know of other streams that
read it. Outputs are therefore buffers managed here: they return when their last array is dropped, with an
event that marks the work submitted to the consumer's stream until then.

It can run only on a GPU, and is kept short enough to verify by reading.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CupyGpu"]


class CupyStream:
    """A CuPy stream."""

    def __init__(self) -> None:
        import cupy

        self.cupy_stream = cupy.cuda.Stream(non_blocking=True)

    @property
    def handle(self) -> int:
        """Its ``cudaStream_t``."""
        return int(self.cupy_stream.ptr)

    def record(self, event: Any) -> None:
        """Complete `event` when all work submitted so far is done."""
        event.record(self.cupy_stream)

    def wait(self, event: Any) -> None:
        """Let later work wait for `event`."""
        self.cupy_stream.wait_event(event)


class _Output:
    """Owns the memory of one output; `readers` are the streams that received it."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory
        self.readers: list[Any] = []


class CupyGpu:
    """GPU `index`, managed by CuPy; see `ffcv_gpu.device.base.GpuOwner`."""

    container = "cupy"

    def __init__(self, index: int) -> None:
        self.index = index
        # Re-entrant: the garbage collector may drop an output in the thread that holds it.
        self._lock = threading.RLock()
        self._free: dict[int, list[tuple[Any, list[Any]]]] = {}
        self._outputs: weakref.WeakValueDictionary[int, _Output] = weakref.WeakValueDictionary()

    def make_current(self) -> None:
        """Make the GPU the calling thread's current device."""
        import cupy

        cupy.cuda.Device(self.index).use()

    def entered(self) -> AbstractContextManager[Any]:
        """Make the GPU current inside a with block."""
        import cupy

        device: AbstractContextManager[Any] = cupy.cuda.Device(self.index)
        return device

    def total_bytes(self) -> int:
        """Return the size of the GPU's memory."""
        import cupy

        return int(cupy.cuda.Device(self.index).mem_info[1])

    def device_bytes(self, size_bytes: int) -> Any:
        """Return a uint8 array on the GPU."""
        import cupy

        try:
            with cupy.cuda.Device(self.index):
                return cupy.empty(max(size_bytes, 1), cupy.uint8)
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error

    def address(self, memory: Any) -> int:
        """Return the array's device address."""
        return int(memory.data.ptr)

    def pinned(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        """Return pinned memory; the array keeps its owner, the block, alive."""
        import cupy

        try:
            block = cupy.cuda.alloc_pinned_memory(max(size_bytes, 1))
        except cupy.cuda.runtime.CUDARuntimeError as error:
            if error.status != cupy.cuda.runtime.errorMemoryAllocation:
                raise
            raise MemoryError(str(error)) from error
        return np.frombuffer(block, np.uint8, size_bytes)

    def new_stream(self) -> CupyStream:
        """Create a stream."""
        with self.entered():
            return CupyStream()

    def new_event(self) -> Any:
        """Create an event without timing, for which waiting uses no CPU time."""
        import cupy

        with self.entered():
            return cupy.cuda.Event(block=True, disable_timing=True)

    def upload(self, source: npt.NDArray[np.uint8], memory: Any, start: int, stream: Any) -> None:
        """Copy pinned bytes to the GPU in the order of `stream`."""
        target = memory[start : start + source.size]
        target.data.copy_from_host_async(source.ctypes.data, source.nbytes, stream.cupy_stream)

    def release_unused(self) -> None:
        """Empty CuPy's pool."""
        import cupy

        with self._lock:
            self._let_go()
        with self.entered():
            cupy.get_default_memory_pool().free_all_blocks()

    def download(self, memory: Any, start: int, target: npt.NDArray[np.uint8], stream: Any) -> None:
        """Copy bytes from the GPU to pinned memory in the order of `stream`."""
        source = memory[start : start + target.size]
        source.data.copy_to_host_async(target.ctypes.data, target.nbytes, stream.cupy_stream)

    def working_on(self, stream: Any) -> AbstractContextManager[Any]:
        """Make device and stream current."""
        import cupy

        both = ExitStack()
        both.enter_context(cupy.cuda.Device(self.index))
        both.enter_context(stream.cupy_stream)
        return both

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return an uninitialised array for use on the current stream."""
        import cupy

        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        with self._lock:
            free = self._free.get(size)
            memory, readers = free.pop() if free else (None, [])
            if memory is None:
                self._let_go()
        for event in readers:
            cupy.cuda.get_current_stream().wait_event(event)
        output = _Output(self.device_bytes(size) if memory is None else memory)
        weakref.finalize(output, self._give_back, size, output.memory, output.readers).atexit = False
        address = self.address(output.memory)
        self._outputs[address] = output
        owned = cupy.cuda.UnownedMemory(address, max(size, 1), output, self.index)
        return cupy.ndarray(shape, np.dtype(dtype), cupy.cuda.MemoryPointer(owned, 0))

    def _let_go(self) -> None:
        """Return unread memory to CuPy's pool: output sizes change, in `decode_jpegs` with each call."""
        for size in list(self._free):
            read = [one for one in self._free.pop(size) if not all(mark.done for mark in one[1])]
            if read:
                self._free.setdefault(size, []).extend(read)

    def _give_back(self, size: int, memory: Any, readers: list[Any]) -> None:
        marks = [self.new_event() for _ in readers]
        with self.entered():  # the default stream is the current device's
            for mark, stream in zip(marks, readers, strict=True):
                mark.record(stream)
        with self._lock:
            self._free.setdefault(size, []).append((memory, marks))

    def copy(self, memory: Any, start: int, out: Any) -> None:
        """Copy bytes within the GPU, in the current stream."""
        import cupy

        out.data.copy_from_device_async(memory[start:].data, out.nbytes, cupy.cuda.get_current_stream())

    def permuted(self, array: Any) -> Any:
        """Return a view of shape (N, C, H, W)."""
        return array.transpose(0, 3, 1, 2)

    def follow_user(self, stream: Any) -> None:
        """Let `stream` wait for the calling thread's current stream."""
        import cupy

        submitted = self.new_event()
        with self.entered():
            submitted.record(cupy.cuda.get_current_stream(self.index))
            stream.wait(submitted)

    def hand_over(self, arrays: Sequence[Any], ready: Any) -> None:
        """Let the calling thread's stream wait for `ready`, and record it as a reader of each output."""
        import cupy

        consumer = cupy.cuda.get_current_stream(self.index)
        with self.entered():
            consumer.wait_event(ready)
        for array in arrays:
            output = self._outputs.get(int(array.data.mem.ptr))
            if output is not None:
                output.readers.append(consumer)
