"""A real GPU, through torch: the only file of the experiments that uses torch.cuda."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.device import Bytes
from benchmarks.gpu.peers import MakePeer, peers_of
from ffcv_gpu.native import driver
from ffcv_gpu.native.nvjpeg import cudart_version
from ffcv_gpu.native.nvjpeg_library import NvjpegLibrary, library

__all__ = ["TorchGpu"]

#: for which a stream is kept busy while work is submitted to it
LEAD_MILLISECONDS = 50.0


class _TorchMemory:
    def __init__(self, tensor: Any) -> None:
        self.tensor, self.address, self.size = tensor, tensor.data_ptr(), tensor.numel()


class TorchGpu:
    """See `benchmarks.gpu.device.Gpu`."""

    rehearsal = False

    def __init__(self, index: int = 0) -> None:
        import torch

        if not torch.cuda.is_available():
            build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
            raise RuntimeError(f"torch {torch.__version__}, built for {build}, finds no GPU")
        self._torch, self._cuda, self._index = torch, torch.cuda, index
        self._cuda.set_device(index)
        self._device, self.name = torch.device("cuda", index), f"cuda:{index}"
        self._cycles = 0.0

    def facts(self) -> dict[str, Any]:
        """Describe the GPU in a result."""
        properties = self._cuda.get_device_properties(self._index)
        found = library()
        return {
            "gpu": properties.name,
            "capability": list(self._cuda.get_device_capability(self._index)),
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "driver_cuda": driver.driver_version(),
            "torch_cuda": self._torch.version.cuda,
            "nvjpeg": list(found.version),
            "nvjpeg_origin": found.origin,
            "nvjpeg_cudart": list(cudart_version(found.functions)),
            **_smi(self._index),
        }

    def library(self) -> NvjpegLibrary:
        """Return nvJPEG as ffcv_gpu finds it."""
        return library()

    def use(self) -> None:
        self._cuda.set_device(self._index)

    def memory(self, size: int) -> _TorchMemory:
        return _TorchMemory(self._torch.empty(max(size, 1), dtype=self._torch.uint8, device=self._device))

    def pinned(self, size: int) -> Bytes:
        array: Bytes = self._torch.empty(max(size, 1), dtype=self._torch.uint8, pin_memory=True).numpy()
        return array

    def pageable(self, size: int) -> Bytes:
        return np.empty(max(size, 1), np.uint8)

    def stream(self) -> Any:
        return self._cuda.Stream(self._device)

    def handle(self, stream: Any) -> int:
        return int(stream.cuda_stream)

    def current(self, stream: Any) -> Any:
        return self._cuda.stream(stream)

    def event(self) -> Any:
        return self._cuda.Event(enable_timing=False, blocking=True)

    def record(self, event: Any, stream: Any) -> None:
        event.record(stream)

    def wait(self, stream: Any, event: Any) -> None:
        stream.wait_event(event)

    def await_event(self, event: Any) -> None:
        event.synchronize()

    def synchronize(self, stream: Any = None) -> None:
        if stream is None:
            self._cuda.synchronize(self._index)
        else:
            stream.synchronize()

    def fill(self, memory: Any, value: int, stream: Any = None) -> None:
        with self._cuda.stream(stream):
            memory.tensor.fill_(value)

    def copy(self, source: Any, target: Any, stream: Any) -> None:
        with self._cuda.stream(stream):
            target.tensor.copy_(source.tensor, non_blocking=True)

    def upload(self, source: Bytes, target: Any, stream: Any) -> None:
        with self._cuda.stream(stream):
            part = target.tensor[: source.size]
            part.copy_(self._torch.from_numpy(source), non_blocking=True)

    def download(self, memory: Any) -> Bytes:
        self.synchronize()
        array: Bytes = memory.tensor.cpu().numpy()
        return array

    def equal(self, one: Any, other: Any) -> bool:
        return bool(self._torch.equal(one.tensor, other.tensor))

    def host(self, array: Any) -> npt.NDArray[Any]:
        return np.asarray(array.cpu() if hasattr(array, "cpu") else array)

    def clone(self, array: Any) -> Any:
        return array.clone()

    def spin(self, milliseconds: float, stream: Any) -> None:
        if not self._cycles:
            self._cycles = self._cycles_per_millisecond()
        with self._cuda.stream(stream):
            self._cuda._sleep(int(milliseconds * self._cycles))

    def span(self, work: Callable[[], None], stream: int) -> float:
        given = self._cuda.ExternalStream(stream, self._device)
        start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        self.spin(LEAD_MILLISECONDS, given)
        start.record(given)
        work()
        late = start.query()
        end.record(given)
        end.synchronize()
        if late:
            raise RuntimeError(f"submitting took longer than {LEAD_MILLISECONDS} ms: the stream ran empty")
        return float(start.elapsed_time(end)) / 1000

    def _cycles_per_millisecond(self) -> float:
        cycles = 20_000_000
        start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(2):  # the first warms up
            start.record()
            self._cuda._sleep(cycles)
            end.record()
            self.synchronize()
        return float(cycles / start.elapsed_time(end))

    def load(self) -> Callable[[], None]:
        torch, stream = self._torch, self.stream()
        with self._cuda.stream(stream):
            left, right = (torch.randn(4096, 4096, device=self._device, dtype=torch.bfloat16) for _ in "ab")

        def step() -> None:
            with self._cuda.stream(stream):
                for _ in range(10):
                    torch.matmul(left, right)
            stream.synchronize()

        return step

    def training(self, network: str, batch_size: int) -> Callable[[Any], None]:
        from torchvision.models import get_model

        torch = self._torch
        model = get_model(network).to(self._device, memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        labels = torch.zeros(batch_size, dtype=torch.int64, device=self._device)

        def step(images: Any) -> None:
            with torch.autocast("cuda", torch.bfloat16):
                scores = model(images.contiguous(memory_format=torch.channels_last))
                loss = torch.nn.functional.cross_entropy(scores, labels[: len(images)])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return step

    def images(self, batch_size: int, side: int) -> Any:
        return self._torch.randn(batch_size, 3, side, side, device=self._device, dtype=self._torch.float16)

    def peers(self, part: str) -> Mapping[str, MakePeer]:
        return peers_of(part, self._index)

    def free_bytes(self) -> int:
        return int(self._cuda.mem_get_info(self._index)[0])

    def broken(self) -> str:
        try:
            self.synchronize()
            self._torch.zeros(8, device=self._device).add_(1).sum().item()
        except RuntimeError as error:
            return str(error).splitlines()[0]
        return ""

    def apart(self, one: Sequence[Any], other: Sequence[Any]) -> tuple[int, float]:
        a, b = (self._torch.cat([image.reshape(-1) for image in images]) for images in (one, other))
        found = (a.to(self._torch.int16) - b).abs_()
        return int(found.max().item()), float(found.float().mean().item())

    def context_waits(self, how: str) -> int:
        modes = {"auto": 0, "spin": 1, "yield": 2, "block": 4}
        return int(ctypes.CDLL("libcuda.so.1").cuDevicePrimaryCtxSetFlags_v2(self._index, modes[how]))

    def activities(self, work: Callable[[], None]) -> dict[str, dict[str, tuple[int, float]]]:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
            work()
        calls, kernels = {}, {}
        for row in found.key_averages():
            on_gpu = float(row.self_device_time_total) / 1000
            if row.key.startswith(("cuda", "cu")):
                calls[row.key] = int(row.count), round(float(row.self_cpu_time_total) / 1000, 3)
            elif on_gpu:
                kernels[row.key] = int(row.count), round(on_gpu, 3)
        return {"calls": calls, "kernels": kernels}


def _smi(index: int) -> dict[str, Any]:
    """Return values of nvidia-smi; none if it is missing."""
    wanted = {"driver_version": "driver", "clocks.sm": "clock_sm_mhz", "clocks.mem": "clock_memory_mhz",
              "clocks.max.sm": "clock_sm_max_mhz", "power.limit": "power_limit_w"}  # fmt: skip
    command = [
        "nvidia-smi",
        f"--id={index}",
        f"--query-gpu={','.join(wanted)}",
        "--format=csv,noheader,nounits",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(wanted.values(), (value.strip() for value in done.stdout.split(",")), strict=False))
