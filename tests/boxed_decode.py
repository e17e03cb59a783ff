"""For tests of backends that decode rectangles: boxes, a call, and the comparison with whole images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.format import JPEG_FACTS
from ffcv_gpu.jpeg.base import Decoded, Encoded, JpegBackend

#: the value of memory that must not be written to
GUARD = 0xA5

Pixels = npt.NDArray[np.uint8]


def random_boxes(rng: np.random.Generator, count: int, height: int, width: int) -> npt.NDArray[np.int64]:
    """Rectangles of all sizes anywhere, some along each edge of the image."""
    heights, widths = rng.integers(1, height + 1, count), rng.integers(1, width + 1, count)
    y, x = rng.integers(0, height - heights + 1), rng.integers(0, width - widths + 1)
    y[::5], x[1::5] = 0, 0
    y[2::5], x[3::5] = (height - heights)[2::5], (width - widths)[3::5]
    return np.stack([y, x, heights, widths], axis=1)


def decode(
    backend: JpegBackend, files: Sequence[bytes], sizes: Sequence[tuple[int, int]], boxes: Any = None,
    flags: Any = None,
) -> tuple[Decoded, list[Pixels]]:  # fmt: skip
    """Return the outcome, and each image with the memory around it checked; `flags`: of the files' facts."""
    stored, lengths = np.frombuffer(b"".join(files), np.uint8), np.array([len(f) for f in files])
    heights, widths = np.array(sizes).T
    spaces = 3 * heights * widths + 7
    starts = np.cumsum(spaces) - spaces
    arena, facts = np.full(spaces.sum(), GUARD, np.uint8), None
    if flags is not None:
        facts = np.zeros(len(files), JPEG_FACTS)
        facts["flags"] = flags
    encoded = Encoded(stored, np.cumsum(lengths) - lengths, lengths, heights, widths, facts, boxes)
    outcome = backend.submit(encoded, arena, starts).wait()
    images = []
    for i, (start, height, width) in enumerate(zip(starts, heights, widths, strict=True)):
        end = start + 3 * height * width
        assert (arena[end : end + 7] == GUARD).all(), "wrote past an image"
        image = arena[start:end].reshape(height, width, 3)
        if outcome.windows is not None:
            y, x, rows, columns = outcome.windows[i].tolist()
            part = arena[start : start + 3 * rows * columns].reshape(rows, columns, 3)
            image = np.full((height, width, 3), GUARD, np.uint8)
            image[y : y + rows, x : x + columns] = part
        images.append(image)
    return outcome, images


def assert_crops_of(images: Iterable[Pixels], boxes: Iterable[Any], whole: Pixels) -> None:
    """Assert that each image has the pixels of `whole` in its box."""
    for image, (y, x, height, width) in zip(images, boxes, strict=True):
        assert np.array_equal(image[y : y + height, x : x + width], whole[y : y + height, x : x + width])
