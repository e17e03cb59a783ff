"""A folder of images with one sub-folder per class, as a dataset of paths.

Nothing is decoded here, and the writer stores JPEG files unchanged.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import ReadError

__all__ = ["EXTENSIONS", "ImageFolder"]

logger = logging.getLogger(__name__)

#: torchvision's, compared case-insensitively
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
#: how many endings of files that are left out a warning names
SHOWN = 5


class ImageFolder:
    """``dataset[i]`` is (path, class index), in the order of torchvision's `ImageFolder`.

    Classes are the sub-folders in sorted order. A class's images may lie in nested folders; symbolic links to
    folders are followed. Files and folders whose names begin with a dot are skipped, which torchvision does
    not do: Macs leave files such as ``._cat.jpg``, which are no images. A warning says how many other files
    of the classes are left out because of their endings.

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
    ignored : dict of str to int
        Number of files in the classes that were left out, by their ending in lower case (``".gif"``), the
        most frequent first.

    Raises
    ------
    ReadError
        If `root` is not a folder or has no sub-folders, or a sub-folder has no images or cannot be listed.
    """

    def __init__(self, root: str | os.PathLike[str], *, extensions: tuple[str, ...] = EXTENSIONS) -> None:
        self.root = os.fspath(root)
        try:
            with os.scandir(self.root) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir() and _is_shown(entry.name))
        except OSError as error:
            _refuse(error)
        if not names:
            raise ReadError(f"{self.root!r} has no sub-folders; put the images into one sub-folder per class")
        self._paths: list[str] = []
        ignored: Counter[str] = Counter()
        ends = [0]
        for name in names:
            for path in _files(os.path.join(self.root, name)):
                if path.lower().endswith(extensions):
                    self._paths.append(path)
                else:
                    ignored[os.path.splitext(path)[1].lower()] += 1
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
        self.ignored = {_text(ending): number for ending, number in ignored.most_common()}
        if self.ignored:
            self._warn_of_ignored()

    def _warn_of_ignored(self) -> None:
        endings = [f"{number:,} {ending or 'without ending'}" for ending, number in self.ignored.items()]
        more = f", and {len(endings) - SHOWN:,} other endings" if len(endings) > SHOWN else ""
        logger.warning(
            "%r: left out files that do not end like images: %s%s; if they are some, use"
            " ImageFolder(root, extensions=...)",
            self.root, ", ".join(endings[:SHOWN]), more,
        )  # fmt: skip

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


def _is_shown(name: str) -> bool:
    return not name.startswith(".")


def _files(folder: str) -> Iterator[str]:
    # In torchvision's order: folders by path, then files by name within each.
    for parent, names in sorted(_folders(folder)):
        yield from (os.path.join(parent, name) for name in sorted(names) if _is_shown(name))


def _folders(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the path of each folder, and the names of its files."""
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = filter(_is_shown, folders)  # os.walk then does not enter the others
        yield parent, names


def _refuse(error: OSError) -> NoReturn:
    raise ReadError(f"cannot read the image folder {error.filename!r}: {error.strerror}") from error
