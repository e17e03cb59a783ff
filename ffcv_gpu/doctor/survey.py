"""The facts about a file that determine its speed: sizes and kinds of its images, bytes per sample."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.fields import ImageField
from ffcv_gpu.format import ImageMode
from ffcv_gpu.plan import ImagePayloads
from ffcv_gpu.steps import IntArray

__all__ = ["Survey", "survey"]

#: megapixels of the file's own images in a trial
OWN_MEGAPIXELS = 24.0


@dataclass(frozen=True)
class Survey:
    """Facts about one file.

    Attributes
    ----------
    path : str
    samples, file_bytes : int
    image : str or None
        The RGB image field with the most bytes, which the advice is about. Masks and other fields of
        `ImageField` are always raw and get no advice.
    jpeg : bool (samples,)
        Whether that field's image is a JPEG; empty without such a field, like the next three.
    heights, widths, image_bytes : int64 (samples,)
        Of that field.
    offsets, lengths : int64 (ranges,)
        All payloads of all fields, as byte ranges of the file.
    crop_index : bool
        Whether some of that field's JPEGs have an index for crops.
    others : tuple of str
        All other fields of images, of any kind.
    """

    path: str
    samples: int
    file_bytes: int
    image: str | None
    jpeg: npt.NDArray[np.bool_]
    heights: IntArray
    widths: IntArray
    image_bytes: IntArray
    offsets: IntArray
    lengths: IntArray
    crop_index: bool = False
    others: tuple[str, ...] = ()

    @property
    def pixels(self) -> IntArray:
        """Pixels of each image."""
        return self.heights * self.widths

    @property
    def bytes_per_sample(self) -> float:
        """Mean payload bytes per sample, over all fields."""
        return float(self.lengths.sum()) / max(self.samples, 1)

    @property
    def longest_side(self) -> int:
        """The 95th percentile of the images' longer sides."""
        sides = np.maximum(self.heights, self.widths)
        return int(np.percentile(sides, 95)) if sides.size else 0

    @property
    def own_rows(self) -> list[int]:
        """Samples in trials of the file itself.

        Whatever else looks at stored images takes some of these: the loader has read them before, and has
        named the sample if one is damaged.
        """
        return self.rows_of_pixels(OWN_MEGAPIXELS, 16, 2048)

    def rows_of_pixels(
        self, megapixels: float, least: int, most: int, of: Sequence[int] | None = None
    ) -> list[int]:
        """Return evenly spaced samples with about `megapixels` in total, out of `of` (default: all)."""
        rows = np.arange(self.samples) if of is None else np.array(of, np.int64)
        mean = float(self.pixels[rows].mean()) / 1e6 if self.pixels.size else 0.01
        number = min(int(np.clip(megapixels / max(mean, 1e-6), least, most)), rows.size)
        return [int(row) for row in rows[np.linspace(0, rows.size - 1, number).astype(np.int64)]]


def survey(path: str, custom_fields: Mapping[str, Any], dropped: Container[Any] = ()) -> Survey:
    """Survey a file by its metadata, as if it had no fields `dropped`; reads no payloads."""
    dataset = Dataset(path, custom_fields, os_cache=True)
    names = [name for name in dataset.fields if name not in dropped]
    found = {name: payloads for name in names if (payloads := dataset.payloads(name)) is not None}
    images = {
        name: payloads
        for name, payloads in found.items()
        if isinstance(payloads, ImagePayloads) and not isinstance(dataset.fields[name], ImageField)
    }
    image = max(images, key=lambda name: int(images[name].lengths.sum())) if images else None
    none = np.zeros(0, np.int64)
    if image is None:
        facts = (none.astype(bool), none, none, none)
    else:
        at = images[image]
        facts = (at.modes == ImageMode.JPEG, at.heights, at.widths, at.lengths)
    offsets = np.concatenate([none, *(payloads.offsets for payloads in found.values())])
    lengths = np.concatenate([none, *(payloads.lengths for payloads in found.values())])
    size = dataset.files[0].beton.size_bytes
    indexed = image is not None and images[image].has_crop_index
    others = tuple(name for name in names if dataset.is_image(name) and name != image)
    return Survey(path, len(dataset), size, image, *facts, offsets, lengths, indexed, others)
