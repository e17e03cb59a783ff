"""The kernels without a dataset: crop, resize and mirror numpy array images.

>>> import numpy as np
>>> from ffcv_gpu.kernels.alone import resized_crops
>>> photo = np.arange(60 * 80 * 3, dtype=np.uint32).astype(np.uint8).reshape(60, 80, 3)
>>> batch = resized_crops([photo, photo], [(0, 0, 60, 80), (10, 20, 30, 40)], (32, 32))
>>> batch.shape, batch.dtype
((2, 32, 32, 3), dtype('uint8'))

For a GPU, the same arguments go into a launch block, which shares one buffer with the pixels:

    packed = packed_launch(images, boxes, (224, 224))           # host memory, numpy
    buffer = torch.from_numpy(packed.buffer).cuda()
    out = torch.empty((len(images), 224, 224, 3), dtype=torch.uint8, device=buffer.device)
    stream = torch.cuda.current_stream().cuda_stream
    shell_cuda.compose(shell_cuda.views(buffer), out, packed.layout, 0, stream=stream)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.codes import RESAMPLE_AREA, scratch_size

__all__ = ["PackedLaunch", "packed_launch", "resized_crops"]


class PackedLaunch(NamedTuple):
    """A buffer, uint8 (bytes,), with a launch block at its start, followed by the pixels."""

    layout: BlockLayout
    buffer: npt.NDArray[np.uint8]


def packed_launch(
    images: Sequence[npt.NDArray[np.uint8]],
    boxes: Any,
    size: tuple[int, int],
    *,
    resample: int = RESAMPLE_AREA,
    mirrored: Sequence[bool] | None = None,
) -> PackedLaunch:
    """Return one launch over images, packed for a GPU (or for `resized_crops`). Copies the pixels.

    Parameters
    ----------
    images : sequence of uint8 (H, W, C)
        Any sizes, all with the same number of channels (1, 3 or 4 for a GPU).
    boxes : int (N, 4)
        y, x, height, width of each crop.
    size : (int, int)
        Height and width of the output.
    resample : int
        A filter from `codes`: RESAMPLE_AREA, RESAMPLE_ANTIALIAS, RESAMPLE_NEAREST, or RESAMPLE_NONE if the
        boxes have the output's size.
    mirrored : sequence of bool, optional
        Which samples to mirror left to right.

    Raises
    ------
    ValueError
        If an image is not uint8 (H, W, C) like the first, a box lies outside its image, or a side of `size`
        is less than 1.
    """
    from ffcv_gpu.kernels.starts_cpu import fill_starts

    channels = check_images(images)
    (height, width), count = size, len(images)
    if height < 1 or width < 1:
        raise ValueError(f"size must be at least 1 x 1, not {height} x {width}")
    layout = BlockLayout(count, height, width, channels, resample=resample)
    table = np.zeros((count, 8), np.int64)
    sizes = np.array([image.size for image in images])
    table[:, 1] = layout.size_bytes + np.cumsum(sizes) - sizes
    table[:, 6:] = [image.shape[:2] for image in images]
    table[:, 4] = table[:, 7] * channels
    buffer = np.zeros((layout.size_bytes + int(sizes.sum()) + 15) // 16 * 16, np.uint8)
    for start, image in zip(table[:, 1], images, strict=True):
        buffer[start : start + image.size] = image.reshape(-1)
    geometry = np.tile(np.array([1, 0, 1, 0], np.int32), (count, 1))
    flips = np.zeros(count, bool) if mirrored is None else np.asarray(mirrored, bool)
    geometry[flips, 2:] = -1, width - 1
    layout.write(
        buffer, table=table, boxes=np.asarray(boxes, np.int32).reshape(-1, 4), geometry=geometry,
        params=np.zeros((count, 0), np.float32), ops=np.zeros((0, 2), np.int32),
        fills=np.zeros((0, 4), np.uint32), late_from=0,
        lut=np.tile(np.arange(256, dtype=np.uint8), (channels, 1)),
        strides=np.array([height * width * channels, width * channels, channels, 1]),
    )  # fmt: skip
    fill_starts(*layout.start_arguments(buffer), 0, count)
    return PackedLaunch(layout, buffer)


def resized_crops(
    images: Sequence[npt.NDArray[np.uint8]],
    boxes: Any,
    size: tuple[int, int],
    *,
    resample: int = RESAMPLE_AREA,
    mirrored: Sequence[bool] | None = None,
) -> npt.NDArray[np.uint8]:
    """Return the crops, resampled to `size` on this CPU core: uint8 (N, height, width, C).

    Parameters and errors are those of `packed_launch`.
    """
    from ffcv_gpu.kernels.shell_cpu import compose

    layout, buffer = packed_launch(images, boxes, size, resample=resample, mirrored=mirrored)
    parts, channels = layout.read(buffer), layout.channels
    pixels = buffer.view()
    pixels.flags.writeable = False
    out = np.empty((layout.count, *size, channels), np.uint8)
    tallest, widest = parts.boxes[:, 2:].max(axis=0, initial=1).tolist()
    scratch = np.empty(scratch_size(tallest, widest, *size, channels), np.float32)
    compose(
        pixels, pixels, parts.table, parts.boxes, parts.geometry, parts.params, parts.ops, parts.fills, 0,
        parts.lut.astype(np.uint8), out.reshape(-1), parts.strides, *size, resample, scratch, 0,
        layout.count,
    )  # fmt: skip
    return out


def check_images(images: Sequence[npt.NDArray[np.uint8]]) -> int:
    """Return the number of channels, or raise ValueError."""
    if not images:
        raise ValueError("at least one image is needed")
    for number, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != images[0].shape[-1]:
            raise ValueError(
                f"image {number} is {image.dtype}{image.shape}, not uint8 (H, W, C) like the first"
            )
    return int(images[0].shape[2])
