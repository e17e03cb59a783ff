"""A small set of real photographs from installed packages, cut into pieces; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

Pixels = npt.NDArray[np.uint8]

#: of each piece: share of the photo's shorter side, JPEG quality and chroma subsampling
PIECES = [
    (share, quality, chroma)
    for share in (0.35, 0.5, 0.7, 0.9)
    for quality, chroma in ((75, "420"), (92, "444"))
]


@dataclass(frozen=True)
class Sample:
    """One piece of a photo: JPEG bytes or pixels, and the index of its photo."""

    stored: bytes | Pixels
    label: int


def photographs() -> dict[str, Pixels]:
    """Return photographs from scikit-image and scikit-learn, uint8 (height, width, 3), by name."""
    import skimage.data
    from sklearn.datasets import load_sample_images

    names = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina")
    photos = {name: np.ascontiguousarray(getattr(skimage.data, name)()[..., :3]) for name in names}
    scenes = load_sample_images()
    names_of_scenes = (Path(path).stem for path in scenes.filenames)
    return photos | dict(zip(names_of_scenes, scenes.images, strict=True))


class PhotoPieces:
    """An indexed dataset of (image, label): every third piece as pixels, the others as JPEG bytes.

    Parameters
    ----------
    per_kind : int
        Random positions per photo, size and quality.
    """

    def __init__(self, per_kind: int = 6) -> None:
        photos = photographs()
        self.classes = sorted(photos)
        self._samples = list(pieces([photos[name] for name in self.classes], per_kind))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        sample = self._samples[index]
        return sample.stored, sample.label


def pieces(photos: list[Pixels], per_kind: int) -> Iterator[Sample]:
    """Yield pieces of every photo at several sizes and qualities, in a fixed random order."""
    rng = np.random.default_rng(0)
    samples = [
        Sample(stored(piece(photo, share, rng), quality, chroma, as_pixels=number % 3 == 2), label)
        for label, photo in enumerate(photos)
        for share, quality, chroma in PIECES
        for number in range(per_kind)
    ]
    yield from (samples[i] for i in rng.permutation(len(samples)))


def piece(photo: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """Return a rectangle of `photo` with a random position and an aspect ratio between 3:4 and 4:3."""
    side = share * min(photo.shape[:2])
    aspect = rng.uniform(0.87, 1.15)
    height, width = (
        min(int(side * a), limit) for a, limit in zip((aspect, 1 / aspect), photo.shape, strict=False)
    )
    y, x = (int(rng.integers(0, room + 1)) for room in (photo.shape[0] - height, photo.shape[1] - width))
    return np.ascontiguousarray(photo[y : y + height, x : x + width])


def stored(image: Pixels, quality: int, chroma: str, *, as_pixels: bool) -> bytes | Pixels:
    """Return `image` itself, or as JPEG bytes."""
    if as_pixels:
        return image
    data: bytes = simplejpeg.encode_jpeg(image, quality=quality, colorsubsampling=chroma)
    return data
