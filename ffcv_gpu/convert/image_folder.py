"""A folder of images with one sub-folder per class, as a dataset of paths.

Nothing is decoded here, and the writer stores JPEG files unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import ReadError

__all__ = ["EXTENSIONS", "ImageFolder"]

#: torchvision's, compared case-insensitively
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class ImageFolder:
    """``dataset[i]`` is (path, class index), in the order of torchvision's `ImageFolder`.

    Classes are the sub-folders in sorted order. A class's images may lie in nested folders; symbolic links to
    folders are followed.

    Parameters
    ----------
    root : str or os.PathLike
    extensions : tuple of str, keyword only
        Extensions of the files to include, in lower case, with the dot.

    Attributes
    ----------
    classes : tuple of str
        Class names by index. Bytes that are not UTF-8 are escaped, as in ``\\xe9``, here and in `source_ids`.
    targets : int64, shape (N,)
        Class index of each image.
    source_ids : list of str
        Path of each image relative to `root`, with ``/``; the writer records it as the sample's source.

    Raises
    ------
    ReadError
        If `root` is not a folder or has no sub-folders, or a sub-folder has no images or cannot be listed.
    """

    def __init__(self, root: str | os.PathLike[str], *, extensions: tuple[str, ...] = EXTENSIONS) -> None:
        self.root = os.fspath(root)
        try:
            with os.scandir(self.root) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir())
        except OSError as error:
            _refuse(error)
        if not names:
            raise ReadError(f"{self.root!r} has no sub-folders; put the images into one sub-folder per class")
        self._paths: list[str] = []
        ends = [0]
        for name in names:
            self._paths += _images(os.path.join(self.root, name), extensions)
            ends.append(len(self._paths))
        counts = np.diff(ends)
        if not counts.all():
            empty = names[int(np.argmin(counts))]
            raise ReadError(
                f"class folder {os.path.join(self.root, empty)!r} has no images ({', '.join(extensions)});"
                " remove it, or, if its images end otherwise, use ImageFolder(root, extensions=...)"
            )
        self.classes = tuple(map(_text, names))
        self.targets: npt.NDArray[np.int64] = np.repeat(np.arange(len(self.classes)), counts)

    @property
    def source_ids(self) -> list[str]:
        """Path of each image relative to the root."""
        # Not with os.path.relpath, which takes up to 40 us per path.
        root = os.path.join(self.root, "")
        return [_text(path.removeprefix(root).replace(os.sep, "/")) for path in self._paths]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self._paths[index], int(self.targets[index])

    def __repr__(self) -> str:
        return f"ImageFolder({self.root!r}): {len(self):,} images, {len(self.classes):,} classes"


def _text(name: str) -> str:
    """Return a file name as text that UTF-8 can encode."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _images(folder: str, extensions: tuple[str, ...]) -> Iterator[str]:
    # In torchvision's order: folders by path, then files by name within each.
    for parent, _, names in sorted(os.walk(folder, onerror=_refuse, followlinks=True)):
        yield from (os.path.join(parent, name) for name in sorted(names) if name.lower().endswith(extensions))


def _refuse(error: OSError) -> NoReturn:
    raise ReadError(f"cannot read the image folder {error.filename!r}: {error.strerror}") from error
