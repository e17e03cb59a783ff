"""An image as it is stored: raw pixels, the JPEG that came, a lossless rewrite of it, or a new one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ffcv_gpu.fields.base import EncodeNote
from ffcv_gpu.fields.incoming import Incoming, Pixels
from ffcv_gpu.format import JpegFlag
from ffcv_gpu.jpeg.crop_index import with_crop_index
from ffcv_gpu.jpeg.facts import BASELINE, JpegHeader, scan_jpeg
from ffcv_gpu.jpeg.rewrite import (
    SUBSAMPLING_NAMES,
    Scratch,
    UnnamedChroma,
    check_jpeg,
    dct_divisor,
    decode_rgb,
    encode_jpeg,
    lossless_baseline,
    shrunk,
    shrunk_sides,
)

__all__ = ["PIXEL_QUALITY", "RECODE_QUALITY", "SUBSAMPLINGS", "Outgoing", "Workspace"]

#: JPEG quality for pixels that were never JPEG (FFCV's default), and for JPEGs that must be re-encoded
PIXEL_QUALITY, RECODE_QUALITY = 90, 95
#: 4:2:0 in JPEG_FACTS, the default of `encode_jpeg`
_420 = 2
#: the field's `subsampling`, and its codes in JPEG_FACTS
SUBSAMPLINGS = {None: _420, "4:2:0": _420, "4:2:2": 1, "4:4:4": 0}
#: the share of chroma samples that each code keeps
_CHROMA = {0: 1.0, 1: 0.5, 3: 0.5, 2: 0.25, 4: 0.25, 5: 0.125, 6: 0.0}


@dataclass(frozen=True, slots=True)
class Workspace:
    """Memory that a field reuses from image to image: decoded pixels, and float32 rows for shrinking."""

    pixels: Scratch = field(default_factory=Scratch)
    floats: Scratch = field(default_factory=Scratch)


@dataclass(slots=True)  # one is made for each image: frozen, that takes 3 us instead of 1
class Outgoing:
    """One image and how it is to be stored: see `RGBImageField`'s parameters of these names.

    `limit` is the longest side that may remain, None without limit. `turns` says that EXIF orientations are
    applied.
    """

    image: Incoming
    workspace: Workspace
    limit: int | None
    turns: bool
    check: str
    jpeg_quality: int | None
    subsampling: str | None
    dct_scaling: bool
    crop_index: bool

    @property
    def turn(self) -> int:
        """The EXIF orientation to apply; 0 if there is nothing to turn."""
        return self.image.orientation if self.turns and self.image.orientation > 1 else 0

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width as stored."""
        height, width = shrunk_sides(self.image.height, self.image.width, self.limit)
        return (width, height) if self.turn > 4 else (height, width)

    @property
    def orientation(self) -> int:
        """The EXIF orientation that is left once it is stored."""
        return 1 if self.turn else self.image.orientation

    def raw(self, out: Pixels) -> EncodeNote:
        """Write the pixels to `out`, uint8 (height * width * 3,)."""
        self._pixels(out)
        return EncodeNote("raw", (-1, 0, 3, self.orientation, 0), turned=self.turn > 0)

    def jpeg(self) -> tuple[bytes, EncodeNote]:
        """Return the JPEG to store: the incoming bytes, a lossless baseline rewrite, or a new encoding."""
        data, note = self._plain_jpeg()
        return self._indexed(data, note) if self.crop_index else (data, note)

    # ---- which JPEG

    def _plain_jpeg(self) -> tuple[bytes, EncodeNote]:
        """Return what `jpeg` does, without an index for crops."""
        header, wished = self.image.header, SUBSAMPLINGS[self.subsampling]
        if header is None:
            data = encode_jpeg(self._pixels(), self.jpeg_quality or PIXEL_QUALITY, wished)
            return data, self._encoded("jpeg encoded", wished)
        reasons = [*header.oddities]
        if self._is_finer(header):
            reasons.append(f"chroma finer than {self.subsampling}")
        if self._shrinks:
            reasons.append(f"longer side over {self.limit}")
        if self.turn:
            reasons.append("EXIF rotation")
        if not reasons:
            try:
                return self.image.data, self._kept("jpeg pass-through", self.image.data, header)
            except UnnamedChroma:
                reasons.append("rare chroma sampling")
        if len(reasons) == len(header.oddities) and header.components in (1, 3):
            plain = lossless_baseline(self.image.data)
            if plain is not None:
                note = self._kept("jpeg rewritten", *plain, JpegFlag.LOSSLESS_REWRITTEN)
                return plain[0], replace(note, reason=f"{', '.join(reasons)}: made baseline without loss")
        kept = header.subsampling if header.subsampling in SUBSAMPLING_NAMES else wished
        if self._is_finer(header):
            kept = wished
        data = encode_jpeg(self._pixels(), self.jpeg_quality or RECODE_QUALITY, kept)
        return data, replace(self._encoded("jpeg encoded again", kept), reason=", ".join(reasons))

    def _kept(self, mode: str, data: bytes, header: JpegHeader, flags: int = 0) -> EncodeNote:
        """Return the note for JPEG bytes that are stored unchanged, after the requested check."""
        if self.check == "decode":
            check_jpeg(data, header, self.workspace.pixels)
            flags |= JpegFlag.DECODE_CHECKED
        facts = (header.subsampling, header.encoding, header.components, header.exif_orientation)
        return EncodeNote(mode, (*facts, header.flags | flags))

    def _encoded(self, mode: str, subsampling: int) -> EncodeNote:
        """Return the note for a JPEG that we encoded."""
        flags = JpegFlag.DECODE_CHECKED
        if self.image.header is not None:
            flags |= JpegFlag.TRANSCODED
        components = 1 if SUBSAMPLING_NAMES[subsampling] == "Gray" else 3
        facts = (subsampling, BASELINE, components, self.orientation, int(flags))
        return EncodeNote(mode, facts, turned=self.turn > 0)

    def _is_finer(self, header: JpegHeader) -> bool:
        """Whether a JPEG has finer chroma than `subsampling`, if that is given."""
        most = _CHROMA[SUBSAMPLINGS[self.subsampling]]
        return self.subsampling is not None and _CHROMA.get(header.subsampling, 0.0) > most

    @property
    def _shrinks(self) -> bool:
        return self.limit is not None and max(self.image.height, self.image.width) > self.limit

    @staticmethod
    def _indexed(data: bytes, note: EncodeNote) -> tuple[bytes, EncodeNote]:
        """Return the JPEG with an index for crops; unchanged if it cannot have one."""
        indexed = with_crop_index(data, scan_jpeg(data))
        if indexed is None or note.facts is None:
            return data, note
        *kind, flags = note.facts
        subsampling, encoding, components, orientation = kind
        facts = subsampling, encoding, components, orientation, int(flags | JpegFlag.CROP_INDEX)
        return indexed, replace(note, facts=facts)

    # ---- its pixels

    def _pixels(self, out: Pixels | None = None) -> Pixels:
        """Return the pixels, resized and rotated; in `out`, uint8 (bytes,), if given."""
        image = self.image
        sides = shrunk_sides(image.height, image.width, self.limit)
        room = None if self.turn else out
        pixels = image.pixels if image.header is None else self._decoded(image.header, sides, room)
        pixels = _turned(shrunk(pixels, sides, self.workspace.floats, room), self.turn)
        if out is not None and not np.may_share_memory(pixels, out):
            out.reshape(pixels.shape)[...] = pixels
        return pixels

    def _decoded(self, header: JpegHeader, sides: tuple[int, int], room: Pixels | None) -> Pixels:
        """Return a JPEG's pixels, at least `sides`; in `room` if it is given and has their size."""
        image = self.image
        divisor = dct_divisor(image.height, image.width, sides) if self.dct_scaling else 1
        if room is None or sides != (image.height, image.width):
            room = self.workspace.pixels(3 * image.height * image.width)
        return decode_rgb(image.data, header, room, divisor)


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """Return pixels in the orientation in which EXIF says to display them (0: unchanged)."""
    if orientation > 4:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
