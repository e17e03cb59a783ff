"""libturbojpeg 3 with nothing around it: the other floor, without simplejpeg's handle per call."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import contender
import floor_loader
import numpy as np
import turbojpeg3 as tj3


class Decoder:
    """A handle of one thread, and memory for the largest image."""

    def __init__(self, library: ctypes.CDLL, size: int, *, fast: bool) -> None:
        self._library, self._memory = library, np.empty(size, np.uint8)
        self._handle = library.tj3Init(tj3.TJINIT_DECOMPRESS)
        self._checked(library.tj3Set(self._handle, tj3.TJPARAM_FASTDCT, int(fast)))

    def shape(self, file: bytes) -> tuple[int, int, int]:
        """Read a header."""
        library, handle = self._library, self._handle
        self._checked(library.tj3DecompressHeader(handle, file, len(file)))
        return (
            library.tj3Get(handle, tj3.TJPARAM_JPEGHEIGHT),
            library.tj3Get(handle, tj3.TJPARAM_JPEGWIDTH),
            3,
        )

    def decode(self, file: bytes) -> Any:
        """Decode; the pixels are good until the next call."""
        shape = self.shape(file)
        to = self._memory.ctypes.data
        self._checked(self._library.tj3Decompress8(self._handle, file, len(file), to, 0, tj3.TJPF_RGB))
        return self._memory[: shape[0] * shape[1] * 3].reshape(shape)

    def _checked(self, status: int) -> None:
        if status:
            raise ValueError(self._library.tj3GetErrorStr(self._handle).decode(errors="replace"))


def make_decoder(files: Sequence[bytes], threads: int, dct: str = "accurate", **_: Any) -> Callable[[], Any]:
    """Decode in threads, each with a handle and memory of its own."""
    library, mine = tj3.library(), threading.local()
    header = Decoder(library, 1, fast=False)
    size = max(height * width * 3 for height, width, _ in map(header.shape, files))

    def decode(file: bytes) -> Any:
        if not hasattr(mine, "decoder"):
            mine.decoder = Decoder(library, size, fast=dct == "fast")
        return mine.decoder.decode(file)

    return contender.by_threads(decode, files, threads)


if __name__ == "__main__":
    found = tj3.library()
    contender.serve(
        (), floor_loader.loader_of(make_decoder), make_decoder, library=os.path.basename(found._name)
    )
