"""What happened to the samples: counted while writing, printed at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ffcv_gpu.fields.base import EncodeNote
from ffcv_gpu.format import Skipped

__all__ = ["Tally", "WriteReport"]

#: how many skipped samples a printed report lists
SHOWN = 20


@dataclass
class Tally:
    """Counts of `EncodeNote`s; those of several processes are added up."""

    modes: Counter[str] = field(default_factory=Counter)
    transcoded: Counter[str] = field(default_factory=Counter)
    rotated: int = 0
    turned: int = 0

    def note(self, note: EncodeNote) -> None:
        """Count one value."""
        self.modes[note.mode] += 1
        if note.reason is not None:
            self.transcoded[note.reason] += 1
        self.rotated += note.rotated
        self.turned += note.turned

    def add(self, other: Tally) -> None:
        """Add the counts of `other`."""
        self.modes.update(other.modes)
        self.transcoded.update(other.transcoded)
        self.rotated += other.rotated
        self.turned += other.turned

    def as_json(self) -> dict[str, Any]:
        """Return the counts as the file stores them."""
        return {
            "modes": dict(self.modes),
            "transcoded": dict(self.transcoded),
            "rotated": self.rotated,
            "turned": self.turned,
        }

    @staticmethod
    def from_json(counts: Mapping[str, Any]) -> Tally:
        """The inverse of `as_json`."""
        modes, transcoded = Counter(counts["modes"]), Counter(counts["transcoded"])
        return Tally(modes, transcoded, int(counts["rotated"]), int(counts["turned"]))


@dataclass(frozen=True)
class WriteReport:
    """What `DatasetWriter` or `merge_files` wrote; ``print`` it for a summary.

    Attributes
    ----------
    path : str
    samples : int
    bytes : int
        Size of the whole file.
    tally : Tally
        The counts behind `modes`, `transcoded`, `rotated` and `turned`.
    seconds : float
    skipped : tuple of Skipped
        Samples that could not be stored and were left out (``on_error="skip"``): position, key, reason.
    resumed : int
        Samples already written by an earlier run, which was interrupted.
    choices : mapping of str to str
        What was chosen for fields with a target, by field name.
    was_there : bool
        The file was already complete, written by the same conversion: nothing was done.
    """

    path: str
    samples: int
    bytes: int
    tally: Tally
    seconds: float
    skipped: tuple[Skipped, ...] = ()
    resumed: int = 0
    choices: Mapping[str, str] = field(default_factory=dict)
    was_there: bool = False

    @property
    def modes(self) -> Mapping[str, int]:
        """Number of images by storage mode.

        "raw", "jpeg pass-through", "jpeg rewritten" (losslessly), "jpeg encoded" (from pixels), "jpeg
        encoded again".
        """
        return self.tally.modes

    @property
    def transcoded(self) -> Mapping[str, int]:
        """Number of JPEGs that were not stored unchanged, by reason."""
        return self.tally.transcoded

    @property
    def rotated(self) -> int:
        """Number of images whose source (JPEG, PNG, WebP, PIL) has an EXIF rotation."""
        return self.tally.rotated

    @property
    def turned(self) -> int:
        """Number of images whose pixels were rotated accordingly."""
        return self.tally.turned

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show it in a notebook as ``print`` does."""
        printer.text(str(self))

    def __str__(self) -> str:
        rate = self.samples / self.seconds if self.seconds > 0 else float("inf")
        size = f"{_count(self.samples, 'sample')}, {self.bytes:,} bytes"
        took = "already written, nothing to do" if self.was_there else f"{self.seconds:.1f} s ({rate:,.0f}/s)"
        lines = [f"{self.path}: {size}, {took}"]
        if self.modes:
            lines.append("  images: " + ", ".join(f"{n:,} {mode}" for mode, n in sorted(self.modes.items())))
        lines += [f"  chosen for {name!r}: {choice}" for name, choice in self.choices.items()]
        lines += [f"  JPEGs changed: {n:,} ({why})" for why, n in sorted(self.transcoded.items())]
        if self.resumed:
            lines.append(f"  {self.resumed:,} of them were already written by an interrupted run")
        lines += [
            f"  skipped {skip.position} (dataset[{skip.key!r}]): {skip.reason}"
            for skip in self.skipped[:SHOWN]
        ]
        if len(self.skipped) > SHOWN:
            lines.append(f"  ... {len(self.skipped):,} skipped in all; .skipped and the file list them")
        if self.turned:
            were, their = ("was", "its") if self.turned == 1 else ("were", "their")
            lines.append(f"  {_count(self.turned, 'image')} {were} rotated by {their} EXIF orientation")
        if left := self.rotated - self.turned:
            lines.append(
                f"  {_count(left, 'image')} with an EXIF rotation, which no decoder applies:"
                " RGBImageField(exif='apply') rotates the pixels while writing"
            )
        return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
