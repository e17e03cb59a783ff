"""Which of a GPU batch's JPEGs the worker threads decode, while the GPU decodes the others.

The choice is made per sample, by its number alone, so that with a fixed share an image always has the same
decoder. The balanced share follows from times that are measured all along.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps import IntArray

__all__ = ["BALANCED", "CpuShare", "Effort", "checked_share"]

#: ``Loader(cpu_share="auto")``
BALANCED = "auto"
#: the balanced share until both decoders have been timed
FIRST_SHARE = 1 / 16
#: How busy the one that comes first is meant to be before the other one helps, and how busy the threads may
#: be beside the GPU: batches differ, and a GPU that waits for threads loses more than they gain.
KEEP_BUSY = 0.9
#: a GPU that decodes for more than this share of the time between two batches is what all wait for
SATURATED = 0.97
#: latest batches, and latest pieces of batches, that count
BATCHES, PIECES = 8, 32
#: 2**64 divided by the golden ratio: multiples of it are spread evenly over 64 bits (Knuth, The Art of
#: Computer Programming 3, section 6.4), so that also consecutive samples are divided evenly.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass
class Effort:
    """What one thread did for a piece of a batch: its JPEGs, how many of them it decoded, and the seconds."""

    jpegs: int = 0
    decoded: int = 0
    decoding_seconds: float = 0.0
    seconds: float = 0.0


class _Latest(deque[tuple[float, int]]):
    """The latest measurements: seconds, and for how many images."""

    def __init__(self, count: int) -> None:
        super().__init__(maxlen=count)

    def mean(self) -> float:
        """Return the seconds per image of all, including stalls."""
        return sum(seconds for seconds, _ in self) / sum(count for _, count in self)

    def median(self) -> float:
        """Return the median of the seconds per image, without stalls: nvJPEG's first calls create states."""
        return median(seconds / count for seconds, count in self)


class CpuShare:
    """The share of the JPEGs that the CPU decodes: fixed, or balanced by measured times. Thread-safe.

    Balanced means that worker threads and GPU finish a batch at about the same time. With all times per JPEG
    of a batch: the GPU decodes one in g, a thread in c; all else takes the threads r together, and batches
    follow each other every t. The threads need `KEEP_BUSY` of the GPU's time at the share s with
    ``(r + s c) / workers = KEEP_BUSY (1 - s) g``.

    If the consumer is slower than that, one of them can do more of the work. JPEG engines have nothing else
    to do: they are busy for ``(1 - s) g / t`` of the time, and the CPU only helps once that is `KEEP_BUSY`.
    While they are busy all the time, nothing says how slow the consumer is: then s is the balance at once.
    A GPU's cores are needed for the training: without engines the CPU comes first, until its threads are
    busy for that share, ``(r + s c) / (workers t)``.

    Parameters
    ----------
    request : float or "auto"
        See `checked_share`.
    """

    def __init__(self, request: float | str = 0.0) -> None:
        self._fixed = None if isinstance(request, str) else request
        self._lock = threading.Lock()
        self._gpu, self._between = _Latest(BATCHES), _Latest(BATCHES)
        self._cpu, self._rest = _Latest(PIECES), _Latest(PIECES)
        self._saturated: deque[bool] = deque(maxlen=BATCHES)
        self._gpu_ended = self._finished = 0.0
        self._epoch = -1

    @property
    def balanced(self) -> bool:
        """Whether the share follows from measurements."""
        return self._fixed is None

    def of(self, workers: int, *, engines: bool = True) -> float:
        """Return the share, from 0 to 1, for a batch that `workers` threads begin now.

        `engines`: the GPU has JPEG engines.
        """
        if self._fixed is not None:
            return self._fixed
        with self._lock:
            if not (self._gpu and self._between and self._cpu and self._rest):
                return FIRST_SHARE
            gpu, between = self._gpu.median(), self._between.mean()
            cpu, rest = self._cpu.mean(), self._rest.mean()
            saturated = sum(self._saturated) >= BATCHES - 1
        busy = KEEP_BUSY * gpu
        together = (busy - rest / workers) / (busy + cpu / workers)
        if engines and saturated:
            share = together
        elif engines:
            share = min(together, 1 - KEEP_BUSY * between / gpu)
        else:
            share = max(together, (KEEP_BUSY * between * workers - rest) / cpu)
        return min(max(share, 0.0), 1.0)

    def takes(self, samples: IntArray, workers: int, *, engines: bool = True) -> npt.NDArray[np.bool_]:
        """Return which samples the CPU decodes if they are JPEGs, bool (n,).

        A larger share takes the same samples and more.
        """
        share = self.of(workers, engines=engines)
        if share in (0.0, 1.0):
            return np.full(samples.size, bool(share))
        places = (samples.astype(np.uint64) * GOLDEN) >> np.uint64(11)
        taken: npt.NDArray[np.bool_] = places < share * 2.0**53
        return taken

    def worked(self, effort: Effort) -> None:
        """Note what a worker thread did for a piece of a batch."""
        if self._fixed is not None or not effort.jpegs:
            return
        with self._lock:
            self._rest.append((effort.seconds - effort.decoding_seconds, effort.jpegs))
            if effort.decoded:
                self._cpu.append((effort.decoding_seconds, effort.decoded))

    def finished(self, epoch: int, jpegs: int, images: int, began: float, ended: float) -> None:
        """Note that a batch of `epoch` with `jpegs` JPEGs is decoded, `images` of them by the GPU.

        It began with them at `began` (`time.perf_counter`), or when it ended the batch before.
        """
        if self._fixed is not None or not jpegs:
            return
        with self._lock:
            seconds = 0.0
            if images:
                seconds = ended - max(began, self._gpu_ended)
                self._gpu.append((seconds, images))
                self._gpu_ended = ended
            if self._epoch == epoch:  # what happens between epochs is not the consumer's speed
                between = ended - self._finished
                self._between.append((between, jpegs))
                self._saturated.append(images > 0 and seconds >= SATURATED * between)
            self._epoch, self._finished = epoch, ended


def checked_share(request: float | str) -> float | str:
    """Return ``Loader(cpu_share=...)``; raise `PipelineError` unless it is "auto" or a number from 0 to 1."""
    if request == BALANCED:
        return BALANCED
    try:
        share = float(request) if not isinstance(request, bool) else -1.0
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share <= 1:
        raise PipelineError(f"cpu_share must be 'auto' or a number from 0 to 1, not {request!r}")
    return share
