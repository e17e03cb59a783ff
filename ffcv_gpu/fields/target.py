"""Fields that leave a setting open until the writer has looked at some samples.

The object that decides measures loading and so lives in a layer far above (`ffcv_gpu.doctor.Target`); it is
passed in.
"""

from __future__ import annotations

import importlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.base import Field

__all__ = ["Choice", "Chooser", "OpenField", "chooser", "plain"]


@dataclass(frozen=True)
class Choice:
    """How images are stored, and the predicted loading speed and file size.

    Attributes
    ----------
    compress_probability : float
        Share of images stored as JPEG; the rest is raw.
    max_resolution : int or None
    images_per_second : float
        Predicted, on `cores` cores.
    bytes_per_image : float
        Predicted.
    """

    compress_probability: float
    max_resolution: int | None
    images_per_second: float = 0.0
    cores: int = 0
    bytes_per_image: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the arguments of `Choice` as a dict."""
        return asdict(self)

    def __str__(self) -> str:
        size = "" if self.max_resolution is None else f", max_resolution={self.max_resolution}"
        cores = f"{self.cores} core" if self.cores == 1 else f"{self.cores} cores"
        return (
            f"{self.compress_probability:.0%} as JPEG, the rest raw{size}; predicted"
            f" {self.images_per_second:,.0f} images/s on {cores}, {self.bytes_per_image:,.0f} bytes per image"
        )


class Chooser(Protocol):
    """What `RGBImageField(target=...)` accepts."""

    def choose(self, field: Any, images: Sequence[Any], samples: int | None) -> Choice:
        """Return how to store images like these; there are `samples` of them (None: unknown).

        ``field.chosen(choice)`` is the field that stores them that way. PipelineError if the target cannot be
        reached.
        """

    def as_json(self) -> Mapping[str, Any]:
        """Return the target as JSON-compatible values; stored in the file."""


class OpenField(Field):
    """Base of fields with a target; the writer settles how values are stored before it starts.

    Attributes
    ----------
    target : Chooser or None
    choice : Choice or None
        What was chosen for the target.
    """

    target: Chooser | None = None
    choice: Choice | None = None

    @abstractmethod
    def chosen(self, choice: Choice) -> Self:
        """Return a copy of this field that stores values according to `choice`."""

    @abstractmethod
    def trial(self) -> Self:
        """Return a copy of this field that can store values before the choice, to measure them."""

    @property
    def is_open(self) -> bool:
        """Whether the target still has to be settled."""
        return self.target is not None and self.choice is None

    @property
    def settlement(self) -> str | None:
        """What was chosen, as text for the writer's report."""
        return None if self.choice is None else str(self.choice)

    def settled(self, values: Sequence[Any], samples: int | None) -> Self:
        """Return the field as its target chooses for such values; there are `samples` of them.

        Without a target, return this field. `samples` is None if the number is unknown.
        """
        return self if self.target is None else self.chosen(self.target.choose(self, values, samples))

    def as_before(self, settings: Mapping[str, Any]) -> Self | None:
        """Return the field settled as in an earlier run; None if that run's `write_settings` differ."""
        noted = settings.get("choice")
        if noted is None or plain(settings) != plain(self.write_settings()):
            return None
        return self.chosen(Choice(**noted))


def chooser(target: Any) -> Chooser | None:
    """Return the chooser for `target=`; a mapping or a number are arguments of `ffcv_gpu.doctor.Target`."""
    if target is None or callable(getattr(target, "choose", None)):
        found: Chooser | None = target
        return found
    if isinstance(target, (int, float)) and not isinstance(target, bool):
        target = {"images_per_second": target}
    if not isinstance(target, Mapping):
        raise PipelineError(
            f"target={target!r}: give ffcv_gpu.doctor.Target(images_per_second=...), or the same as a dict"
        )
    # Not an import statement: imports inside the package point down, and the doctor is far above.
    kind = importlib.import_module("ffcv_gpu.doctor").Target
    try:
        made: Chooser = kind(**target)
    except TypeError as error:
        raise PipelineError(f"target={dict(target)!r}: {error}; see ffcv_gpu.doctor.Target") from error
    return made


def plain(settings: Mapping[str, Any]) -> Any:
    """Return settings after a JSON round trip, without the choice."""
    return json.loads(json.dumps({name: value for name, value in settings.items() if name != "choice"}))
