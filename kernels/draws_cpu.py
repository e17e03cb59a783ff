"""Philox4x32-10 for many samples: the numbers of `ffcv_gpu.draws`, whose docstring defines them."""

from __future__ import annotations

import numpy as np

from ffcv_gpu.kernels._numba import entry

__all__ = ["fill_uniform"]

# uint64 throughout: numba promotes uint64 with int64 to float64
LOW_WORD, WORD_BITS, BLOCK_BITS = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(16)
MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
ROUNDS = 10
UNIT = 2.0**-32


@entry
def fill_uniform(seed, epoch, draw, samples, out):
    """Write uniform numbers for each sample, without the GIL.

    Parameters
    ----------
    seed, epoch, draw : uint64
    samples : uint64 (N,), C-contiguous
    out : float64 (N, 4 * blocks), C-contiguous
        Filled with multiples of 2**-32 in [0, 1).
    """
    for n in range(out.shape[0]):
        sample_low, sample_high = samples[n] & LOW_WORD, samples[n] >> WORD_BITS
        for block in range(out.shape[1] // 4):
            c0, c1 = sample_low, sample_high | np.uint64(block) << BLOCK_BITS
            c2, c3 = epoch, draw
            key0, key1 = seed & LOW_WORD, seed >> WORD_BITS
            for _ in range(ROUNDS):
                even, odd = MULTIPLIER_0 * c0, MULTIPLIER_1 * c2
                c0, c1 = (odd >> WORD_BITS) ^ c1 ^ key0, odd & LOW_WORD
                c2, c3 = (even >> WORD_BITS) ^ c3 ^ key1, even & LOW_WORD
                key0, key1 = (key0 + WEYL_0) & LOW_WORD, (key1 + WEYL_1) & LOW_WORD
            at = 4 * block
            out[n, at], out[n, at + 1] = np.float64(c0) * UNIT, np.float64(c1) * UNIT
            out[n, at + 2], out[n, at + 3] = np.float64(c2) * UNIT, np.float64(c3) * UNIT
