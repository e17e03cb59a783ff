"""Learns which kinds of JPEG a GPU's engines accept and refuse.

nvJPEG documents little of what they accept, and a failed batched call does not name the bad image. Without
this, every batch with one image of a refused kind would be decoded twice, the second time one by one.
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

#: A kind counts as refused after this many failed calls that nothing else explains: one may be an accident.
PROOFS = 3
#: the flags of JPEG_FACTS that describe the bytes; the other bits describe how the file was written
_FLAGS = JpegFlag.RESTART | JpegFlag.MULTI_SCAN | JpegFlag.RGB_CODED | JpegFlag.CMYK | JpegFlag.TABLES_16BIT


def kinds_of(facts: npt.NDArray[Any], heights: Integers, widths: Integers) -> IntArray:
    """Return a number per image, int64 (n,), equal for images that an engine treats alike.

    It combines frame type, subsampling, components, flags and the powers of two of the sides.
    """
    kinds: IntArray = facts["encoding"].astype(np.int64) << 8 | facts["subsampling"].view(np.uint8)
    short, long = np.minimum(heights, widths), np.maximum(heights, widths)
    for part in (facts["components"], facts["flags"] & np.uint16(_FLAGS), _power(short), _power(long)):
        kinds = kinds << 8 | part
    return kinds


def _power(side: Integers) -> npt.NDArray[np.int64]:
    return np.frexp(side.astype(np.float64))[1].astype(np.int64)


class Experience:
    """Counts failed calls per kind and remembers decoded kinds; used under `Gpu.books`."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._mixed = 0  # failed calls with several kinds that may be the cause
        self._suspects: dict[int, int] = {}  # kind -> failed calls of which it is the only possible cause
        self._refused: set[int] = set()

    def corrected(self, routes: RouteArray, kinds: IntArray) -> RouteArray:
        """Return the routes, with other ones for images of kinds that the engine refuses."""
        if not self._refused:
            return routes
        refused = (routes == Route.ENGINE) & np.isin(kinds, list(self._refused))
        return np.where(refused, Route.GPU_HUFFMAN, routes).astype(np.int8)

    def calls(self, kinds: IntArray) -> list[IntArray]:
        """Return the indices of the images of each call: one call per suspected kind, one for all others."""
        if not self._suspects:
            return [np.arange(kinds.size)]
        rest = np.flatnonzero(~np.isin(kinds, list(self._suspects)))
        alone = (np.flatnonzero(kinds == kind) for kind in self._suspects)
        return [places for places in (rest, *alone) if places.size]

    def took(self, kinds: IntArray) -> None:
        """Record the kinds of images that a call decoded."""
        for kind in set(kinds.tolist()) - self._taken:
            self._taken.add(kind)
            self._suspects.pop(kind, None)

    def failed(self, kinds: IntArray) -> None:
        """Record the kinds of a failed call whose images could all be decoded one by one."""
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
                    "the JPEG engine refuses a kind of JPEG (%s): such images are now decoded another way",
                    _words(kind),
                )


def _words(kind: int) -> str:
    """Describe a kind in words."""
    encoding, subsampling, components, flags, short, long = kind.to_bytes(6, "big")
    names = ", ".join(flag.name or "" for flag in JpegFlag(flags))
    return (
        f"frame 0x{encoding:X}, subsampling {np.int8(np.uint8(subsampling))} of nvJPEG's enum, {components} "
        f"components, flags {names or 'none'}, shorter side {1 << short >> 1} to {(1 << short) - 1} pixels, "
        f"longer {1 << long >> 1} to {(1 << long) - 1}"
    )
