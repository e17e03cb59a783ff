"""Chooses image size and share of JPEGs for a target speed, with the doctor's model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.cpus import usable_cpus
from ffcv_gpu.doctor.advice import LEAST_SOURCE, SIDES
from ffcv_gpu.doctor.costs import Costs, measure_costs
from ffcv_gpu.doctor.disk import Disk
from ffcv_gpu.doctor.model import Situation, load_of, predict
from ffcv_gpu.doctor.survey import Survey
from ffcv_gpu.doctor.survey import survey as look_at
from ffcv_gpu.doctor.trial import Setup
from ffcv_gpu.doctor.variants import PAGE_BYTES
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.fields.target import Choice
from ffcv_gpu.writer import DatasetWriter

__all__ = ["Target"]

#: shares of JPEGs that are tried, high to low; coarse, so that repeated measurements mostly agree
SHARES = tuple(share / 20 for share in range(20, -1, -1))
NUMBERS = (int, float, np.number)
WHOLE = ("cores", "side", "batch_size", "min_resolution")
_IN_MEMORY = Disk(None, None, 0.0, 1, None)


@dataclass(frozen=True)
class Target:
    """The speed at which the CPU loader should load a file from the page cache.

    Of a field with ``crop_index=True``, JPEGs are measured with the index.

    Parameters
    ----------
    images_per_second : float
    cores : int or None
        Of the machine that loads, assumed as fast as this machine's; None: those that this process may use.
    side : int
        Side of the output images, in pixels. Random-resized-crop to it, and flip, are measured.
    batch_size : int
    max_bytes : float or None
        The most bytes that all images of the file together may take.
    min_resolution : int or None
        Images are not shrunk below it; None: 1.1 x `side`, below which crops lose detail.
    decode_ms, other_ms : float or None
        Milliseconds of one core to decode a JPEG, per megapixel of the whole image (also if only some of its
        rows are decoded), and for everything else per image. If both are given, nothing is measured, and the
        same images give the same choice on any machine.

    Raises
    ------
    PipelineError
        For a number that is not positive and finite, or not whole where it must be; for only one of
        `decode_ms` and `other_ms`.
    """

    images_per_second: float
    cores: int | None = None
    side: int = 224
    batch_size: int = 256
    max_bytes: float | None = None
    min_resolution: int | None = None
    decode_ms: float | None = None
    other_ms: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, NUMBERS) or not 0 < value < float("inf"):
                raise PipelineError(f"Target: {name}={value!r}: give a number above 0")
            if name in WHOLE and value != int(value):
                raise PipelineError(f"Target: {name}={value!r}: give a whole number")
        if (self.decode_ms is None) != (self.other_ms is None):
            raise PipelineError("Target: give both decode_ms and other_ms, or neither to have them measured")

    def as_json(self) -> Mapping[str, Any]:
        """Return the given settings, without those left at None."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: int(value) if name in WHOLE else float(value) for name, value in given.items()}

    def choose(self, field: RGBImageField, images: Sequence[Any], samples: int | None) -> Choice:
        """Return the largest size that reaches the target, and at that size the share of the smallest file.

        Parameters
        ----------
        field : RGBImageField
            The field that has the target; gives the largest size, the quality and so on.
        images : sequence
            As the dataset returns them; about 50 photos suffice.
        samples : int or None
            Number of samples in the whole file; needed for `max_bytes` only.

        Raises
        ------
        PipelineError
            If no size and share reach it; states the best that was found.
        """
        if self.max_bytes is not None and samples is None:
            raise PipelineError("Target: max_bytes needs a dataset of known length")
        if not images:
            raise PipelineError("Target: no image to measure")
        own = _stored(field, images, field.max_resolution)
        costs = self._named_costs() or _measured(field, images, self, int(own.image_bytes.max()))
        best: Choice | None = None
        for limit in self._limits(field.max_resolution, own):
            shrunk = own if limit == field.max_resolution else _stored(field, images, limit)
            for choice in self._choices(costs, own, shrunk, limit):
                if samples is not None and choice.bytes_per_image * samples > (self.max_bytes or np.inf):
                    continue
                if choice.images_per_second >= self.images_per_second:
                    return choice
                if best is None or choice.images_per_second > best.images_per_second:
                    best = choice
        raise PipelineError(self._unreachable(best))

    def _limits(self, given: int | None, own: Survey) -> Iterator[int | None]:
        """Yield the candidates for `max_resolution`, from the field's own down."""
        yield given
        longest = int(np.maximum(own.heights, own.widths).max())
        least = LEAST_SOURCE * self.side if self.min_resolution is None else self.min_resolution
        sides = {*SIDES, *([] if self.min_resolution is None else [self.min_resolution])}
        yield from (side for side in sorted(sides, reverse=True) if least <= side < longest)

    def _choices(self, costs: Costs, own: Survey, stored: Survey, limit: int | None) -> Iterator[Choice]:
        """Yield the choices at one size, smallest file first."""
        cores = usable_cpus() if self.cores is None else int(self.cores)
        where = Situation(self.batch_size, cores, cores, None, cold=False)
        pixels, size = stored.pixels.astype(np.float64), stored.image_bytes.astype(np.float64)
        choices = []
        for share in SHARES:
            load = load_of(
                costs, own, jpeg=np.full(len(pixels), share), pixels=pixels, jpeg_bytes=size, own=True
            )
            speed = predict(costs, _IN_MEMORY, load, where).images_per_second
            choices.append(Choice(share, limit, round(speed, 1), cores, round(load.read_bytes, 1)))
        yield from sorted(choices, key=lambda choice: choice.bytes_per_image)

    def _named_costs(self) -> Costs | None:
        if self.decode_ms is None or self.other_ms is None:
            return None
        decode, compose = np.array([0, self.decode_ms * 1e-9, 0]), np.array([self.other_ms * 1e-3, 0])
        return Costs(decode, 0.0, compose, 0.0, 0.0, 0.0, 0.0, {})

    def _unreachable(self, best: Choice | None) -> str:
        wish = f"target of {self.images_per_second:,g} images/s"
        if best is None:
            return f"{wish}: the images take more than max_bytes={self.max_bytes:,g} at every size allowed"
        room = "" if self.max_bytes is None else f" within {self.max_bytes:,g} bytes"
        return f"{wish}{room} cannot be reached here; the best would be {best}"


def _stored(field: RGBImageField, images: Sequence[Any], limit: int | None) -> Survey:
    """Return the survey of `images` encoded as JPEGs at one size, in memory."""
    encoder, sizes = field.chosen(Choice(1.0, limit)), list[int]()
    records = np.zeros(len(images), field.record_dtype)

    def malloc(size: int) -> tuple[int, npt.NDArray[np.uint8]]:
        sizes.append(size)
        return 0, np.empty(size, np.uint8)

    for number, image in enumerate(images):
        encoder.encode(records[number : number + 1], image, malloc)
    heights, widths = records["height"].astype(np.int64), records["width"].astype(np.int64)
    size, nowhere = np.array(sizes, np.int64), np.zeros(len(images), np.int64)
    jpeg = np.ones(len(images), np.bool_)
    return Survey("", len(images), int(size.sum()), "image", jpeg, heights, widths, size, nowhere, size)


def _measured(field: RGBImageField, images: Sequence[Any], target: Target, largest: int) -> Costs:
    """Measure the cost of loading the images, from a small file in the temporary folder."""
    page = max(PAGE_BYTES, 1 << largest.bit_length())
    with tempfile.TemporaryDirectory(prefix="ffcv_gpu-target-") as folder:
        path = str(Path(folder) / "sample.beton")
        writer = DatasetWriter(path, {"image": field.trial()}, page, num_workers=1, progress=False)
        writer.from_indexed_dataset([(image,) for image in images])
        return measure_costs(look_at(path, {}), Setup(target.batch_size, 1, target.side))
