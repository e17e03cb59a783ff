"""The protocol of JPEG backends: they write pixels to an arena and return a status per image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ffcv_gpu.steps import IntArray

__all__ = [
    "HOST_BACKENDS", "NO_MEMORY", "UNNAMED_CHROMA", "Box", "Capabilities", "DecodeStatus", "Decoded",
    "Encoded", "Fault", "File", "FileBackend", "Finished", "JpegBackend", "Ticket",
]  # fmt: skip

ByteArray = npt.NDArray[np.uint8]
#: names of the backends on the CPU, as in ``jpeg_backend=``
HOST_BACKENDS = ("turbo", "turbo2", "turbo3")
#: what simplejpeg's libjpeg-turbo says of a chroma sampling that it has no name for (4:1:0, 3:1), although it
#: could decode it; but also of bytes that are no JPEG, and of damaged tables
UNNAMED_CHROMA = "Could not determine subsampling"
#: what libjpeg says where memory runs out: no fault of the image
NO_MEMORY = "Insufficient memory"
#: y, x, height, width in pixels of an image
Box = tuple[int, int, int, int]
#: index; bytes; memory for rows of RGB; height and width from its headers; the rectangle whose pixels are
#: needed (None: all), which are written where they are in the whole image
File = tuple[int, ByteArray, ByteArray, int, int, Box | None]


class DecodeStatus(IntEnum):
    """The result of decoding one image; 0 is good.

    `GOOD`: decoded. `BAD_JPEG`: not a JPEG, a damaged one, or one with too many pixels (`ffcv_gpu.limits`).
    `UNSUPPORTED`: a kind of JPEG that the backend cannot decode. `WRONG_SIZE`: the size differs from the one
    in the file's metadata. `BAD_CHECKSUM`: the stored bytes do not match their checksum, and nothing was
    decoded.
    """

    GOOD = 0
    BAD_JPEG = 1
    UNSUPPORTED = 2
    WRONG_SIZE = 3
    BAD_CHECKSUM = 4


#: why an image has no pixels: its status, and the decoder's own message
Fault = tuple[DecodeStatus, str]


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do, as it declares.

    `roi`: can decode only a rectangle (`Encoded.boxes`). `engine_images`: images that the GPU's JPEG engines
    decode at the same time, 0 without engines; None for a backend on the CPU.
    """

    roi: bool = False
    engine_images: int | None = None


@dataclass(frozen=True)
class Encoded:
    """Compressed images of one call; the arrays have shape (n,).

    `stored` (uint8, read-only) must not change until the ticket's `wait` returns. `facts`
    (`ffcv_gpu.format.JPEG_FACTS`) come from the dataset and are trusted; without them, a backend that needs
    them reads the headers. `boxes`, int (n, 4), are the rectangles whose pixels are needed (y, x, height,
    width, inside the image); a backend without `Capabilities.roi` decodes whole images. `pitches`, on
    a GPU only, are the bytes from row to row of the decoded pixels; by default, 3 * width.
    """

    stored: ByteArray
    offsets: IntArray
    lengths: IntArray
    heights: IntArray
    widths: IntArray
    facts: npt.NDArray[Any] | None = None
    boxes: IntArray | None = None
    pitches: IntArray | None = None


@dataclass(frozen=True)
class Decoded:
    """The outcome of one call.

    Attributes
    ----------
    status : int8 (n,)
        Values of `DecodeStatus`.
    reasons : mapping
        Index -> the decoder's own message, for images that are not good.
    routes : mapping
        Number of images by the way they were decoded, if a backend has several; also counts of failures.
    windows : int64 (n, 4), optional
        y, x, height, width of the part of each image that the arena holds from the image's offset on, in rows
        of 3 * width bytes; None: whole images.
    """

    status: npt.NDArray[np.int8]
    reasons: Mapping[int, str] = field(default_factory=dict)
    routes: Mapping[str, int] = field(default_factory=dict)
    windows: IntArray | None = None

    def take(self, lo: int, hi: int) -> Decoded:
        """Return the outcome of images [lo, hi), counted from 0, without the routes."""
        reasons = {i - lo: words for i, words in self.reasons.items() if lo <= i < hi}
        windows = None if self.windows is None else self.windows[lo:hi]
        return Decoded(self.status[lo:hi], reasons, windows=windows)


class Ticket(Protocol):
    """Work submitted to a backend."""

    def wait(self) -> Decoded:
        """Block until all images are decoded or have failed, and return the outcome."""


class Finished:
    """A ticket whose work is done."""

    def __init__(self, decoded: Decoded) -> None:
        self._decoded = decoded

    def wait(self) -> Decoded:
        """Return the outcome at once."""
        return self._decoded


class JpegBackend(Protocol):
    """Decodes JPEG bytes to pixels. Never raises for a bad image; `MemoryError` if memory runs out."""

    @property
    def name(self) -> str:
        """Name as in ``jpeg_backend=`` and in ``loader.stats()``."""

    @property
    def capabilities(self) -> Capabilities:
        """What the backend can do."""

    def submit(self, encoded: Encoded, arena: Any, offsets: IntArray) -> Ticket:
        """Start to decode; image i goes to ``arena[offsets[i]:]`` as rows of RGB, 3 * width bytes per row.

        With `Encoded.boxes`, the pixels of a box are written where they are in the whole image, or in the
        part of it that `Decoded.windows` names; the image's memory outside the box is undefined.

        Parameters
        ----------
        encoded : Encoded
        arena : uint8 (bytes,)
            The device's memory for pixels, owned by the caller, who must not access it until the ticket's
            `wait` returns.
        offsets : int64 (n,)
            Offset of each image in `arena`, bytes.
        """


class FileBackend(Protocol):
    """A CPU backend that also decodes files each in its own memory; thread-safe."""

    def decode_files(self, files: Iterable[File]) -> dict[int, Fault]:
        """Decode files one by one as `files` yields them; return the faults of bad ones, by index."""
