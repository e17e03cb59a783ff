"""``Loader(on_error=...)``: the policy for bad samples.

The modules that read and decode only return faults. A batch with faults is planned again, with the next good
sample in place of a bad one ("skip") or with zeros ("blank"), and rebuilt as a whole: this is rare, and the
same on every device. Samples known to be damaged are left out from the start in later batches.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import PipelineError, ReadError
from ffcv_gpu.loader.faults import READ, Fault
from ffcv_gpu.steps import IntArray
from ffcv_gpu.trace import StageClock

__all__ = ["BadSample", "ErrorPolicy", "Exclusions", "OnError"]

OnError = str | Callable[[Exception], str]

VERDICTS = ("raise", "blank", "skip")
#: bad samples that are listed; further ones are only counted
MAX_LISTED = 1000
#: bad samples that are warned about
MAX_WARNINGS = 20
#: how often one batch is rebuilt because of failed reads before the storage is considered broken
MAX_READ_ROUNDS = 16

logger = logging.getLogger("ffcv_gpu.loader.loader")


@dataclass(frozen=True)
class BadSample:
    """One entry of `Loader.bad_samples`.

    Attributes
    ----------
    sample : int
        Row of the file.
    field : str
    kind : {"checksum", "decode", "read"}
        Does not match its checksum; cannot be decoded; cannot be read.
    verdict : {"blank", "skip"}
    reason : str
        The error message, with file, offset and length.
    """

    sample: int
    field: str
    kind: str
    verdict: str
    reason: str


@dataclass
class Exclusions:
    """Samples to replace, and (field, sample) pairs to blank, in one batch only.

    `rounds` counts how often the batch had failed reads.
    """

    skip: set[int] = field(default_factory=set)
    blank: set[tuple[str, int]] = field(default_factory=set)
    rounds: int = 0


class ErrorPolicy:
    """Decides what to do about bad samples, and keeps a list of them.

    Parameters
    ----------
    on_error : "raise", "blank", "skip" or a callable
        A callable receives the error (with `sample`, `field` and `offset`), in a thread of the loader, and
        returns one of the three strings.
    num_samples : int
        The number of samples in the file.
    clock : StageClock
        Counts the bad samples found, and those replaced or blanked.

    Raises
    ------
    PipelineError
        If `on_error` is none of these.
    """

    def __init__(self, on_error: OnError, num_samples: int, clock: StageClock) -> None:
        if on_error not in VERDICTS and not callable(on_error):
            words = ", ".join(map(repr, VERDICTS))
            raise PipelineError(f"on_error must be {words} or a callable, not {on_error!r}")
        self._on_error, self.clock = on_error, clock
        self._skipped = np.zeros(num_samples, np.bool_)
        self._skipped_once = np.zeros(num_samples, np.bool_)  # failed reads: tried again in later batches
        self._blanked: dict[str, npt.NDArray[np.bool_]] = {}
        self._listed: dict[tuple[int, str], BadSample] = {}
        self._found = 0
        self._lock = threading.Lock()

    def begin_process(self, clock: StageClock) -> None:
        """Replace clock and lock in a forked child: the parent's lock may be held forever."""
        self.clock, self._lock = clock, threading.Lock()

    def bad_samples(self) -> tuple[BadSample, ...]:
        """Return the first `MAX_LISTED` bad samples, in the order they were found."""
        with self._lock:
            return tuple(self._listed.values())

    def skipped_rows(self) -> IntArray:
        """Return the rows of the file that were replaced at least once, int64."""
        return np.flatnonzero(self._skipped | self._skipped_once)

    # ---- known bad samples

    def choose(
        self, order: IntArray, positions: IntArray, own: Exclusions
    ) -> tuple[IntArray, dict[str, IntArray]]:
        """Return the samples of a batch, and for each field the rows of the batch to blank.

        A sample to skip is replaced by the next good one in the order, which wraps around at its end.

        Raises
        ------
        ReadError
            If there is no good sample.
        """
        chosen = order[positions]
        for row in np.flatnonzero(self._left_out(chosen, own)).tolist():
            chosen[row] = self._next_good(order, int(positions[row]), own)
        blank = {name: mask[chosen] for name, mask in list(self._blanked.items())}
        for name, sample in own.blank:
            blank[name] = blank.get(name, np.zeros(chosen.size, np.bool_)) | (chosen == sample)
        return chosen, {name: np.flatnonzero(mask) for name, mask in blank.items() if mask.any()}

    def _left_out(self, samples: IntArray, own: Exclusions) -> npt.NDArray[np.bool_]:
        left_out: npt.NDArray[np.bool_] = self._skipped[samples]
        return left_out | np.isin(samples, list(own.skip)) if own.skip else left_out

    def _next_good(self, order: IntArray, position: int, own: Exclusions) -> int:
        for steps in range(1, order.size):
            sample = order[(position + steps) % order.size]
            if not self._left_out(sample[None], own)[0]:
                return int(sample)
        raise ReadError(
            f"on_error='skip': none of the {order.size} samples of the epoch is good; "
            "loader.bad_samples() lists the reasons"
        )

    # ---- new faults

    def judge(self, faults: Sequence[Fault], own: Exclusions, rows_only: Collection[str]) -> None:
        """Decide about the faults of one batch; raise the error of the first whose verdict is "raise".

        Parameters
        ----------
        faults : sequence of Fault
        own : Exclusions
            The batch's; updated in place.
        rows_only : collection of str
            Fields that a user-defined decoder reads directly: they cannot be blanked.
        """
        faults = sorted(faults, key=lambda fault: (fault.row, fault.field))
        own.rounds += any(fault.kind == READ for fault in faults)
        for fault in faults:
            verdict = self._verdict(fault)
            if verdict == "blank" and fault.field in rows_only:
                fault.error.add_note("it cannot be blanked, because a user-defined decoder reads the field")
                verdict = "raise"
            if own.rounds > MAX_READ_ROUNDS:
                fault.error.add_note(
                    f"reads of this batch failed {own.rounds} times: not this sample's fault"
                )
                verdict = "raise"
            if verdict == "raise":
                raise fault.error
            self._note(fault, verdict)
            self._exclude(fault, verdict, own)

    def _verdict(self, fault: Fault) -> str:
        verdict: Any = self._on_error
        if callable(self._on_error):
            verdict = self._on_error(fault.error)
            if verdict not in VERDICTS:
                raise PipelineError(
                    f"on_error: {self._on_error!r} must return 'raise', 'blank' or 'skip', not {verdict!r}, "
                    f"for {fault.error}"
                ) from fault.error
        return str(verdict)

    def _exclude(self, fault: Fault, verdict: str, own: Exclusions) -> None:
        """Exclude a sample from this batch and, if its bytes are bad, from all later ones."""
        sample, name = fault.sample, fault.field
        if fault.kind == READ:  # storage may recover
            if verdict == "skip":
                own.skip.add(sample)
                self._skipped_once[sample] = True
            else:
                own.blank.add((name, sample))
        elif verdict == "skip":
            self._skipped[sample] = True
        else:
            mask = self._blanked.get(name)
            if mask is None:
                with self._lock:
                    mask = self._blanked.setdefault(name, np.zeros_like(self._skipped))
            mask[sample] = True

    def _note(self, fault: Fault, verdict: str) -> None:
        """Count and list a fault, and warn about it."""
        self.clock.count(f"bad sample found: {fault.kind}")
        entry = BadSample(fault.sample, fault.field, fault.kind, verdict, str(fault.error))
        with self._lock:
            new = (fault.sample, fault.field) not in self._listed
            if new and len(self._listed) < MAX_LISTED:
                self._listed[fault.sample, fault.field] = entry
            self._found += new
            number = self._found
        if new and number <= MAX_WARNINGS:
            done = "replaced by the next good sample" if verdict == "skip" else "replaced by zeros"
            last = "; further ones are only listed by loader.bad_samples()" if number == MAX_WARNINGS else ""
            logger.warning("%s (%s%s)", fault.error, done, last)

    def count(self, replaced: int, blank: int) -> None:
        """Count the replaced and the blanked samples of a finished batch."""
        self.clock.count("bad sample: replaced", replaced)
        self.clock.count("bad sample: blank", blank)
