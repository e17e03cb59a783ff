"""`CudaLaunches` on the PTX machine: the kernels as they are compiled for a GPU, launched by our own code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ffcv_gpu.device.cuda_launches import CudaLaunches
from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.pass_block import PassLayout
from tests.fake_gpu import FakeOwner, host_bytes
from tests.fake_streams import FakeStream
from tests.ptx.compiled import ptx_of
from tests.ptx.machine import launch
from tests.ptx.memory import GlobalMemory, address
from tests.ptx.program import Program, parse

__all__ = ["GpuArray", "PtxGpu", "PtxLaunches"]


class GpuArray(np.ndarray[Any, Any]):
    """An array in the machine's memory, as libraries show theirs."""

    def is_c_contiguous(self) -> bool:
        """What numba's arrays are asked."""
        return bool(self.flags.c_contiguous)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return dict(self.__array_interface__)


class PtxGpu:
    """Memory, and what launches kernels there.

    Parameters
    ----------
    patch : MonkeyPatch
        Puts the machine in the place of numba's launches.
    capability : (int, int)
        For which the kernels are compiled.
    """

    def __init__(self, patch: pytest.MonkeyPatch, capability: tuple[int, int] = (7, 5)) -> None:
        from ffcv_gpu.kernels import shell_cuda, shell_passes_cuda

        self.memory, self.launches, self._capability = GlobalMemory(), CudaLaunches(), capability
        #: instructions of all threads so far
        self.instructions = 0
        patch.setattr(shell_cuda.cuda, "as_cuda_array", self._seen, raising=False)
        for module in (shell_cuda, shell_passes_cuda):
            patch.setattr(module, "configured", self._configured)

    def array(self, values: npt.NDArray[Any]) -> GpuArray:
        """Return a copy in the GPU's memory; see `writes`."""
        memory = self.memory.allocate(values.nbytes)
        memory[:] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        return memory.view(values.dtype).reshape(values.shape).view(GpuArray)

    def writes(self, array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Return how often each byte of an array was written."""
        return self.memory.writes[address(array)]

    def _seen(self, array: Any, *, sync: bool) -> Any:
        assert not sync  # the other way waits
        return array

    def _configured(self, function: Any, grid: tuple[int, int, int], threads: int, stream: int) -> Any:
        return functools.partial(self._launch, function, grid, threads)

    def _launch(self, function: Any, grid: tuple[int, int, int], threads: int, *arguments: Any) -> None:
        types, numbers = [], []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                types.append(f"{argument.dtype}*")
                # meminfo, parent, number of items, bytes of an item, address, shape, strides
                size = argument.itemsize
                numbers += [0, 0, argument.size, size, address(argument), argument.size, size]
            else:
                types.append("int64" if isinstance(argument, int) else argument.dtype.name)
                numbers.append(int(argument))
        bounds = function.targetoptions.get("launch_bounds")
        ptx = ptx_of(function.py_func, tuple(types), self._capability, bounds)
        self.instructions += launch(parsed(ptx), self.memory, grid, threads, numbers)


@functools.cache
def parsed(ptx: str) -> Program:
    """Return `parse` of a module, which takes a tenth of a second."""
    return parse(ptx)


class PtxLaunches:
    """`GpuLaunches` of a `FakeGpu`: the kernels' PTX, in the order of the stream."""

    def __init__(self, owner: FakeOwner, gpu: PtxGpu) -> None:
        self._owner, self._gpu = owner, gpu
        self.launched = 0

    def views(self, memory: Any) -> Any:
        assert self._owner.is_current()
        return self._gpu.launches.views(host_bytes(memory).view(GpuArray))

    def compose(self, views: Any, block: BlockLayout, start: int, out: Any, stream: FakeStream) -> None:
        bits = bits_of(out)
        arrays, target = [views.pixels], bits.reshape(-1).view(np.uint8)
        if not np.may_share_memory(views.pixels, target):  # the arena holds what passes between two launches
            arrays.append(target)
        self._queue(stream, arrays, "compose", views, block, start, bits)

    def transform(
        self, views: Any, block: PassLayout, start: int, source: int, target: int, scratch: int,
        stream: FakeStream,
    ) -> None:  # fmt: skip
        places = start, source, target, scratch
        self._queue(stream, [views.pixels], "transform", views, block, *places)

    def measure(
        self, views: Any, block: BlockLayout, start: int, columns: Any, source: int, stream: FakeStream
    ) -> None:
        self._queue(stream, [views.pixels], "measure", views, block, start, columns, source)

    def _queue(self, stream: FakeStream, arrays: list[Any], name: str, *arguments: Any) -> None:
        assert self._owner.is_current()
        self.launched += 1
        run: Callable[..., None] = getattr(self._gpu.launches, name)

        def work() -> None:
            self._gpu.memory.take(arrays)
            run(*arguments, SimpleNamespace(handle=1))

        stream.submit(work)


def bits_of(out: Any) -> GpuArray:
    """Return an output, a tensor or a part of an arena, as an array of its bits."""
    if isinstance(out, torch.Tensor):
        out = (out.view(torch.int16) if out.dtype == torch.bfloat16 else out).numpy()
    bits: GpuArray = out.view(GpuArray)
    return bits
