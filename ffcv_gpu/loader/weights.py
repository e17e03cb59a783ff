"""How much work samples are on the CPU, and so how many batches are in progress at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ffcv_gpu.device import GpuDevice
from ffcv_gpu.format import ImageMode
from ffcv_gpu.pipeline.program import Program
from ffcv_gpu.plan import ImagePayloads, Payloads
from ffcv_gpu.steps import IntArray

__all__ = ["HERE_BYTES", "IN_FLIGHT", "MOST_IN_FLIGHT", "batches_in_flight", "sharing", "weights"]

#: batches whose lanes are queued at once: while the last lanes of one finish, the next keeps workers busy
IN_FLIGHT = 2
#: limit for memory's sake, where each worker has a batch of its own
MOST_IN_FLIGHT = 10
#: a batch of at most this weight is processed by the thread that waits for it: passing it to another one
#: would take longer
HERE_BYTES = 8 << 10
#: a batch of at most this weight is not split: whole images of 64 px, 256 a batch, load 1.4 times as fast
LIGHT_BYTES = 1 << 20
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


def batches_in_flight(
    programs: Sequence[Program],
    payloads: Mapping[str, Payloads],
    indices: IntArray,
    batch_size: int,
    workers: int,
    gpu: GpuDevice | None,
) -> int:
    """Return how many batches of an epoch are in progress at once.

    Two, if the workers share each batch. One per worker, and two that wait (one batch takes longer than
    another), if batches are light, or if some steps process a batch as a whole. With a GPU, as many as it has
    slots, because further ones would wait for a slot and only keep outputs in its memory: while one batch is
    being decoded, the next has been read and waits, and one more is being read. With two, the decoding
    engines idle whenever one read takes longer than decoding.

    Parameters
    ----------
    programs : sequence of Program
    payloads : mapping of str to Payloads
        For each field with payloads, the arrays of the whole file.
    indices : int64 (n,)
        The loader's rows of the file.
    batch_size, workers : int
    gpu : GpuDevice or None
    """
    if gpu is not None:
        return max(IN_FLIGHT, gpu.slots)
    rows = indices[:: max(1, indices.size // EXAMPLES)]
    examples = [payloads[name].take(rows) for name in {p.field for p in programs} if name in payloads]
    weight = float(weights(examples, rows.size).mean()) * batch_size if examples and rows.size else 0.0
    undivided = HERE_BYTES < weight <= LIGHT_BYTES or any(program.early for program in programs)
    return min(workers + 2, MOST_IN_FLIGHT) if undivided else IN_FLIGHT


def sharing(workers: int, in_flight: int) -> int:
    """Return among how many workers a batch is split, if one of the batches in progress waits."""
    return -(-workers // (in_flight - 1))
