"""Bare simplejpeg: the limit of every loader that uses libjpeg-turbo."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import contender
import floor_loader
import numpy as np
import simplejpeg


def make_decoder(files: Sequence[bytes], threads: int, dct: str = "accurate", **_: Any) -> Callable[[], Any]:
    """Decode in threads, each into its own allocated memory."""
    size = max(3 * height * width for height, width, *_ in map(simplejpeg.decode_jpeg_header, files))
    mine = threading.local()

    def decode(file: bytes) -> Any:
        if not hasattr(mine, "memory"):
            mine.memory = np.empty(size, np.uint8)
        return simplejpeg.decode_jpeg(file, "RGB", dct == "fast", buffer=mine.memory)

    return contender.by_threads(decode, files, threads)


if __name__ == "__main__":
    contender.serve(("simplejpeg",), floor_loader.loader_of(make_decoder), make_decoder)
