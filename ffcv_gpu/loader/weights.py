"""How much work samples are on the CPU, and so how many batches are in progress at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ffcv_gpu.device import GpuDevice, lane_count, least_reading
from ffcv_gpu.format import ImageMode
from ffcv_gpu.pipeline.program import Program
from ffcv_gpu.plan import ImagePayloads, Payloads
from ffcv_gpu.steps import IntArray
from ffcv_gpu.transforms.ops import item_size

__all__ = [
    "HERE_BYTES",
    "IN_FLIGHT",
    "MOST_IN_FLIGHT",
    "BatchWeight",
    "batch_weight",
    "batches_in_flight",
    "bundle_size",
    "sharing",
    "weights",
]

#: batches whose lanes are queued at once: while the last lanes of one finish, the next keeps workers busy
IN_FLIGHT = 2
#: lanes for each worker that are queued behind the oldest batch
QUEUED_LANES = 2
#: limit for memory's sake, where each worker has a batch of its own
MOST_IN_FLIGHT = 10
#: a batch of at most this weight is processed by the thread that waits for it: passing it to another one
#: would take longer
HERE_BYTES = 8 << 10
#: a batch of at most this weight is not split: whole images of 64 px, 256 a batch, load 1.4 times as fast
LIGHT_BYTES = 1 << 20
#: limits of a bundle: what a batch costs in Python is little then. Whole images of 64 px, 256 a batch, take
#: 660 us a batch, 880 with half of the first and third limit, 1,300 without bundles; with twice as much 590,
#: but that would be up to 320 MB of memory in progress
BUNDLE_BYTES = 4 << 20
BUNDLE_SAMPLES = 16_384
BUNDLE_OUTPUT_BYTES = 16 << 20
MOST_BUNDLED = 64
#: samples whose mean weight stands for all
EXAMPLES = 256
JPEG = int(ImageMode.JPEG)


def weights(payloads: Sequence[Payloads], count: int) -> npt.NDArray[np.int64]:
    """Return the approximate work of `count` samples, in bytes of pixels to decode, int64 (count,).

    Raw pixels take a quarter of it (CIFAR-10 loads 7 % faster than if they counted in full, whole images of
    64 px 1.9 times as fast: fewer lanes), arrays and byte strings, which are only copied, a sixteenth.
    """
    total = np.ones(count, np.int64)
    for found in payloads:
        if isinstance(found, ImagePayloads):
            pixels = 3 * found.heights * found.widths
            total += np.where(found.modes == JPEG, pixels, pixels // 4)
        else:
            total += found.lengths // 16
    return total


@dataclass(frozen=True)
class BatchWeight:
    """An epoch's mean batch: samples, work in the bytes of `weights`, and bytes of its outputs."""

    samples: float
    bytes: float
    output_bytes: float


def batch_weight(
    programs: Sequence[Program], payloads: Mapping[str, Payloads], indices: IntArray, samples: float
) -> BatchWeight:
    """Return what a batch of `samples` samples is, on the average.

    Parameters
    ----------
    programs : sequence of Program
    payloads : mapping of str to Payloads
        For each field with payloads, the arrays of the whole file.
    indices : int64 (n,)
        The loader's rows of the file.
    samples : float
    """
    rows = indices[:: max(1, indices.size // EXAMPLES)]
    examples = [payloads[name].take(rows) for name in {p.field for p in programs} if name in payloads]
    weight = float(weights(examples, rows.size).mean()) if examples and rows.size else 0.0
    made = [p.fused for p in programs if p.fused.shape is not None and p.fused.dtype is not None]
    output = sum(math.prod(spec.shape or ()) * item_size(str(spec.dtype)) for spec in made)
    return BatchWeight(samples, samples * weight, samples * output)


def bundle_size(programs: Sequence[Program], batch: BatchWeight, gpu: GpuDevice | None) -> int:
    """Return how many batches are made as one: several, if they are light and nothing else is done to them.

    One, if an output has steps that work on finished batches, or with a GPU, whose batches are large.
    """
    plain = all(program.only_reshaped and not program.decoder.gives_rows for program in programs)
    if gpu is not None or not plain:
        return 1
    limits = (
        BUNDLE_BYTES / max(batch.bytes, 1),
        BUNDLE_SAMPLES / max(batch.samples, 1),
        BUNDLE_OUTPUT_BYTES / max(batch.output_bytes, 1),
    )
    return max(1, min(MOST_BUNDLED, int(min(limits))))


def batches_in_flight(
    programs: Sequence[Program], weight: float, bundle: int, workers: int, gpu: GpuDevice | None
) -> int:
    """Return how many batches (bundles) of an epoch are in progress at once.

    Two, if all workers share each batch; more where lanes that keep many workers busy are those of several
    batches. One per worker, and two that wait (one batch takes longer than another), if batches are light or
    bundled, or if some steps process a batch as a whole. With a GPU, as many as it has slots, because further
    ones would wait for a slot and only keep outputs in its memory: while one batch is being decoded, the next
    has been read and waits, and one more is being read. With two, the decoding engines idle whenever one read
    takes longer than decoding.

    Parameters
    ----------
    programs : sequence of Program
    weight : float
        The work of a batch or bundle, see `weights`.
    bundle, workers : int
    gpu : GpuDevice or None
    """
    if gpu is not None:
        return max(IN_FLIGHT, gpu.slots)
    light = HERE_BYTES < weight <= (LIGHT_BYTES if bundle == 1 else BUNDLE_BYTES)
    if light or any(program.early for program in programs):
        return min(workers + 2, MOST_IN_FLIGHT)
    if weight <= HERE_BYTES:
        return IN_FLIGHT
    behind = math.ceil(QUEUED_LANES * workers / lane_count(int(weight), workers, least_reading(workers)))
    return min(max(IN_FLIGHT, 1 + behind), MOST_IN_FLIGHT)


def sharing(workers: int, in_flight: int, *, whole: bool) -> int:
    """Return among how many workers a batch is split.

    All of them; or, if some steps process it as a `whole`, as many as each batch has if one of those in
    progress waits.
    """
    return -(-workers // (in_flight - 1)) if whole else workers
