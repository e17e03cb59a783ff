"""JPEGs that no encoder at hand writes, of 16 x 32 pixels, all of one grey."""

from __future__ import annotations

import numpy as np
import simplejpeg

__all__ = ["in_410", "of_12_bits"]

FRAME, SCAN, END = b"\xff\xc0\x00\x11\x08", b"\xff\xda", b"\xff\xd9"
#: components 1, 2 and 3: sampling factors and number of the quantisation table
IN_444, IN_410 = b"\1\x11\0\2\x11\1\3\x11\1", b"\1\x42\0\2\x11\1\3\x11\1"


def _plain() -> bytes:
    grey = np.full((16, 32, 3), 128, np.uint8)
    return bytes(simplejpeg.encode_jpeg(grey, 90, "RGB", "444"))


def of_12_bits() -> bytes:
    """Return a file whose header claims 12 bits per sample."""
    data = _plain()
    assert data.count(FRAME) == 1
    return data.replace(FRAME, FRAME[:-1] + b"\x0c")


def in_410() -> bytes:
    """Return a valid file whose chroma has a quarter of the columns and half of the rows: one unit of it.

    Its eight empty blocks of luma take six bits each, its two of chroma four, in the standard Huffman codes.
    """
    data = _plain()
    head = data[: data.index(SCAN) + 14]
    assert head.count(IN_444) == 1
    return head.replace(IN_444, IN_410) + int("001010" * 8 + "0000" * 2, 2).to_bytes(7, "big") + END
