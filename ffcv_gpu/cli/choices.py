"""The choices for options of ``ffcv-gpu write``, and the parsing of options given as text."""

from __future__ import annotations

from enum import Enum

import typer

__all__ = ["Check", "Exif", "Mode", "OnError", "Subsampling", "bytes_of", "shard_of"]

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Mode(Enum):
    """How images are stored."""

    keep = "keep"
    raw = "raw"
    jpg = "jpg"
    proportion = "proportion"
    smart = "smart"
    auto = "auto"


class Exif(Enum):
    """What to do with an EXIF rotation."""

    ignore = "ignore"
    apply = "apply"


class Subsampling(Enum):
    """Chroma subsampling of JPEGs."""

    s420 = "4:2:0"
    s422 = "4:2:2"
    s444 = "4:4:4"


class OnError(Enum):
    """What to do with an image that cannot be stored."""

    raise_ = "raise"
    skip = "skip"


class Check(Enum):
    """How an image is checked before it is trusted."""

    decode = "decode"
    header = "header"


def bytes_of(text: str) -> int:
    """Return the number of bytes in a size such as ``8MiB``."""
    number = text.lower().removesuffix("ib").removesuffix("b")
    digits = number.rstrip("kmg")
    unit = number[len(digits) :]
    if not digits.isdecimal() or unit not in UNITS:
        raise typer.BadParameter(f"--page-size {text!r} is not a size; give 8MiB, or a number of bytes")
    return int(digits) * UNITS[unit]


def shard_of(text: str | None) -> tuple[int, int] | None:
    """Return index and count of a shard given as ``17/512``."""
    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise typer.BadParameter(f"--shard {text!r}: give index/count, as in 17/512; the index starts at 0")
    return int(index), int(count)
