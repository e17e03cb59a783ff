"""Shared by the workers: answers the suite's requests with a worker's loader and decoder.

A worker has ``make_loader`` (returns an iterable of batches ``(images, labels)``, one epoch per ``iter()``),
``make_decoder`` (returns a function that decodes all files once and returns the last image), or both.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

import protocol

__all__ = ["Handlers", "by_threads", "described", "labelled", "read_files", "serve"]

Decode = Callable[[], Any]


class Handlers:
    """The answers to the suite's requests; one loader and one decoder at a time.

    Parameters
    ----------
    packages
        whose versions the result records
    make_loader, make_decoder
        see the module
    library
        prefix of the file name of a loaded shared library, whose full name the result records as its version
    """

    def __init__(
        self,
        packages: Iterable[str],
        make_loader: Callable[..., Iterable[Any]] | None = None,
        make_decoder: Callable[..., Decode] | None = None,
        library: str = "",
    ) -> None:
        self._packages, self._make_loader, self._make_decoder = packages, make_loader, make_decoder
        self._library = library
        self.loader: Any = None
        self._decode: Any = None
        self._count = 0

    def facts(self, cores: int) -> protocol.Answer:
        """Pin this process to the cores and return the versions."""
        protocol.use_cores(cores)
        found = {name: version for name in self._packages if (version := installed(name))}
        return found | ({"library": mapped(self._library)} if self._library else {})

    def open_loader(self, **request: Any) -> protocol.Answer:
        """Make a loader and run a first epoch."""
        self.loader, answer = protocol.first_batch_of(lambda: self._make_loader(**request))
        return answer

    def epoch(self) -> protocol.Answer:
        """Run one epoch."""
        return protocol.epoch_of(self.loader)

    def open_files(self, listing: str, count: int, threads: int, **settings: Any) -> protocol.Answer:
        """Read `count` files of a list, repeated as needed; decode all once and describe the last image."""
        files = read_files(listing, count)
        self._decode, self._count = self._make_decoder(files, threads, **settings), count
        return described(self._decode())

    def decode(self) -> protocol.Answer:
        """Decode all files once."""
        clock = protocol.Clock()
        self._decode()
        return clock.answer() | {"images": self._count}


def serve(*arguments: Any, **more: Any) -> None:
    """Answer requests with ``Handlers(*arguments, **more)`` until stdin ends."""
    protocol.serve(Handlers(*arguments, **more))


def installed(name: str) -> str:
    """Return the version of an installed package, or ""."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def mapped(library: str) -> str:
    """Return the file name of the loaded shared library with this prefix, or "unknown"."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        names = {os.path.basename(line.split()[-1]) for line in maps if "/" in line}
    return next((name for name in sorted(names) if name.startswith(library)), "unknown")


def read_files(listing: str, count: int) -> list[bytes]:
    """Return the bytes of `count` files of a JSON list of paths, repeated as needed."""
    with open(listing, encoding="utf-8") as file:
        paths = json.load(file)
    once = []
    for path in paths[:count]:
        with open(path, "rb") as file:
            once.append(file.read())
    return [once[i % len(once)] for i in range(count)]


def described(image: Any) -> protocol.Answer:
    """Return height, width and mean grey level of an image, to compare decoders by."""
    import numpy as np

    pixels = np.asarray(image)
    if pixels.shape[0] == 3 and pixels.shape[-1] != 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"decoded to {pixels.dtype}{pixels.shape}, not to 8-bit RGB")
    return {"height": pixels.shape[0], "width": pixels.shape[1], "mean": float(pixels.mean())}


def by_threads(decode: Callable[[Any], Any], files: Sequence[Any], threads: int) -> Decode:
    """Return a function that decodes all files in a pool of threads, each taking the next file."""
    pool = ThreadPoolExecutor(threads)

    def all_files() -> Any:
        left = enumerate(files)  # shared by the threads: each file is taken once

        def some() -> tuple[int, Any]:
            number, image = -1, None
            for number, file in left:  # noqa: B007
                image = decode(file)
            return number, image

        done = [pool.submit(some) for _ in range(threads)]
        return max((each.result() for each in done), key=lambda last: last[0])[1]

    return all_files


def labelled(folder: str) -> list[tuple[str, int]]:
    """Return (path, class) of every file in a folder of class folders, as ImageFolder finds them."""
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    return [(os.path.join(folder, name, file), label) for label, name in enumerate(classes)
            for file in sorted(os.listdir(os.path.join(folder, name)))]  # fmt: skip
