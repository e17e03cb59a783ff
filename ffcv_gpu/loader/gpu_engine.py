"""What the GPU parts of an epoch's batches share: programs, launches, decoder and memory limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ffcv_gpu.compose import Launcher, PassLauncher, launcher
from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.device.gpu import ROOM, GpuDevice
from ffcv_gpu.errors import OutOfGpuMemory
from ffcv_gpu.jpeg.base import Encoded, JpegBackend, Ticket
from ffcv_gpu.jpeg.routing import only_on_cpu
from ffcv_gpu.loader.cpu_share import CpuShare
from ffcv_gpu.loader.gpu_layout import sample_bytes, split
from ffcv_gpu.pipeline.program import Program
from ffcv_gpu.plan import BatchPlan, ImagePayloads
from ffcv_gpu.staging import SlotRing
from ffcv_gpu.steps import IntArray
from ffcv_gpu.trace import StageClock

__all__ = ["GpuEngine", "PreparingBackend"]


#: So many standard deviations above the mean, hardly any batch makes a slot grow once more: of 40,000 batches
#: of 256 photographs of ImageNet none, of 64 three, of 8 fifty-one. With a quarter more than the first batch,
#: slots still grew in batches 840 and 1,114 of 256.
DEVIATIONS = 6
#: samples by whose sizes this is estimated
EXAMPLES = 10_000


class PreparingBackend(JpegBackend, Protocol):
    """A GPU backend whose `submit` has two steps; the first may overlap with another batch's second."""

    def prepare(self, encoded: Encoded, arena: Any, offsets: IntArray) -> Any:
        """Return the argument of `start`."""

    def start(self, prepared: Any) -> Ticket:
        """Start decoding."""


@dataclass(frozen=True)
class GpuEngine:
    """What the GPU parts of an epoch's batches share.

    Attributes
    ----------
    programs : tuple of Program
        Those that run on the GPU.
    backend : PreparingBackend or None
        Decodes on the GPU; None if the CPU decodes all JPEGs.
    host_backend : JpegBackend
        Decodes on the CPU, the samples of `share`.
    share : CpuShare
    slots : SlotRing
        Scratch memory of the worker threads.
    limit_bytes : int
        Memory that one batch in flight may take; larger ones are processed in parts.
    """

    dataset: Dataset
    programs: tuple[Program, ...]
    device: GpuDevice
    backend: PreparingBackend | None
    host_backend: JpegBackend
    share: CpuShare
    slots: SlotRing
    clock: StageClock
    workers: int
    limit_bytes: int
    launches: Mapping[str, tuple[Launcher | PassLauncher, ...]] = field(init=False)
    images: Mapping[str, tuple[str, ...]] = field(init=False)
    row_bytes: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        launches = {p.name: tuple(map(launcher, p.stages)) for p in self.programs if p.stages}
        images: dict[str, tuple[str, ...]] = {}
        row_bytes: dict[str, int] = {}
        for program in self.programs:
            if program.stages:
                images[program.field] = (*images.get(program.field, ()), program.name)
            else:
                shape, dtype = program.fused.shape or (), np.dtype(program.fused.dtype)
                row_bytes[program.field] = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        object.__setattr__(self, "launches", launches)
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "row_bytes", row_bytes)

    @property
    def host_stage(self) -> str:
        """The stage of decoding on the CPU; if the GPU decodes, too, "decode" is the wait for that."""
        return "decode" if self.backend is None else "cpu decode"

    def on_cpu(self, plan: BatchPlan, lo: int, hi: int) -> dict[str, npt.NDArray[np.bool_]]:
        """Return for each image field which of the samples [lo, hi) the CPU decodes if they are JPEGs.

        Kinds that nvJPEG cannot decode would otherwise be decoded by the thread that feeds the engines.
        """
        samples = plan.sample_ids[lo:hi]
        if self.backend is None:
            return dict.fromkeys(self.images, np.ones(samples.size, np.bool_))
        shared = self.share.takes(
            samples, self.workers, engines=bool(self.backend.capabilities.engine_images)
        )
        found = {}
        for name in self.images:
            payloads = plan.payloads[name]
            assert isinstance(payloads, ImagePayloads)
            facts = payloads.facts
            found[name] = shared if facts is None else shared | only_on_cpu(facts[lo:hi])
        return found

    def room(self, count: int) -> float:
        """Return how much larger than a batch of `count` samples others may be, as a share of its size.

        The sum of n sizes that differ by s (standard deviation, as a share of the mean) differs by s over the
        square root of n.
        """
        shares = [ROOM]
        for name in self.images:
            payloads = self.dataset.payloads(name)
            assert isinstance(payloads, ImagePayloads)
            some = payloads.take(slice(None, None, payloads.lengths.size // EXAMPLES + 1))
            for sizes in (some.lengths, some.heights * some.widths):
                shares.append(DEVIATIONS * float(sizes.std() / max(sizes.mean(), 1)) / max(count, 1) ** 0.5)
        return max(shares)

    def parts(self, plan: BatchPlan) -> list[tuple[int, int]]:
        """Return the ranges [lo, hi) of samples to process at once: one, unless the batch exceeds the limit.

        Raises
        ------
        OutOfGpuMemory
            If not even one sample fits.
        """
        sizes = sample_bytes(plan, self.launches, tuple(self.images), self.row_bytes)
        if sizes.size and int(sizes.max()) > self.limit_bytes:
            sample = int(plan.sample_ids[int(sizes.argmax())])
            raise OutOfGpuMemory(
                f"{self.dataset.name_of(sample)} needs {sizes.max() / 1e6:.0f} MB on "
                f"{self.device.name}, and a batch may take {self.limit_bytes / 1e6:.0f} MB; increase "
                f"gpu_memory_gb above {self.device.slots * sizes.max() / 1e9:.2f}"
            )
        return split(sizes, self.limit_bytes)
