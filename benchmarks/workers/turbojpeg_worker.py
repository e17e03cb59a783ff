"""Bare libturbojpeg 3: like bare simplejpeg, but without a new handle per call."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import contender
import floor_loader
import numpy as np

from ffcv_gpu.native.turbojpeg3 import Decompressor, required


class Decoder:
    """One thread's handle, and memory for the largest image."""

    def __init__(self, size: int, *, fast: bool) -> None:
        self._handle, self._memory = Decompressor(required(), fast), np.empty(size, np.uint8)

    def decode(self, file: Any) -> Any:
        """Decode; the pixels are valid until the next call."""
        shape = header(self._handle, file)
        to = self._memory.ctypes.data
        if not self._handle.decode(file.ctypes.data, file.size, to, 3 * shape[1]):
            raise ValueError("libturbojpeg cannot decode this")
        return self._memory[: shape[0] * shape[1] * 3].reshape(shape)


def header(handle: Decompressor, file: Any) -> tuple[int, int, int]:
    """Return the shape of an image."""
    found = handle.header(file.ctypes.data, file.size)
    if found is None:
        raise ValueError("libturbojpeg finds no header")
    return found[0], found[1], 3


def make_decoder(files: Sequence[bytes], threads: int, dct: str = "accurate", **_: Any) -> Callable[[], Any]:
    """Decode in threads, each with its own handle and memory."""
    arrays, mine = [np.frombuffer(file, np.uint8) for file in files], threading.local()
    asked = Decompressor(required(), False)
    size = max(height * width * 3 for height, width, _ in (header(asked, file) for file in arrays))

    def decode(file: Any) -> Any:
        if not hasattr(mine, "decoder"):
            mine.decoder = Decoder(size, fast=dct == "fast")
        return mine.decoder.decode(file)

    return contender.by_threads(decode, arrays, threads)


if __name__ == "__main__":
    name = os.path.basename(required().name)
    contender.serve((), floor_loader.loader_of(make_decoder), make_decoder, library=name)
