"""What the kernel tests share: `compose_images`, which calls the kernel the way a loader does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

GUARD = 64
GUARD_VALUE = 0xA5


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def lay_out(images: Sequence[npt.NDArray[np.uint8]], in_stored: Sequence[bool], gap: int) -> Any:
    """Put images into two memories, `gap` random bytes after each row; return both and the pixel table."""
    rng = np.random.default_rng(0)
    memories: list[list[npt.NDArray[np.uint8]]] = [[], []]
    ends = [0, 0]
    table = np.full((len(images), 8), -1, np.int64)
    for n, (image, stored) in enumerate(zip(images, in_stored, strict=True)):
        height, width, channels = image.shape
        rows = rng.integers(0, 256, (height, width * channels + gap), dtype=np.uint8)
        rows[:, : width * channels] = image.reshape(height, -1)
        table[n, [0, 1, 4, 6, 7]] = int(stored), ends[stored], rows.shape[1], height, width
        memories[stored].append(rows.ravel())
        ends[stored] += rows.size
    none = [np.zeros(0, np.uint8)]
    decoded, stored_memory = (frozen(np.concatenate(none + parts)) for parts in memories)
    return decoded, stored_memory, table


def compose_images(
    images: Sequence[npt.NDArray[np.uint8]],
    boxes: Any,
    size: tuple[int, int],
    resample: int,
    *,
    geometry: Any = None,
    lut: npt.NDArray[Any] | None = None,
    planar: bool = False,
    ops: Any = (),
    fills: Any = (),
    params: Any = None,
    late_from: int = 0,
    in_stored: Sequence[bool] | None = None,
    gap: int = 0,
    lo: int = 0,
    hi: int | None = None,
) -> npt.NDArray[Any]:
    """Compose `images`; return the output, (N, H, W, C) or planar (N, C, H, W).

    Checks on the way that nothing beyond the rows [lo, hi) and the scratch memory was written.
    """
    from ffcv_gpu.kernels.codes import scratch_size
    from ffcv_gpu.kernels.shell_cpu import compose

    count, channels, (height, width) = len(images), images[0].shape[2], size
    hi = count if hi is None else hi
    decoded, stored, table = lay_out(images, in_stored or [False] * count, gap)
    boxes = np.asarray(boxes, np.int32).reshape(count, 4)
    if geometry is None:
        geometry = [[1, 0, 1, 0]] * count
    if lut is None:
        lut = np.tile(np.arange(256, dtype=np.uint8), (channels, 1))
    item = height * width * channels
    buffer = np.full(GUARD + count * item + GUARD, GUARD_VALUE, lut.dtype)
    pixel = (width, 1, height * width) if planar else (width * channels, channels, 1)
    floats = scratch_size(int(boxes[:, 2].max()), int(boxes[:, 3].max()), height, width, channels)
    scratch = np.full(floats + GUARD, np.nan, np.float32)
    compose(
        decoded, stored, table, boxes,
        np.asarray(geometry, np.int32).reshape(count, 4),
        np.zeros((count, 0), np.float32) if params is None else np.asarray(params, np.float32),
        np.asarray(ops, np.int32).reshape(-1, 2),
        np.asarray(fills, np.uint32).reshape(-1, 4),
        late_from, lut, buffer[GUARD:-GUARD], np.array([item, *pixel], np.int64),
        height, width, resample, scratch[:floats], lo, hi,
    )  # fmt: skip
    assert np.isnan(scratch[floats:]).all()
    assert (buffer[: GUARD + lo * item] == GUARD_VALUE).all()
    assert (buffer[GUARD + hi * item :] == GUARD_VALUE).all()
    shape = (count, channels, height, width) if planar else (count, height, width, channels)
    return buffer[GUARD:-GUARD].reshape(shape)


@pytest.fixture(scope="session")
def compose_batch() -> Callable[..., npt.NDArray[Any]]:
    """`compose_images`."""
    return compose_images
