"""What the JPEG engines of a GPU were seen to take and to refuse, by kind of JPEG.

nvJPEG documents little of what they take, and a batched call that fails does not say for which image. A kind
that is refused in silence would cost every batch with one such image a second try, one by one, for ever.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.format import JpegFlag
from ffcv_gpu.jpeg.routing import Integers, Route, RouteArray
from ffcv_gpu.steps import IntArray

__all__ = ["PROOFS", "Experience", "kinds_of"]

_log = logging.getLogger(__name__)

#: Failed calls for which nothing else can be blamed, until a kind counts as refused: one may be an accident.
PROOFS = 3
#: of JPEG_FACTS, what is in the bytes; the other bits tell how the file was written
_FLAGS = JpegFlag.RESTART | JpegFlag.MULTI_SCAN | JpegFlag.RGB_CODED | JpegFlag.CMYK | JpegFlag.TABLES_16BIT


def kinds_of(facts: npt.NDArray[Any], heights: Integers, widths: Integers) -> IntArray:
    """Return a number for each image, equal for those that an engine can only treat alike.

    That is frame, subsampling, components, flags and the powers of two of the sides, as int64 (n,).
    """
    kinds: IntArray = facts["encoding"].astype(np.int64) << 8 | facts["subsampling"].view(np.uint8)
    short, long = np.minimum(heights, widths), np.maximum(heights, widths)
    for part in (facts["components"], facts["flags"] & np.uint16(_FLAGS), _power(short), _power(long)):
        kinds = kinds << 8 | part
    return kinds


def _power(side: Integers) -> npt.NDArray[np.int64]:
    return np.frexp(side.astype(np.float64))[1].astype(np.int64)


class Experience:
    """Counts calls that failed and calls that did not; used under `Gpu.books`."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._mixed = 0  # failed calls that any of several kinds can have made fail
        self._suspects: dict[int, int] = {}  # failed calls that only this kind can have made fail
        self._refused: set[int] = set()

    def corrected(self, routes: RouteArray, kinds: IntArray) -> RouteArray:
        """Return the routes with other ones for images of which the engine would refuse the kind."""
        if not self._refused:
            return routes
        refused = (routes == Route.ENGINE) & np.isin(kinds, list(self._refused))
        return np.where(refused, Route.GPU_HUFFMAN, routes).astype(np.int8)

    def calls(self, kinds: IntArray) -> list[IntArray]:
        """Return the places of images that share a call: all, but those of a suspected kind by themselves."""
        if not self._suspects:
            return [np.arange(kinds.size)]
        rest = np.flatnonzero(~np.isin(kinds, list(self._suspects)))
        alone = (np.flatnonzero(kinds == kind) for kind in self._suspects)
        return [places for places in (rest, *alone) if places.size]

    def took(self, kinds: IntArray) -> None:
        """Note the kinds of images that a call decoded."""
        for kind in set(kinds.tolist()) - self._taken:
            self._taken.add(kind)
            self._suspects.pop(kind, None)

    def failed(self, kinds: IntArray) -> None:
        """Note the kinds of a call that failed though each of its images can be decoded one by one."""
        unknown = set(kinds.tolist()) - self._taken
        if len(unknown) > 1:
            self._mixed += 1
            if self._mixed > 1:  # once may be an accident
                self._suspects = dict.fromkeys(unknown, 0) | self._suspects
        for kind in unknown if len(unknown) == 1 else ():
            self._suspects[kind] = self._suspects.get(kind, 0) + 1
            if self._suspects[kind] >= PROOFS:
                del self._suspects[kind]
                self._refused.add(kind)
                _log.warning(
                    "the JPEG engine refuses a kind of JPEG (%s): from now on they go another way",
                    _words(kind),
                )


def _words(kind: int) -> str:
    """Say what a kind is."""
    encoding, subsampling, components, flags, short, long = kind.to_bytes(6, "big")
    names = ", ".join(flag.name or "" for flag in JpegFlag(flags))
    return (
        f"frame 0x{encoding:X}, subsampling {np.int8(np.uint8(subsampling))} of nvJPEG's enum, {components} "
        f"components, flags {names or 'none'}, shorter side {1 << short >> 1} to {(1 << short) - 1} pixels, "
        f"longer {1 << long >> 1} to {(1 << long) - 1}"
    )
