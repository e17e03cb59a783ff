"""What the engine asks of a JPEG backend: pixels into its arena, and a status for each image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ffcv_gpu.steps import IntArray

__all__ = [
    "Box", "Capabilities", "DecodeStatus", "Decoded", "Encoded", "Fault", "File", "FileBackend", "Finished",
    "JpegBackend", "Ticket",
]  # fmt: skip

ByteArray = npt.NDArray[np.uint8]
#: y, x, height, width in pixels of an image
Box = tuple[int, int, int, int]
#: a number to know it by; its bytes; memory for rows of RGB; height and width, as its headers say; the
#: rectangle whose pixels are needed (None: all), which lie where they do in the whole image
File = tuple[int, ByteArray, ByteArray, int, int, Box | None]


class DecodeStatus(IntEnum):
    """The result of decoding one image; 0 is good.

    `GOOD`: decoded. `BAD_JPEG`: not a JPEG, or a damaged one. `UNSUPPORTED`: a kind of JPEG that the backend
    cannot decode. `WRONG_SIZE`: the size differs from the one in the file's metadata. `BAD_CHECKSUM`: the
    stored bytes do not match their checksum, and nothing was decoded.
    """

    GOOD = 0
    BAD_JPEG = 1
    UNSUPPORTED = 2
    WRONG_SIZE = 3
    BAD_CHECKSUM = 4


#: why an image has no pixels: what a decoder calls it, and in its own words
Fault = tuple[DecodeStatus, str]


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do; declared, not found out by failing.

    `roi`: decodes only a rectangle, if told to (`Encoded.boxes`). `scaling`: decodes at 1/2, 1/4, 1/8.
    `progressive`, `cmyk`: accepts such files.
    """

    roi: bool = False
    scaling: bool = False
    progressive: bool = False
    cmyk: bool = False


@dataclass(frozen=True)
class Encoded:
    """Compressed images of one call; the arrays have shape (n,).

    `stored` (uint8, read-only) must stay unchanged until the ticket was waited for. `facts`
    (`ffcv_gpu.format.JPEG_FACTS`) are the file's own, and are believed; without them, a backend that needs
    them reads the headers. `boxes`, int (n, 4), are the rectangles whose pixels are needed (y, x, height,
    width, inside the image); a backend without `Capabilities.roi` decodes the rest as well.
    """

    stored: ByteArray
    offsets: IntArray
    lengths: IntArray
    heights: IntArray
    widths: IntArray
    facts: npt.NDArray[Any] | None = None
    boxes: IntArray | None = None


@dataclass(frozen=True)
class Decoded:
    """The outcome of one call.

    Attributes
    ----------
    status : int8 (n,)
        Of `DecodeStatus`.
    reasons : mapping
        The decoder's own words for images that are not good.
    routes : mapping
        How many images were decoded in which way, where a backend has several; and what went wrong.
    """

    status: npt.NDArray[np.int8]
    reasons: Mapping[int, str] = field(default_factory=dict)
    routes: Mapping[str, int] = field(default_factory=dict)

    def take(self, lo: int, hi: int) -> Decoded:
        """Return the outcome of images [lo, hi), counted from 0, without the routes."""
        reasons = {i - lo: words for i, words in self.reasons.items() if lo <= i < hi}
        return Decoded(self.status[lo:hi], reasons)


class Ticket(Protocol):
    """Work handed to a backend."""

    def wait(self) -> Decoded:
        """Block until the pixels are there (or known to be missing)."""


class Finished:
    """A ticket whose work is done."""

    def __init__(self, decoded: Decoded) -> None:
        self._decoded = decoded

    def wait(self) -> Decoded:
        """Return the outcome at once."""
        return self._decoded


class JpegBackend(Protocol):
    """Turns JPEG bytes into pixels. Never raises for a bad image."""

    @property
    def name(self) -> str:
        """Name as in ``jpeg_backend=`` and in ``loader.stats()``."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    def submit(self, encoded: Encoded, arena: Any, offsets: IntArray) -> Ticket:
        """Start to decode; image i goes to ``arena[offsets[i]:]`` as rows of RGB, 3 * width bytes a row.

        With `Encoded.boxes`, the pixels of a box lie where they do in the whole image; what the memory of
        the image holds outside the box is anybody's guess.

        Parameters
        ----------
        encoded : Encoded
        arena : uint8 (bytes,)
            The device's memory for pixels; belongs to the caller, who leaves it alone until the ticket
            was waited for.
        offsets : int64 (n,)
        """


class FileBackend(Protocol):
    """A backend on the CPU that also decodes files that lie anywhere, to anywhere; any thread may call."""

    def decode_files(self, files: Iterable[File]) -> dict[int, Fault]:
        """Decode files now, each when it comes; return what is wrong with those that are not good."""
