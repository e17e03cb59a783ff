"""Bare libturbojpeg 3: whole images, each into its thread's memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import contender
import floor_loader
import numpy as np
import simplejpeg

from ffcv_gpu.jpeg.turbo3 import Turbo3Backend
from ffcv_gpu.native.turbojpeg3 import required


def make_decoder(files: Sequence[bytes], threads: int, dct: str = "accurate", **_: Any) -> Callable[[], Any]:
    """Decode in threads, each with its own memory."""
    backend, mine = Turbo3Backend(dct), threading.local()
    headers = [simplejpeg.decode_jpeg_header(file)[:2] for file in files]
    images = [(np.frombuffer(file, np.uint8), *size) for file, size in zip(files, headers, strict=True)]
    most = max(3 * height * width for height, width in headers)

    def decode(image: Any) -> Any:
        data, height, width = image
        if not hasattr(mine, "memory"):
            mine.memory = np.empty(most, np.uint8)
        if faults := backend.decode_files([(0, data, mine.memory, height, width, None)]):
            raise ValueError(f"libturbojpeg: {faults[0][1]}")
        return mine.memory[: 3 * height * width].reshape(height, width, 3)

    return contender.by_threads(decode, images, threads)


if __name__ == "__main__":
    name = os.path.basename(required()._name)
    contender.serve((), floor_loader.loader_of(make_decoder), make_decoder, library=name)
