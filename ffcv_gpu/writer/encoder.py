"""Turns samples of a dataset into records, and into payload bytes packed in a slot of memory."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import SampleError
from ffcv_gpu.fields.base import EncodeNote
from ffcv_gpu.format import MAX_PAGE_SIZE, Skipped, TypeId, crc32c, no_facts
from ffcv_gpu.writer.parts import ENTRY, PART_BYTES, PART_SAMPLES, VIRTUAL, Job, Part
from ffcv_gpu.writer.report import Tally

__all__ = ["SampleEncoder", "Slots"]

logger = logging.getLogger("ffcv_gpu.writer.dataset_writer")

#: memory of each slot, by slot number
Slots = Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8]


class SampleEncoder:
    """Encodes samples of an indexed dataset; one per process.

    Parameters
    ----------
    job : Job
    tick : callable
        Called with each sample's position before it is fetched.
    """

    def __init__(self, job: Job, tick: Callable[[int], object]) -> None:
        self._job = job
        self._tick = tick
        self._names = tuple(job.fields)
        self._fields = tuple(job.fields.values())
        self._position = 0
        self._field = -1
        self._width = 0  # values of the sample before

    def parts(self, start: int, stop: int, slots: Slots, free_slot: Callable[[], int]) -> Iterator[Part]:
        """Yield samples `start` to `stop` in parts, each in a free one of `slots`."""
        while start < stop:
            slot = free_slot()
            part = self.encode(start, stop, slots[slot], slot)
            yield part
            start = part.stop

    def encode(self, start: int, stop: int, memory: npt.NDArray[np.uint8], slot: int = 0) -> Part:
        """Encode samples from `start` on, up to `stop` or until the part is full.

        Parameters
        ----------
        start, stop : int
        memory : uint8 (`Job.slot_bytes`,)
            Filled from the front.
        slot : int
            Its number, passed on in the part.

        Raises
        ------
        SampleError
            If anything goes wrong with a sample; names the sample, its dataset index and the field.
        """
        stop = min(stop, start + PART_SAMPLES)
        self._begin(stop - start, memory)
        position = start
        while position < stop and self._used < PART_BYTES:
            self._position, self._field, self._sample_start = position, -1, self._used
            self._tick(position)
            try:
                self._store(self._fetch(self._job.key(position)))
            except Exception as error:  # noqa: BLE001 (raised again, unless the job skips such samples)
                self._blame(error)
            position += 1
        return self._part(start, position, slot)

    def _part(self, start: int, stop: int, slot: int) -> Part:
        count = len(self._bounds) - 1
        entries = np.array(self._entries, ENTRY)
        return Part(
            start,
            stop,
            count,
            slot,
            np.array(self._bounds, np.int64).tobytes(),
            self._records[:count].tobytes(),
            entries.tobytes(),
            {number: rows[:count].tobytes() for number, rows in self._facts.items()},
            self._tally,
            tuple(self._skipped),
        )

    def _begin(self, most: int, memory: npt.NDArray[np.uint8]) -> None:
        self._memory, self._used, self._bounds = memory, 0, [0]
        self._entries: list[tuple[int, int, int, int, int]] = []
        self._records = np.zeros(most, self._job.record)
        self._columns = [self._records[name] for name in self._job.record.names or ()]
        self._facts: dict[int, npt.NDArray[Any]] = {}
        self._tally = Tally()
        self._skipped: list[Skipped] = []

    def _fetch(self, key: Any) -> Any:
        """Return ``dataset[key]``; an integer may be asked for what only numpy's have (``idx.item()``)."""
        try:
            return self._job.dataset[key]
        except AttributeError as error:  # FFCV passes numpy's
            if not (isinstance(key, int) and error.obj is key and hasattr(np.int64, error.name or "")):
                raise
        return self._job.dataset[np.int64(key)]

    def _store(self, sample: Any) -> None:
        """Encode what the dataset returned, as the part's next sample."""
        row, values = len(self._bounds) - 1, self._values(sample)
        self._sample_entries: list[tuple[int, int, int]] = []
        self._overflow = -1
        notes: list[tuple[int, EncodeNote]] = []
        for number, field in enumerate(self._fields):
            self._field = number
            note = field.encode_sample(
                self._position, self._columns[number][row : row + 1], values[number], self._malloc
            )
            if note is not None:
                notes.append((number, note))
        if self._overflow >= 0:
            self._refuse_size()
        for number, note in notes:
            self._tally.note(note)
            if note.facts is not None:
                self._facts_of(number)[row] = note.facts
        for number, offset, size in self._sample_entries:
            crc = crc32c(self._memory[offset : offset + size])
            self._entries.append((row, number, offset, size, crc))
        self._bounds.append(self._used)

    def _malloc(self, size: int) -> tuple[int, npt.NDArray[np.uint8]]:
        """Return a pointer and memory for `size` bytes; even 0 bytes occupy one byte of the page.

        FFCV cannot tell apart two payloads with the same pointer, and would read the wrong one.
        """
        size = operator.index(size)
        if size < 0:
            raise ValueError(f"malloc({size})")
        offset = self._used
        self._used += max(size, 1)
        if self._used - self._sample_start > self._job.page_size:
            # Continue in separate memory, to report how much the whole sample needs.
            self._overflow = self._field if self._overflow < 0 else self._overflow
            return VIRTUAL, np.zeros(size, np.uint8)
        memory = self._memory[offset : offset + max(size, 1)]
        if not size or self._fields[self._field].type_id == TypeId.CUSTOM:
            memory[:] = 0
        self._sample_entries.append((self._field, offset, size))
        return VIRTUAL + offset, memory[:size]

    def _facts_of(self, number: int) -> npt.NDArray[Any]:
        if number not in self._facts:
            self._facts[number] = no_facts(len(self._records))
        return self._facts[number]

    def _values(self, sample: Any) -> Sequence[Any]:
        """Return one value per field: from a sequence in field order, or from a mapping by field name."""
        names, who = self._names, self._job.who
        if isinstance(sample, Mapping):
            missing = [name for name in names if name not in sample]
            if missing:
                keys = ", ".join(map(repr, sample))
                raise SampleError(
                    f"{who} returned a mapping without {missing[0]!r}; its keys are {keys}: name the field"
                    " after one of them, or return a tuple"
                )
            return [sample[name] for name in names]
        comma = "," if len(names) == 1 else ""
        expected = f"a tuple of {len(names)}: ({', '.join(names)}{comma}), or a mapping of them"
        single = isinstance(sample, (str, bytes)) or not hasattr(sample, "__len__")
        if single or (len(sample) != len(names) and hasattr(sample, "dtype")):
            raise SampleError(f"{who} returned type {type(sample).__name__}, expected {expected}")
        if len(sample) < len(names):
            values = "1 value" if len(sample) == 1 else f"{len(sample)} values"
            raise SampleError(f"{who} returned {values}, expected {expected}")
        self._tell_of_more(len(sample))
        found: Sequence[Any] = sample
        return found

    def _tell_of_more(self, width: int) -> None:
        """Warn, once in the usual case, that a sample has more values than fields; FFCV drops them, too."""
        before, self._width = self._width, width
        if width > len(self._names) and (self._position == 0 or before not in (0, width)):
            fields = ", ".join(self._names)
            logger.warning(
                "%s: %s returned %d values, but there are fields for the first %d only (%s); the others are"
                " not stored",
                *(self._where(), self._job.who, width, len(self._names), fields),
            )

    def _refuse_size(self) -> None:
        total, self._field = self._used - self._sample_start, self._overflow
        page_size = max(1 << (total - 1).bit_length(), self._job.page_size)
        fix = f"give page_size={page_size}" if page_size < MAX_PAGE_SIZE else "no page_size is large enough"
        raise SampleError(f"the sample takes {total} bytes, but a page holds {self._job.page_size}; {fix}")

    def _blame(self, error: Exception) -> None:
        """Skip the current sample, which caused `error`, or raise an error that names it.

        Raises
        ------
        SampleError
            Unless the job skips such samples.
        """
        why = self._reason(error)
        if not self._job.skips:
            field = f", field {self._names[self._field]!r}" if self._field >= 0 else ""
            raise SampleError(f"{self._where()}{field}: {why}") from error
        self._used = self._sample_start
        row = len(self._bounds) - 1
        self._records[row : row + 1].view(np.uint8)[:] = 0
        self._skipped.append(self._skip(why))

    def _where(self) -> str:
        return self._job.where(self._position)

    def _skip(self, why: str) -> Skipped:
        key = self._job.key(self._position)
        places = [] if self._job.sources is None else [self._job.sources[self._position]]
        places += [f"field {self._names[self._field]!r}"] if self._field >= 0 else []
        plain = key if isinstance(key, (int, str)) else repr(key)
        return Skipped(self._position, plain, ": ".join([*places, why]))

    def _reason(self, error: Exception) -> str:
        if isinstance(error, SampleError):
            return str(error)
        try:
            text = str(error)
        except Exception as worse:  # noqa: BLE001 (a user's class may raise anything)
            text = f"its message raised {type(worse).__name__}"
        what = f"{type(error).__name__}: {text}" if text else type(error).__name__
        if self._field >= 0:
            return f"{type(self._fields[self._field]).__name__}.encode raised {what}"
        return f"the dataset raised {what}; fix it, or leave the sample out with indices= or on_error='skip'"
