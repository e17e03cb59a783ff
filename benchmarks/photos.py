"""The photographs of the benchmarks: a folder of JPEGs, or pieces of photographs in installed packages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.files import listing, written

__all__ = ["Photos", "find_photos", "fitted", "read_photo"]

SUFFIXES = (".jpg", ".jpeg")
PACKAGED = {
    "skimage.data": ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png"),
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
}
#: sides, quality and number of the pieces; like most of ImageNet
SIDES, QUALITY, PIECES = (375, 500), 94, 210


@dataclass(frozen=True)
class Photos:
    """A list of JPEG files.

    Attributes
    ----------
    paths
        sorted
    source
        where they come from, without paths
    digest
        of the names and sizes of the files
    """

    paths: tuple[Path, ...]
    source: str
    digest: str

    def listing(self, work: Path) -> Path:
        """Write the paths to a JSON file, for workers."""
        return listing(self.paths, work / f"photos-{self.digest}.json")

    def facts(self) -> dict[str, Any]:
        """Describe them in a result."""
        return {"source": self.source, "photos": len(self.paths), "digest": self.digest,
                "bytes": sum(path.stat().st_size for path in self.paths)}  # fmt: skip


def find_photos(folder: Path | None, work: Path) -> Photos:
    """Return the JPEGs in `folder` and its sub-folders; without a folder, pieces written to `work`.

    Raises
    ------
    ValueError
        If the folder does not exist or contains no JPEG, or packages with photographs are not installed.
    """
    if folder is None:
        return described(
            make_pieces(work / "pieces"), "pieces of photographs in scikit-image and scikit-learn"
        )
    if not folder.is_dir():
        raise ValueError(f"--data {folder} is not a folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"--data {folder}: no file ending in {' or '.join(SUFFIXES)} in it")
    return described(paths, "a folder of photographs")


def described(paths: list[Path], source: str) -> Photos:
    """Add the digest to a list of paths."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return Photos(tuple(paths), source, digest.hexdigest()[:12])


def make_pieces(folder: Path) -> list[Path]:
    """Return `PIECES` JPEGs, written unless they exist; the same on every machine."""

    def write(part: Path) -> None:
        part.mkdir()
        for number, piece in zip(range(PIECES), pieces(), strict=False):
            cv2.imwrite(str(part / f"{number:04}.jpg"), piece, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])

    return sorted(written(folder, write).iterdir())


def pieces() -> Iterator[npt.NDArray[np.uint8]]:
    """Yield rectangles of the packaged photographs, resized to `SIDES` or upright, endlessly."""
    rng = np.random.default_rng(0)
    images = [image for package, names in PACKAGED.items() for image in packaged(package, names)]
    while True:
        for image in images:
            sides = SIDES if rng.random() < 0.75 else SIDES[::-1]
            scale = rng.uniform(0.6, 1.0) * min(image.shape[0] / sides[0], image.shape[1] / sides[1])
            height, width = (int(side * scale) for side in sides)
            y, x = (
                int(rng.integers(0, room + 1)) for room in (image.shape[0] - height, image.shape[1] - width)
            )
            piece = image[y : y + height, x : x + width]
            yield cv2.resize(piece, sides[::-1], interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def packaged(package: str, names: tuple[str, ...]) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield photographs of an installed package as BGR."""
    try:
        folder = files(package)
    except ModuleNotFoundError as error:
        words = f"{error.name} is not installed, whose photographs would be used: pip install '.[bench]'"
        raise ValueError(f"{words}, or name a folder with --data") from error
    for name in names:
        data = np.frombuffer(folder.joinpath(name).read_bytes(), np.uint8)
        yield np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def read_photo(path: Path) -> npt.NDArray[np.uint8]:
    """Decode a photograph to RGB (height, width, 3); `ValueError` naming the file if that fails."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError(f"{path.name} cannot be decoded")
    return image.astype(np.uint8, copy=False)


def fitted(photo: Path, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Crop the centre of a photograph to an aspect ratio and resize it; RGB."""
    image = read_photo(photo)
    scale = min(image.shape[1] / width, image.shape[0] / height)
    w, h = int(width * scale), int(height * scale)
    y, x = (image.shape[0] - h) // 2, (image.shape[1] - w) // 2
    how = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    return cv2.resize(image[y : y + h, x : x + w], (width, height), interpolation=how).astype(np.uint8)
