"""RandAugment and TrivialAugment: a random operation per sample, from torchvision's list and magnitudes.

Each round draws one operation per sample. All samples go through all launches of a round, with neutral
parameters where another operation was drawn: this costs a copy, but keeps the batch together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.kernels.codes import BRIGHTNESS, CONTRAST, POSTERIZE, SATURATION, SOLARIZE
from ffcv_gpu.kernels.pass_codes import PASS_REMAP, PASS_SHARPEN, PASS_WARP, REMAP_EQUALIZE, REMAP_STRETCH
from ffcv_gpu.steps import FloatArray, ImagePass, IntArray, Step, fill_values, whole
from ffcv_gpu.transforms.base import ColourPart, checked_seed, fill_bytes

__all__ = ["OPERATIONS", "RandAugment", "TrivialAugment", "TrivialAugmentWide"]

#: torchvision's names, in torchvision's order
OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
INDEX = {name: index for index, name in enumerate(OPERATIONS)}
SIGNED = frozenset(OPERATIONS[1:10])

IS_SIGNED = np.array([name in SIGNED for name in OPERATIONS])

Magnitudes = Mapping[str, Callable[[int, int, int], FloatArray]]


def linspace(start: float, end: float, bins: int) -> FloatArray:
    """Return `bins` numbers from `start` to `end` as torch.linspace computes them: float32, from both ends.

    They agree bit for bit: translations are truncated to whole pixels, and some magnitudes fall on one.
    """
    first, last = np.float32(start), np.float32(end)
    step, place = float((last - first) / np.float32(max(bins - 1, 1))), np.arange(bins)
    exact = np.where(place < bins // 2, first + step * place, last - step * (bins - 1 - place))
    return exact.astype(np.float32).astype(np.float64)


def posterize_bits(bins: int, lost: int) -> FloatArray:
    """Return the number of bits kept, from 8 down to 8 - `lost`."""
    return np.rint(8 - np.arange(bins) / (max(bins - 1, 1) / lost))


def magnitude_table(
    shear: float, factor: float, degrees: float, lost_bits: int, shift: Callable[[int], float]
) -> Magnitudes:
    """Return each operation's magnitudes: a function of (bins, height, width)."""

    def upto(top: float) -> Callable[[int, int, int], FloatArray]:
        return lambda bins, height, width: linspace(0.0, top, bins)

    factors = dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), upto(factor))
    return {
        "ShearX": upto(shear),
        "ShearY": upto(shear),
        "TranslateX": lambda bins, height, width: linspace(0.0, shift(width), bins),
        "TranslateY": lambda bins, height, width: linspace(0.0, shift(height), bins),
        "Rotate": upto(degrees),
        **factors,
        "Posterize": lambda bins, height, width: posterize_bits(bins, lost_bits),
        "Solarize": lambda bins, height, width: linspace(1.0, 0.0, bins),
    }


#: each operation's magnitudes are a table
MAX_BINS = 1 << 16
#: each round is several launches
MAX_ROUNDS = 100

RAND = magnitude_table(0.3, 0.9, 30.0, 4, lambda side: 150.0 / 331.0 * side)
TRIVIAL = magnitude_table(0.99, 0.99, 135.0, 6, lambda side: 32.0)


@dataclass(frozen=True, eq=False)
class Round:
    """One round: an operation drawn for each sample."""

    owner: _Augment
    number: int

    def drawn(self, draws: Draws, draw: int, height: int, width: int) -> tuple[IntArray, FloatArray]:
        """Return int64 (N,), indices of `OPERATIONS`, and float64 (N,), signed magnitudes (0 for none)."""
        u = draws.uniform(draw, 3 * (self.number + 1))[:, 3 * self.number :]
        operations = (u[:, 0] * len(OPERATIONS)).astype(np.int64)
        tables = self.owner.tables(height, width)
        sign = np.where(IS_SIGNED[operations] & (u[:, 1] <= 0.5), -1.0, 1.0)
        return operations, sign * tables[operations, self.owner.magnitude_bins(u[:, 2])]

    def value(self, name: str, neutral: float, change: Callable[[FloatArray], FloatArray]) -> Any:
        """Return a colour operation's parameters, a function: ``change(magnitude)`` where it was drawn."""

        def amounts(draws: Draws, draw: int) -> FloatArray:
            # colour magnitudes do not depend on the image's size
            operations, magnitudes = self.drawn(draws, draw, 1, 1)
            return np.where(operations == INDEX[name], change(magnitudes), neutral)[:, None]

        return amounts

    def parts(self) -> list[Step]:
        """Return the steps that do the round's work; at most one of them changes any given sample."""

        def factor(magnitudes: FloatArray) -> FloatArray:
            return 1.0 + magnitudes

        colours = (
            ("Contrast", CONTRAST, 1.0, factor),
            ("Brightness", BRIGHTNESS, 1.0, factor),
            ("Color", SATURATION, 1.0, factor),
            ("Posterize", POSTERIZE, 8.0, np.copy),
            ("Solarize", SOLARIZE, 256.0, lambda magnitudes: 255.0 * magnitudes),
        )
        label = f"round {self.number + 1}, "
        return [
            _Warp(self),
            _Remap(self),
            _Sharpen(self),
            *(
                ColourPart(self.owner, label + name, code, self.value(name, neutral, change))
                for name, code, neutral, change in colours
            ),
        ]


class _Pass(ImagePass):
    """Base of the launches of a round."""

    name = ""

    def __init__(self, its_round: Round) -> None:
        self.round = its_round

    def __repr__(self) -> str:
        return f"{type(self.round.owner).__name__}: round {self.round.number + 1}, {self.name}"


class _Warp(_Pass):
    """Shears, translations and rotations."""

    name, kernel = "ShearX to Rotate", PASS_WARP
    why = "each pixel comes from another place in the image"

    def amounts(self, draws: Draws, draw: int, height: int, width: int) -> FloatArray:
        operations, m = self.round.drawn(draws, draw, height, width)
        zero, one = np.zeros_like(m), np.ones_like(m)
        angle, whole = np.deg2rad(m), np.trunc(m)
        matrices = {
            "ShearX": (one, m, m * height / 2, zero, one, zero),
            "ShearY": (one, zero, zero, m, one, m * width / 2),
            "TranslateX": (one, zero, -whole, zero, one, zero),
            "TranslateY": (one, zero, zero, zero, one, -whole),
            "Rotate": (np.cos(angle), -np.sin(angle), zero, np.sin(angle), np.cos(angle), zero),
        }
        made = np.stack([one, zero, zero, zero, one, zero], axis=1)
        for name, matrix in matrices.items():
            made = np.where((operations == INDEX[name])[:, None], np.stack(matrix, axis=1), made)
        return made

    def check(self, height: int, width: int, channels: int) -> None:
        fill_bytes(self.round.owner.fill, channels, repr(self))

    def constants(self, height: int, width: int, channels: int) -> tuple[npt.NDArray[Any], ...]:
        return (fill_bytes(self.round.owner.fill, channels, repr(self)),)


class _Remap(_Pass):
    """AutoContrast and Equalize."""

    name, kernel = "AutoContrast and Equalize", PASS_REMAP
    why = "counts the values of each channel first"

    def amounts(self, draws: Draws, draw: int, height: int, width: int) -> FloatArray:
        operations, _ = self.round.drawn(draws, draw, height, width)
        stretch = (operations == INDEX["AutoContrast"]) * float(REMAP_STRETCH)
        return np.asarray(stretch + (operations == INDEX["Equalize"]) * float(REMAP_EQUALIZE))[:, None]


class _Sharpen(_Pass):
    """Sharpness."""

    name, kernel = "Sharpness", PASS_SHARPEN
    why = "each pixel depends on its neighbours"

    def amounts(self, draws: Draws, draw: int, height: int, width: int) -> FloatArray:
        operations, magnitudes = self.round.drawn(draws, draw, height, width)
        return np.where(operations == INDEX["Sharpness"], -magnitudes, 0.0)[:, None]


class _Augment(Step):
    """Base of `RandAugment` and `TrivialAugment`."""

    magnitudes: Magnitudes

    def __init__(self, num_magnitude_bins: int, fill: Any, seed: int | None) -> None:
        name = type(self).__name__
        self.num_magnitude_bins = whole(num_magnitude_bins, f"{name}: num_magnitude_bins", 2, MAX_BINS)
        self.fill = fill_values(0 if fill is None else fill, name)
        self.seed = checked_seed(seed, name)
        self._tables: dict[tuple[int, int], FloatArray] = {}

    def tables(self, height: int, width: int) -> FloatArray:
        """Return the magnitudes of each operation for images of this size, float64 (operations, bins)."""
        if (height, width) not in self._tables:
            made = np.zeros((len(OPERATIONS), self.num_magnitude_bins))
            for name, table in self.magnitudes.items():
                made[INDEX[name]] = table(self.num_magnitude_bins, height, width)
            self._tables[height, width] = made
        return self._tables[height, width]

    def magnitude_bins(self, u: FloatArray) -> IntArray:
        """Return int64 (N,): the index of each sample's magnitude."""
        return (u * self.num_magnitude_bins).astype(np.int64)

    def rounds(self) -> Sequence[Round]:
        """Return the rounds: one."""
        return (Round(self, 0),)

    def parts(self) -> Sequence[Step]:
        """Return the launches and colour operations of all rounds."""
        return [part for each in self.rounds() for part in each.parts()]


class RandAugment(_Augment):
    """Apply `num_ops` random operations of one magnitude to each image (Cubuk et al., arXiv 1909.13719).

    Images: (N, H, W, 1 or 3) uint8. Operations, magnitudes and results are torchvision's
    (`transforms.v2.RandAugment` with nearest interpolation): one of 14 operations, and its sign, is drawn per
    sample and round. Each round adds four launches (warp, histogram, sharpness, mean) to a fused one;
    ``loader.explain()`` shows them.

    Parameters
    ----------
    num_ops : int, default 2
        Rounds.
    magnitude : int, default 9
        Index of the magnitude, 0 to `num_magnitude_bins` - 1.
    num_magnitude_bins : int, default 31
    fill : number or sequence of numbers, optional
        Grey level of pixels from outside the image; None: 0.
    seed : int, optional, keyword only
        Steps of this kind with equal seeds draw the same numbers.

    Raises
    ------
    PipelineError
        If an argument is out of range, or (when the Loader is created) if the images are not uint8.
    """

    draw_name = "rand_augment"
    magnitudes = RAND

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: int = 9,
        num_magnitude_bins: int = 31,
        fill: Any = None,
        *,
        seed: int | None = None,
    ) -> None:
        super().__init__(num_magnitude_bins, fill, seed)
        self.num_ops = whole(num_ops, "RandAugment: num_ops", 0, MAX_ROUNDS)
        self.magnitude = whole(magnitude, "RandAugment: magnitude")
        if self.magnitude >= self.num_magnitude_bins:
            raise PipelineError(
                f"RandAugment: magnitude must be 0 to {self.num_magnitude_bins - 1}, not {magnitude!r}"
            )

    def magnitude_bins(self, u: FloatArray) -> IntArray:
        """Return int64 (N,): `magnitude` for each sample."""
        return np.full(len(u), self.magnitude, np.int64)

    def rounds(self) -> Sequence[Round]:
        """Return `num_ops` rounds."""
        return [Round(self, number) for number in range(self.num_ops)]


class TrivialAugment(_Augment):
    """Apply one random operation of a random magnitude to each image (Müller and Hutter, arXiv 2103.10158).

    Images: (N, H, W, 1 or 3) uint8. Operations, magnitudes and results are torchvision's
    (`transforms.v2.TrivialAugmentWide` with nearest interpolation). It adds four launches to a fused one.

    Parameters
    ----------
    num_magnitude_bins : int, default 31
    fill : number or sequence of numbers, optional
        Grey level of pixels from outside the image; None: 0.
    seed : int, optional, keyword only
        Steps of this kind with equal seeds draw the same numbers.

    Raises
    ------
    PipelineError
        If an argument is out of range, or (when the Loader is created) if the images are not uint8.
    """

    draw_name = "trivial_augment"
    magnitudes = TRIVIAL

    def __init__(self, num_magnitude_bins: int = 31, fill: Any = None, *, seed: int | None = None) -> None:
        super().__init__(num_magnitude_bins, fill, seed)


#: torchvision's name
TrivialAugmentWide = TrivialAugment
