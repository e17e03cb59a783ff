"""Counter-based random numbers: each is a function of (seed, epoch, sample, draw, k) and nothing else.

There is no generator state. A sample's numbers do not depend on its batch, its place in the batch, the
worker, the rank, or how many numbers are requested; any of them can be drawn again at any time.

The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
Its words, least significant first:

==========  =================================================================
key 0, 1    seed, bits 0-31 and 32-63
counter 0   sample, bits 0-31
counter 1   bits 0-15: sample, bits 32-47; bits 16-31: block number, k // 4
counter 2   epoch
counter 3   draw: the operation's 32-bit id (`draw_id`)
==========  =================================================================

Value k is word k % 4 of its block divided by 2**32: 32 random bits, exact in float64. That is enough here:
an offset among 65536 is biased by less than 2**-16 of its probability, and 53 bits would need twice the
blocks.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import PipelineError

__all__ = [
    "MAX_DRAW",
    "MAX_EPOCH",
    "MAX_SAMPLE",
    "MAX_SEED",
    "MAX_UNIFORMS",
    "Draws",
    "draw_id",
    "uniform",
]

MAX_SEED = 2**64 - 1
MAX_EPOCH = 2**32 - 1
MAX_DRAW = 2**32 - 1
MAX_SAMPLE = 2**48 - 1
#: maximum number of values per sample and draw: 2**16 blocks of 4
MAX_UNIFORMS = 2**18

_ROUNDS = 10
_LOW_WORD = np.uint64(0xFFFFFFFF)
_WORD_BITS = np.uint64(32)
#: for counter words 0 and 2
_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], dtype=np.uint64)
#: added to the key after each round: golden ratio and sqrt(3) - 1
_WEYL = np.array([0x9E3779B9, 0xBB67AE85], dtype=np.uint64)
_WEYL_OF_ROUND = (np.arange(_ROUNDS, dtype=np.uint64)[:, None] * _WEYL) & _LOW_WORD

Words64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of one batch, from which a step draws its parameters.

    Attributes
    ----------
    seed : int
        In [0, 2**64).
    epoch : int
        In [0, 2**32).
    samples : ndarray of int64, shape (N,)
        Sample ids in [0, 2**48), which key the draws; not copied.
    """

    seed: int
    epoch: int
    samples: npt.NDArray[np.int64]
    _known: dict[tuple[int, int], npt.NDArray[np.float64]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.samples)

    def uniform(self, draw: int, count: int) -> npt.NDArray[np.float64]:
        """Return float64 (N, count) in [0, 1), read-only: `uniform` for this batch's samples.

        Computed once per `draw` and `count`, because the parts of a step and views that share it ask again.
        """
        if (draw, count) not in self._known:
            made = self._made(draw, count)
            made.flags.writeable = False
            self._known[draw, count] = made
        return self._known[draw, count]

    def _made(self, draw: int, count: int) -> npt.NDArray[np.float64]:
        # Compiled code is loaded on first use: importing this module must not import numba.
        from ffcv_gpu.kernels.draws_cpu import fill_uniform

        ids = np.asarray(self.samples)
        _check_ranges(self.seed, self.epoch, ids, draw, count)
        values = np.empty((ids.size, -(-count // 4) * 4))
        key = (np.uint64(number) for number in (self.seed, self.epoch, draw))
        fill_uniform(*key, ids.astype(np.uint64), values)
        return values[:, :count]


def draw_id(*parts: str | int) -> int:
    """Return a 32-bit id computed from `parts`, the same in every process, Python version and machine.

    Parts are distinguished by type, value and position: ``("a", "b")``, ``("ab",)`` and ``("a", 1)``,
    ``("a", "1")`` all differ.

    >>> draw_id("image", 0, "RandomHorizontalFlip")
    2657521645
    """
    tagged = [f"s{len(p)}:{p}" if isinstance(p, str) else f"i{int(p)};" for p in parts]
    return zlib.crc32("".join(tagged).encode("utf-8"))


def uniform(
    seed: int, epoch: int, samples: npt.NDArray[np.int64], draw: int, count: int
) -> npt.NDArray[np.float64]:
    """Return `count` uniform numbers for each sample, without compiled code: usable where numba must not run.

    `Draws.uniform` gives the same in a seventh of the time (1024 samples; a third with 22 numbers each).

    Parameters
    ----------
    seed, epoch, draw : int
        In [0, 2**64), [0, 2**32) and [0, 2**32).
    samples : ndarray of int64, shape (N,)
        Ids in [0, 2**48), in any order; equal ids get equal numbers.
    count : int
        In [0, 2**18].

    Returns
    -------
    ndarray of float64, shape (N, count)
        Multiples of 2**-32 in [0, 1), newly allocated. Column k does not depend on `count`.

    Raises
    ------
    PipelineError
        If an argument is out of range; nothing silently wraps around.
    """
    ids = np.asarray(samples)
    _check_ranges(seed, epoch, ids, draw, count)
    blocks = -(-count // 4)
    low, high = _counter_halves(ids.astype(np.uint64), epoch, draw, blocks)
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], dtype=np.uint64)
    low, high = _philox_rounds(low, high, key.reshape(2, 1, 1))
    values = np.empty((len(ids), blocks, 4))
    for word, half in enumerate((low[0], high[0], low[1], high[1])):
        np.multiply(half, 2.0**-32, out=values[:, :, word])
    flat = values.reshape(len(ids), blocks * 4)
    return flat[:, :count]


def _check_ranges(seed: int, epoch: int, samples: npt.NDArray[np.int64], draw: int, count: int) -> None:
    limits = (("seed", seed, MAX_SEED), ("epoch", epoch, MAX_EPOCH), ("draw", draw, MAX_DRAW))
    for name, value, limit in (*limits, ("count", count, MAX_UNIFORMS)):
        if not 0 <= value <= limit:
            raise PipelineError(f"random draw: {name} must be in [0, {limit}], not {value}")
    if samples.ndim != 1 or samples.dtype.kind not in "iu":
        raise PipelineError(f"random draw: samples must be 1-D integers, not {samples.dtype} {samples.shape}")
    if len(samples) and not 0 <= samples.min() <= samples.max() <= MAX_SAMPLE:
        raise PipelineError(
            f"random draw: sample ids must be in [0, {MAX_SAMPLE}], got {samples.min()} to {samples.max()}"
        )


def _counter_halves(samples: Words64, epoch: int, draw: int, blocks: int) -> tuple[Words64, Words64]:
    """Return counter words (0, 2) and (1, 3) of all samples and blocks, each (2, N, blocks)."""
    low = np.empty((2, len(samples), blocks), dtype=np.uint64)
    high = np.empty_like(low)
    low[0] = (samples & _LOW_WORD)[:, None]
    low[1] = epoch
    block_bits = np.arange(blocks, dtype=np.uint64) << np.uint64(16)
    high[0] = (samples >> _WORD_BITS)[:, None] | block_bits
    high[1] = draw
    return low, high


def _philox_rounds(low: Words64, high: Words64, key: Words64) -> tuple[Words64, Words64]:
    """Return the encrypted counter words (0, 2) and (1, 3): 32-bit values in uint64 of shape (2, ...).

    `low` and `high` are overwritten as scratch space. Two words side by side in three buffers take 6 numpy
    calls per round instead of 10.
    """
    multipliers = _MULTIPLIERS.reshape(2, *(1,) * (low.ndim - 1))
    product = np.empty_like(low)
    for weyl in _WEYL_OF_ROUND:
        round_key = (key + weyl.reshape(multipliers.shape)) & _LOW_WORD
        np.multiply(low, multipliers, out=product)
        np.right_shift(product, _WORD_BITS, out=low)
        np.bitwise_xor(low[::-1], high, out=high)
        np.bitwise_xor(high, round_key, out=high)
        np.bitwise_and(product[::-1], _LOW_WORD, out=low)
        low, high = high, low
    return low, high
