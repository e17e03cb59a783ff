"""Files of samples, and loaders over them, for experiments with the public interface."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.files import written
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.device import Gpu
from benchmarks.workers import pipelines

__all__ = ["KINDS", "MEAN", "STD", "batches", "loader_of", "long_epoch", "stored"]

MEAN, STD = np.array(pipelines.MEAN), np.array(pipelines.STD)
RAW_SIDE = 256
#: arguments of RGBImageField by kind of file; "half" and "tenth" are shares of JPEGs
KINDS: dict[str, dict[str, Any]] = {
    "jpeg": {"write_mode": "jpg"},
    "indexed": {"write_mode": "jpg", "crop_index": True},
    "half": {"write_mode": "proportion", "compress_probability": 0.5},
    "tenth": {"write_mode": "proportion", "compress_probability": 0.1},
    "raw": {"write_mode": "raw", "max_resolution": RAW_SIDE},
}


class Samples:
    """(JPEG bytes, index, array) for `count` samples, files repeated as needed."""

    def __init__(self, files: Sequence[bytes], count: int) -> None:
        self._files, self._count = files, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[bytes, int, npt.NDArray[np.float32]]:
        return self._files[index % len(self._files)], index, np.full(3, index, np.float32)


def stored(bench: Bench, kind: str, files: Sequence[bytes], count: int) -> Path:
    """Return a file of these samples, written unless it exists."""
    from ffcv_gpu.fields import IntField, NDArrayField, RGBImageField
    from ffcv_gpu.writer import DatasetWriter

    digest = hashlib.sha256(b"".join(hashlib.sha256(file).digest() for file in files)).hexdigest()[:12]
    fields = {"image": RGBImageField(**KINDS[kind]), "label": IntField(),
              "vector": NDArrayField(np.dtype(np.float32), (3,))}  # fmt: skip

    def write(part: Path) -> None:
        DatasetWriter(part, fields, progress=False).from_indexed_dataset(Samples(files, count))

    return written(bench.work / f"gpu-{kind}-{count}-{digest}.beton", write)


def loader_of(
    path: Path, batch_size: int, *, device: str, output: str = "uint8", side: int = 224, random: bool = True,
    flip: bool = True, steps: Sequence[Any] = (), **more: Any,
) -> Any:  # fmt: skip
    """Return a loader: random-resized-crop, flip, `steps`, and normalisation unless `output` is uint8."""
    from ffcv_gpu.fields.decoders import IntDecoder, NDArrayDecoder, RandomResizedCropRGBImageDecoder
    from ffcv_gpu.loader import Loader, OrderOption
    from ffcv_gpu.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage

    image: list[Any] = [RandomResizedCropRGBImageDecoder((side, side))]
    image += [RandomHorizontalFlip()] if flip else []
    image += [*steps, ToTensor(), ToTorchImage()]
    if output != "uint8":
        image.append(NormalizeImage(MEAN, STD, np.dtype(output)))
    pipelines = {"image": image, "label": [IntDecoder(), ToTensor(), Squeeze(1)],
                 "vector": [NDArrayDecoder(), ToTensor()]}  # fmt: skip
    order = OrderOption.RANDOM if random else OrderOption.SEQUENTIAL
    return Loader(path, batch_size=batch_size, order=order, seed=0, os_cache=True, drop_last=False,
                  pipelines=pipelines, device=device, **more)  # fmt: skip


def long_epoch(bench: Bench) -> npt.NDArray[np.int64]:
    """Return the indices of a file, repeated: an epoch so long that its start and end do not matter."""
    return np.tile(np.arange(bench.scale.samples), bench.scale.rounds)


def batches(gpu: Gpu, loader: Any) -> list[tuple[npt.NDArray[Any], ...]]:
    """Return an epoch as NumPy arrays, each batch copied when it arrives."""
    return [tuple(gpu.host(part).copy() for part in batch) for batch in loader]
