"""What the options of ``ffcv-gpu write`` may be, and what those that are written as text mean."""

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
    """What becomes of an EXIF rotation."""

    ignore = "ignore"
    apply = "apply"


class Subsampling(Enum):
    """Chroma of JPEGs."""

    s420 = "4:2:0"
    s422 = "4:2:2"
    s444 = "4:4:4"


class OnError(Enum):
    """What becomes of an image that cannot be stored."""

    raise_ = "raise"
    skip = "skip"


class Check(Enum):
    """How an image is looked at before it is trusted."""

    decode = "decode"
    header = "header"


def bytes_of(text: str) -> int:
    """Return the bytes that a size such as ``8MiB`` means."""
    number = text.lower().removesuffix("ib").removesuffix("b")
    digits = number.rstrip("kmg")
    unit = number[len(digits) :]
    if not digits.isdecimal() or unit not in UNITS:
        raise typer.BadParameter(f"--page-size {text!r} is no size; write 8MiB, or a number of bytes")
    return int(digits) * UNITS[unit]


def shard_of(text: str | None) -> tuple[int, int] | None:
    """Return the two numbers of ``17/512``."""
    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise typer.BadParameter(f"--shard {text!r}: write 17/512, which one (from 0) and of how many")
    return int(index), int(count)
