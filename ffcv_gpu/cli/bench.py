"""``ffcv-gpu bench``: how fast this file loads on this machine, and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ffcv_gpu.cli.opening import CacheDir, CustomFields, FilesOrUrls, class_wanted, custom_classes
from ffcv_gpu.cli.page import count, pairs, print_json, size, table
from ffcv_gpu.cpus import usable_cpus

if TYPE_CHECKING:
    from ffcv_gpu.loader import Loader

__all__ = ["bench"]

#: ImageNet's mean and standard deviation; the values do not affect the speed
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class Dtype(Enum):
    """Dtype of a batch's images."""

    uint8 = "uint8"
    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"


class Crop(Enum):
    """Which decoder: the one for training or the one for evaluation."""

    random = "random"
    center = "center"


def bench(
    files: FilesOrUrls,
    side: Annotated[int, typer.Option("--size", min=1, help="Side of the output images, in pixels.")] = 224,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per batch.")] = 256,
    workers: Annotated[int, typer.Option(help="Threads; -1: one per CPU of this process.")] = -1,
    epochs: Annotated[int, typer.Option(min=1, help="Timed passes over the file.")] = 3,
    dtype: Annotated[Dtype, typer.Option(help="uint8, or normalised to a float dtype.")] = Dtype.uint8,
    crop: Annotated[
        Crop, typer.Option(help="Random-resized-crop and flip, or a centre crop only.")
    ] = Crop.random,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Use only the first N samples.", show_default=False)
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda:0 ..., or auto: a GPU if there is one. Default: the CPU.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    custom_field: CustomFields = None,
    cache_dir: CacheDir = None,
) -> None:
    """Measure how fast this file loads on this machine, and show where the time goes.

    Several files are read as one, as the Loader reads a list.

    Every image field goes through random-resized-crop, flip and (masks excepted, and unless --dtype uint8)
    normalisation, all other fields through their own decoders. Nothing consumes the batches, so this is an
    upper limit for a training loop. One untimed batch comes first and compiles the kernels. If the first
    timed epoch is much slower than the others, the file was read from disk: storage is the limit, not the
    cores. The first epoch of a URL also fetches what its copy lacks.

    \b
    Examples:
      ffcv-gpu bench train.beton
      ffcv-gpu bench train.beton --size 160 --dtype float16 --workers 8
      ffcv-gpu bench train.beton --device cuda:0 --dtype float16
      ffcv-gpu bench train-0.beton train-1.beton
      ffcv-gpu bench big.beton --samples 50000 --epochs 1 --json > result.json
      ffcv-gpu bench s3://bucket/train.beton --cache-dir /nvme/cache
    """
    custom = custom_classes(custom_field)
    names: str | list[str] = files[0] if len(files) == 1 else files
    loader = _loader(names, side, batch_size, workers, dtype, crop, samples, device, custom, cache_dir)
    with loader:
        result = _measure(loader, epochs)
    settings = {
        "size": side, "batch_size": batch_size, "workers": loader.num_workers, "dtype": dtype.value,
        "crop": crop.value, "cpus": usable_cpus(),
    }  # fmt: skip
    named = {"file" if len(files) == 1 else "files": names}
    report = {**named, "settings": settings, **result, "pipelines": loader.explain()}
    if as_json:
        print_json(report)
    else:
        _show(report)


def _loader(
    names: str | list[str],
    side: int,
    batch_size: int,
    workers: int,
    dtype: Dtype,
    crop: Crop,
    samples: int | None,
    device: str | None,
    custom: Mapping[str, Any],
    cache_dir: Path | None,
) -> Loader:
    from ffcv_gpu.dataset.dataset import Dataset
    from ffcv_gpu.loader import Loader
    from ffcv_gpu.pipeline.doubts import without_doubts

    with class_wanted():
        dataset = Dataset(names, custom, os_cache=True, cache_dir=cache_dir)
    crops = _crop_steps(side, crop)
    pipelines: dict[str, list[Any]] = {
        name: [*crops, *_normalisation(field, dtype)] if dataset.is_image(name) else []
        for name, field in dataset.fields.items()
    }
    indices = None if samples is None else list(range(min(samples, len(dataset))))
    with without_doubts():
        return Loader(
            names,
            batch_size,
            workers,
            indices=indices,
            pipelines=pipelines,
            custom_fields=custom,
            drop_last=False,
            seed=0,
            device=device,
            cache_dir=cache_dir,
        )


def _crop_steps(side: int, crop: Crop) -> list[Any]:
    """Return the steps that all image fields share: a mask moves with its image."""
    from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder
    from ffcv_gpu.transforms import RandomHorizontalFlip

    if crop is Crop.random:
        return [RandomResizedCropRGBImageDecoder((side, side)), RandomHorizontalFlip()]
    return [CenterCropRGBImageDecoder((side, side), 224 / 256)]


def _normalisation(field: Any, dtype: Dtype) -> list[Any]:
    from ffcv_gpu.fields import MaskField
    from ffcv_gpu.transforms import NormalizeImage, ToTensor

    if dtype is Dtype.uint8 or isinstance(field, MaskField):
        return []
    channels = getattr(field, "channels", 3)
    normalise = NormalizeImage((MEAN * 2)[:channels], (STD * 2)[:channels], dtype.value)
    return [ToTensor(), normalise] if dtype is Dtype.bfloat16 else [normalise]  # numpy has no bfloat16


def _measure(loader: Loader, epochs: int) -> dict[str, Any]:
    from ffcv_gpu.errors import PipelineError
    from ffcv_gpu.loader.job import arrays_in

    if not len(loader.indices):
        raise PipelineError(f"{loader.dataset.path} has no samples: nothing to measure")
    next(iter(loader))
    loader.close()
    loader.reset_stats()
    seconds, cpu_begin = [], time.process_time()
    for _ in range(epochs):
        begin, out_bytes, batch = time.perf_counter(), 0, tuple[Any, ...]()
        for batch in loader:
            out_bytes += sum(array.nbytes for array in arrays_in(batch))
        _wait_for(batch)
        seconds.append(time.perf_counter() - begin)
    cpu_seconds, stats = time.process_time() - cpu_begin, loader.stats().as_dict()
    samples, total = len(loader.indices), sum(seconds)
    stored = [loader.dataset.payloads(name) for name in loader.dataset.fields]
    stored_bytes = sum(int(p.lengths[loader.indices].sum()) for p in stored if p is not None)
    return {
        "samples": samples,
        "epochs": [{"seconds": s, "samples_per_second": samples / s} for s in seconds],
        "samples_per_second": samples * epochs / total,
        "samples_per_cpu_second": samples * epochs / cpu_seconds,
        "busy_cpus": cpu_seconds / total,
        "stored_bytes_per_second": stored_bytes * epochs / total,
        "output_bytes_per_second": out_bytes * epochs / total,
        "stages": stats["stages"],
        "routes": stats["counts"],
    }


def _wait_for(batch: Any) -> None:
    """Wait until a batch is complete: on a GPU it is yielded before that."""
    for value in batch:
        if hasattr(value, "get"):  # CuPy's
            value.get()
        elif hasattr(value, "cpu"):
            value.cpu()


def _show(report: Mapping[str, Any]) -> None:
    from ffcv_gpu.trace import betrays

    seconds = sum(epoch["seconds"] for epoch in report["epochs"])
    rows = [
        (
            name,
            f"{stage['seconds']:.3f}",
            f"{stage['seconds'] / seconds:.2f}",
            f"{stage['seconds'] * 1e6 / stage['items']:.1f}" if stage["items"] else "-",
            betrays(name, report["stages"]),
        )
        for name, stage in sorted(report["stages"].items(), key=lambda item: -item[1]["seconds"])
    ]
    print(f"{report['pipelines']}\n")
    table(("stage", "seconds", "threads busy", "us/sample", "if large"), rows, wrap_last=True)
    print()
    each = ", ".join(f"{epoch['samples_per_second']:,.0f}" for epoch in report["epochs"])
    pairs(
        [
            ("throughput", f"{report['samples_per_second']:,.0f} samples/s (epochs: {each})"),
            ("per core", f"{report['samples_per_cpu_second']:,.0f} samples per second of CPU time,"
                         f" {report['busy_cpus']:.2f} of {count(report['settings']['cpus'], 'CPU')} busy"),
            ("stored", f"{size(report['stored_bytes_per_second'])}/s read from the file"),
            ("output", f"{size(report['output_bytes_per_second'])}/s of batches"),
            ("routes", ", ".join(f"{name} {number:,}" for name, number in report["routes"].items()) or None),
        ]
    )  # fmt: skip
