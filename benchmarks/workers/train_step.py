"""The training step that every loader feeds, and how an epoch of it is measured.

Any iterable of (images, labels) can feed it: images (N, 3, H, W) channels last, normalised, labels int64
(N,), both on `Step.device`. Runs in any peer's environment: it imports only torch and the standard library.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Answer = dict[str, Any]


def convolution(inside: int, outside: int, side: int, stride: int) -> nn.Sequential:
    """Return a convolution and its BatchNorm."""
    layer = nn.Conv2d(inside, outside, side, stride, side // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outside))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(inside, outside, 3, stride)
        self.second = convolution(outside, outside, 3, 1)
        same = stride == 1 and inside == outside
        self.shortcut = nn.Identity() if same else convolution(inside, outside, 1, stride)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features, at half the resolution if the block has stride 2."""
        return F.relu(self.second(F.relu(self.first(images))) + self.shortcut(images))


def network(width: float, classes: int) -> nn.Module:
    """Return ResNet-18 (He et al., arXiv:1512.03385) with `width` times its channels."""
    inside = max(8, round(64 * width))
    layers: list[nn.Module] = [convolution(3, inside, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for number in range(4):
        outside = max(8, round(64 * width)) * 2**number
        layers += [Block(inside, outside, 2 if number else 1), Block(outside, outside, 1)]
        inside = outside
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, classes))


class Step:
    """Forward, backward and SGD with momentum of one batch, on the GPU if there is one.

    Attributes
    ----------
    device : str
    dtype : torch.dtype
        Of the images: bfloat16 on a GPU, float32 on a CPU.
    """

    def __init__(self, width: float, classes: int, device: str = "") -> None:
        torch.manual_seed(0)
        self.device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
        self.on_gpu = self.device != "cpu"
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        torch.backends.cudnn.benchmark = True
        self._network = network(width, classes).to(self.device, memory_format=torch.channels_last)
        self._optimiser = torch.optim.SGD(self._network.parameters(), lr=0.01, momentum=0.9)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Train on a batch; on a GPU, asynchronously."""
        with torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.on_gpu):
            loss = F.cross_entropy(self._network(images).float(), labels)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()

    def wait(self) -> None:
        """Wait for the GPU."""
        if self.on_gpu:
            torch.cuda.synchronize()


def measured(step: Step, batches: Iterable[Any], clock: Any, cores: int) -> Answer:
    """Train on all batches.

    Parameters
    ----------
    step : Step
    batches : iterable of (images, labels)
        Creating the iterator is timed, too.
    clock : callable
        Returns a ``protocol.Clock``.
    cores : int
        Number of cores that this process may use.

    Returns
    -------
    dict
        The clock's answer and: images; wait_seconds, the time waiting for batches; idle_share, the unused
        share of the cores' time; on a GPU, gpu_idle_share, the share of time between steps.
    """
    step.wait()
    watch, images, wait, events = clock(), 0, 0.0, []
    iterator = iter(batches)
    while True:
        asked = time.perf_counter()
        batch = next(iterator, None)
        wait += time.perf_counter() - asked
        if batch is None:
            break
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2 * step.on_gpu)]
        if marks:
            marks[0].record()
        step(batch[0], batch[1])
        if marks:
            marks[1].record()
            events.append(marks)
        images += len(batch[0])
    step.wait()
    answer: Answer = watch.answer()
    busy = answer["cpu_seconds"] + answer["others_cpu_seconds"]
    idle = max(0.0, 1 - busy / (cores * answer["seconds"]))
    answer |= {"images": images, "wait_seconds": wait, "idle_share": idle}
    if events:
        on_gpu = sum(begin.elapsed_time(end) for begin, end in events) / 1000
        answer["gpu_idle_share"] = max(0.0, 1 - on_gpu / answer["seconds"])
    return answer


class Kept:
    """Batches in memory, repeated: a loader without cost."""

    def __init__(self, batches: Iterable[Any], count: int) -> None:
        self._kept = list(batches)
        self._count = count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(itertools.cycle(self._kept), self._count)
