"""torch as the owner of a GPU's memory: caching allocator, streams and events. Contains no policy.

It can run only on a GPU, and is kept short enough to verify by reading.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["TorchGpu"]


#: by GPU: streams that nobody uses any more
_idle: defaultdict[int, list[Any]] = defaultdict(list)


class TorchStream:
    """A torch stream, used again when this object is dropped.

    torch has 32 streams per GPU, and then hands them out again, also to its user: work of ours would end up
    in a stream that the user captures, or wait for it.
    """

    def __init__(self, index: int) -> None:
        import torch

        try:
            self.torch_stream: Any = _idle[index].pop()
        except IndexError:
            # torch's streams are non-blocking: they and the legacy default stream do not wait for each other.
            self.torch_stream = torch.cuda.Stream(index)  # type: ignore[no-untyped-call]
        weakref.finalize(self, _idle[index].append, self.torch_stream).atexit = False

    @property
    def handle(self) -> int:
        """Its ``cudaStream_t``."""
        return int(self.torch_stream.cuda_stream)

    def record(self, event: Any) -> None:
        """Complete `event` when all work submitted so far is done."""
        event.record(self.torch_stream)

    def wait(self, event: Any) -> None:
        """Let later work wait for `event`."""
        self.torch_stream.wait_event(event)


class TorchGpu:
    """GPU `index`, managed by torch; see `ffcv_gpu.device.base.GpuOwner`."""

    container = "tensor"

    def __init__(self, index: int) -> None:
        self.index = index

    def make_current(self) -> None:
        """Make the GPU the calling thread's current device."""
        import torch

        torch.cuda.set_device(self.index)

    def entered(self) -> Any:
        """Make the GPU current inside a with block."""
        import torch

        return torch.cuda.device(self.index)

    def total_bytes(self) -> int:
        """Return the size of the GPU's memory."""
        import torch

        return int(torch.cuda.get_device_properties(self.index).total_memory)

    def device_bytes(self, size_bytes: int) -> Any:
        """Return a uint8 tensor on the GPU."""
        import torch

        try:
            return torch.empty(max(size_bytes, 1), dtype=torch.uint8, device=f"cuda:{self.index}")
        except torch.cuda.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error

    def address(self, memory: Any) -> int:
        """Return the tensor's device address."""
        return int(memory.data_ptr())

    def pinned(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        """Return pinned memory; the array keeps its owner, a tensor, alive."""
        import torch

        try:
            memory = torch.empty(max(size_bytes, 1), dtype=torch.uint8, device="cpu", pin_memory=True)
        except RuntimeError as error:  # a failing cudaHostAlloc has no specific class
            if "out of memory" not in str(error):
                raise
            raise MemoryError(str(error)) from error
        array: npt.NDArray[np.uint8] = memory.numpy()
        return array

    def new_stream(self) -> TorchStream:
        """Create a stream."""
        return TorchStream(self.index)

    def new_event(self) -> Any:
        """Create a blocking event, for which waiting uses no CPU time; timing is off by default."""
        import torch

        return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def upload(self, source: npt.NDArray[np.uint8], memory: Any, start: int, stream: Any) -> None:
        """Copy pinned bytes to the GPU in the order of `stream`."""
        import torch

        with torch.cuda.stream(stream.torch_stream):
            memory[start : start + source.size].copy_(torch.from_numpy(source), non_blocking=True)

    def release_unused(self) -> None:
        """Empty the cache of torch's allocator."""
        import torch

        torch.cuda.empty_cache()

    def download(self, memory: Any, start: int, target: npt.NDArray[np.uint8], stream: Any) -> None:
        """Copy bytes from the GPU to pinned memory in the order of `stream`."""
        import torch

        with torch.cuda.stream(stream.torch_stream):
            torch.from_numpy(target).copy_(memory[start : start + target.size], non_blocking=True)

    def working_on(self, stream: Any) -> Any:
        """Make device and stream current."""
        import torch

        return torch.cuda.stream(stream.torch_stream)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return an uninitialised tensor for use on the current stream."""
        import torch

        try:
            return torch.empty(shape, dtype=getattr(torch, dtype), device=f"cuda:{self.index}")
        except torch.cuda.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error

    def copy(self, memory: Any, start: int, out: Any) -> None:
        """Copy bytes within the GPU, in the current stream."""
        import torch

        target = out.reshape(-1).view(torch.uint8)
        target.copy_(memory[start : start + target.numel()], non_blocking=True)

    def permuted(self, array: Any) -> Any:
        """Return a view of shape (N, C, H, W)."""
        return array.permute(0, 3, 1, 2)

    def follow_user(self, stream: Any) -> None:
        """Let `stream` wait for the calling thread's current stream."""
        import torch

        stream.torch_stream.wait_stream(torch.cuda.current_stream(self.index))

    def hand_over(self, arrays: Sequence[Any], ready: Any) -> None:
        """Let the calling thread's stream wait for `ready`; tell the allocator that it uses the tensors."""
        import torch

        consumer = torch.cuda.current_stream(self.index)
        consumer.wait_event(ready)
        for array in arrays:
            if getattr(array, "is_cuda", False):  # a user's module may return CPU tensors
                array.record_stream(consumer)
