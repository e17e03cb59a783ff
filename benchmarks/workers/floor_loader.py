"""A decoder with nothing around it, in the place of a loader: what a loader could reach at most."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import contender

__all__ = ["loader_of"]


class WholeImages:
    """Decodes all files once in every epoch; they are in memory, and nothing is cropped or kept."""

    def __init__(self, decode: Callable[[], Any], count: int) -> None:
        self._decode, self._count = decode, count

    def __iter__(self) -> Iterator[tuple[range, None]]:
        self._decode()
        yield range(self._count), None  # in the place of a batch of as many images


def loader_of(make_decoder: Callable[..., Callable[[], Any]]) -> Callable[..., WholeImages]:
    """Return what makes a loader of a folder out of what makes a decoder of files."""

    def make_loader(folder: str, workers: int, dct: str = "accurate", **_: Any) -> WholeImages:
        files = []
        for path, _label in contender.labelled(folder):
            with open(path, "rb") as file:
                files.append(file.read())
        return WholeImages(make_decoder(files, workers, dct=dct), len(files))

    return make_loader
