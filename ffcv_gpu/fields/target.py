"""Fields that leave a setting open until the writer has looked at some samples: how, and who decides.

Who decides measures loading, and so stands in a room far above (`ffcv_gpu.doctor.Target`): it is handed in.
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
    """How images are to be stored, and what is expected of it.

    Attributes
    ----------
    compress_probability : float
        Share of JPEGs; the rest is raw.
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
        """Return what `Choice(**...)` takes."""
        return asdict(self)

    def __str__(self) -> str:
        size = "" if self.max_resolution is None else f", max_resolution={self.max_resolution}"
        cores = f"{self.cores} core" if self.cores == 1 else f"{self.cores} cores"
        return (
            f"{self.compress_probability:.0%} as JPEG, the rest raw{size}; predicted"
            f" {self.images_per_second:,.0f} images/s on {cores}, {self.bytes_per_image:,.0f} bytes an image"
        )


class Chooser(Protocol):
    """What `RGBImageField(target=...)` takes."""

    def choose(self, field: Any, images: Sequence[Any], samples: int | None) -> Choice:
        """Return how to store images such as these, of which there are `samples` (None: nobody knows).

        ``field.chosen(choice)`` is the field that would store them so. PipelineError if it cannot be done.
        """

    def as_json(self) -> Mapping[str, Any]:
        """Return what it aims at; noted in the file."""


class OpenField(Field):
    """Base of fields with a target, for which the writer settles how values are stored before it begins.

    Attributes
    ----------
    target : Chooser or None
    choice : Choice or None
        What was settled.
    """

    target: Chooser | None = None
    choice: Choice | None = None

    @abstractmethod
    def chosen(self, choice: Choice) -> Self:
        """Return a field like this one that stores values so."""

    @abstractmethod
    def trial(self) -> Self:
        """Return a field that stores values in some way, for looking at them."""

    @property
    def is_open(self) -> bool:
        """Whether the target is still to be settled."""
        return self.target is not None and self.choice is None

    @property
    def settlement(self) -> str | None:
        """What was settled, for the writer's report."""
        return None if self.choice is None else str(self.choice)

    def settled(self, values: Sequence[Any], samples: int | None) -> Self:
        """Return the field as the target would have it for such values, of which there are `samples`.

        Without a target, that is this one. `samples` may be None: nobody knows how many.
        """
        return self if self.target is None else self.chosen(self.target.choose(self, values, samples))

    def as_before(self, settings: Mapping[str, Any]) -> Self | None:
        """Return the field settled as an earlier run's; None if its `write_settings` were others."""
        noted = settings.get("choice")
        if noted is None or plain(settings) != plain(self.write_settings()):
            return None
        return self.chosen(Choice(**noted))


def chooser(target: Any) -> Chooser | None:
    """Return what `target=` means: a mapping or a number are those of `ffcv_gpu.doctor.Target`."""
    if target is None or callable(getattr(target, "choose", None)):
        found: Chooser | None = target
        return found
    if isinstance(target, (int, float)) and not isinstance(target, bool):
        target = {"images_per_second": target}
    if not isinstance(target, Mapping):
        raise PipelineError(
            f"target={target!r}: give ffcv_gpu.doctor.Target(images_per_second=...), or the same as a dict"
        )
    # Not by an import statement: imports inside the package point down, and the doctor stands far above.
    kind = importlib.import_module("ffcv_gpu.doctor").Target
    try:
        made: Chooser = kind(**target)
    except TypeError as error:
        raise PipelineError(f"target={dict(target)!r}: {error}; see ffcv_gpu.doctor.Target") from error
    return made


def plain(settings: Mapping[str, Any]) -> Any:
    """Return settings as JSON would give them back, without what was chosen."""
    return json.loads(json.dumps({name: value for name, value in settings.items() if name != "choice"}))
