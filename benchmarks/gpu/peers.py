"""Other libraries on the GPU, in this process: decoders, and DALI's pipeline from bytes to batches.

Each is configured as its documentation recommends. Making a peer that is not installed raises ImportError,
OSError (a library of another CUDA), or RuntimeError.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from benchmarks.workers import pipelines
from benchmarks.workers.dali_runs import Runs

__all__ = ["BATCH", "DISTRIBUTIONS", "PARTS", "PIXELS", "Files", "Made", "MakePeer", "peers_of"]

Files = Sequence[Sequence[bytes]]
#: kinds of output: whole images, or augmented batches
PIXELS, BATCH = "pixels", "batch"
#: their packages: results depend on which of them are installed
DISTRIBUTIONS = (
    "torchcodec", "torchvision", "nvidia-nvimgcodec-cu12", "nvidia-nvimgcodec-cu13", "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
)  # fmt: skip
#: passes of DALI over the files per turn: at the end of a turn its queue runs empty, which in use
#: happens only at the end of an epoch
TIMES = 16


MEAN, STD = list(pipelines.MEAN), list(pipelines.STD)


@dataclass(frozen=True)
class Made:
    """A peer, made for some batches of files.

    Attributes
    ----------
    kind
        `PIXELS` or `BATCH`
    batches
        returns an iterable that submits one batch per step; the caller waits for the GPU. Batches of `BATCH`
        are tensors (N, 3, H, W)
    first
        returns the first image of the first batch on the host, uint8 (height, width, 3); of `PIXELS` only
    times
        number of passes over the files
    settings
    """

    kind: str
    batches: Callable[[], Iterable[Any]]
    first: Callable[[], npt.NDArray[np.uint8]] | None = None
    times: int = 1
    settings: dict[str, Any] = field(default_factory=dict)


MakePeer = Callable[[Files], Made]


def torchcodec(files: Files, index: int) -> Made:
    """TorchCodec's call for a whole batch, which its documentation recommends."""
    from torchcodec.decoders import decode_jpeg

    return _of_tensors(lambda batch: decode_jpeg(batch, mode="RGB", device=f"cuda:{index}"), files)


def torchvision(files: Files, index: int) -> Made:
    """torchvision's call for a whole batch."""
    from torchvision.io import ImageReadMode, decode_jpeg

    return _of_tensors(lambda batch: decode_jpeg(batch, ImageReadMode.RGB, device=f"cuda:{index}"), files)


def _of_tensors(decode: Callable[[list[Any]], list[Any]], files: Files) -> Made:
    import torch

    batches = [[torch.from_numpy(np.frombuffer(file, np.uint8).copy()) for file in batch] for batch in files]

    def first() -> npt.NDArray[np.uint8]:
        image: npt.NDArray[np.uint8] = decode(batches[0][:1])[0].permute(1, 2, 0).cpu().numpy()
        return image

    return Made(PIXELS, lambda: map(decode, batches), first)


def nvimagecodec(files: Files, index: int) -> Made:
    """nvImageCodec with all its backends, and one thread per core."""
    from nvidia import nvimgcodec

    threads = len(os.sched_getaffinity(0))
    decoder = nvimgcodec.Decoder(device_id=index, max_num_cpu_threads=threads)
    how = nvimgcodec.DecodeParams(apply_exif_orientation=False)
    batches = [list(batch) for batch in files]

    def decode(batch: list[bytes]) -> Any:
        return decoder.decode(batch, params=how)

    def first() -> npt.NDArray[np.uint8]:
        return np.asarray(decode(batches[0])[0].cpu())

    return Made(PIXELS, lambda: map(decode, batches), first, settings={"threads": threads})


def dali_decoder(files: Files, index: int, load: float) -> Made:
    """DALI's mixed decoder with memory for the largest image, two batches ahead."""
    import nvidia.dali.fn as fn
    import nvidia.dali.types as types

    def graph(jpegs: Any, hints: Mapping[str, int]) -> Any:
        return fn.decoders.image(
            jpegs,
            device="mixed",
            output_type=types.RGB,
            adjust_orientation=False,
            hw_decoder_load=load,
            **hints,
        )

    runs, settings = _dali(files, index, graph)

    def first() -> npt.NDArray[np.uint8]:
        found = [np.array(images[0].as_cpu()) if number == 0 else None
                 for number, (images,) in enumerate(runs)]  # fmt: skip
        return found[0]

    return Made(PIXELS, lambda: runs, first, TIMES, settings | {"hw_decoder_load": load})


def dali_pipeline(files: Files, index: int, load: float, *, crop_first: bool) -> Made:
    """Random-resized-crop to 224, flip, normalised float16, channels first, like the loader of T2."""
    import nvidia.dali.fn as fn
    import nvidia.dali.types as types
    import torch

    drawn = {"random_area": [0.08, 1.0], "random_aspect_ratio": [3 / 4, 4 / 3]}
    common = {
        "device": "mixed",
        "output_type": types.RGB,
        "adjust_orientation": False,
        "hw_decoder_load": load,
    }

    def graph(jpegs: Any, hints: Mapping[str, int]) -> Any:
        if crop_first:
            images = fn.decoders.image_random_crop(jpegs, **common, **hints, **drawn, num_attempts=10)
            images = fn.resize(images, size=(224, 224), antialias=True)
        else:
            images = fn.decoders.image(jpegs, **common, **hints)
            images = fn.random_resized_crop(images, size=(224, 224), antialias=True, **drawn)
        return fn.crop_mirror_normalize(
            images, dtype=types.FLOAT16, output_layout="CHW", mean=MEAN, std=STD, mirror=fn.random.coin_flip()
        )

    runs, settings = _dali(files, index, graph)

    def batches() -> Iterable[Any]:
        return (torch.from_dlpack(images.as_tensor()) for (images,) in runs)

    return Made(BATCH, batches, None, TIMES, settings | {"hw_decoder_load": load})


def _dali(files: Files, index: int, graph: Callable[..., Any]) -> tuple[Any, dict[str, Any]]:
    """Return a pipeline that passes `TIMES` times over files in memory, and its settings."""
    import nvidia.dali.fn as fn
    import nvidia.dali.types as types
    from nvidia.dali import pipeline_def

    batches = [[np.frombuffer(file, np.uint8) for file in batch] for batch in files]
    forever = itertools.cycle(batches)
    sizes = [simplejpeg.decode_jpeg_header(file)[:2] for batch in files for file in batch]
    hints = {"preallocate_height_hint": max(h for h, _ in sizes),
             "preallocate_width_hint": max(w for _, w in sizes)}  # fmt: skip
    threads, ahead = len(os.sched_getaffinity(0)), 2

    @pipeline_def(batch_size=max(map(len, batches)), num_threads=threads, device_id=index,
                  prefetch_queue_depth=ahead)  # fmt: skip
    def made() -> Any:
        jpegs = fn.external_source(
            source=lambda: next(forever), batch=True, dtype=types.UINT8, ndim=1, no_copy=True
        )
        return graph(jpegs, hints)

    pipeline = made()
    pipeline.build()
    settings = {"threads": threads, "prefetch_queue_depth": ahead, **hints}
    return Runs(pipeline, TIMES * len(batches), ahead), settings


#: by part of experiment T3
MAKERS: dict[str, dict[str, Callable[[Files, int], Made]]] = {
    "TorchCodec": {"TorchCodec decode_jpeg": torchcodec},
    "torchvision": {"torchvision decode_jpeg": torchvision},
    "nvImageCodec": {"nvImageCodec": nvimagecodec},
    "DALI decoder": {
        f"DALI mixed decoder, {load:.0%} on the engines": lambda files, index, load=load: dali_decoder(
            files, index, load
        )
        for load in (0.65, 1.0)
    },
    "DALI pipeline": {
        f"DALI pipeline, {what}, {load:.0%} on the engines": lambda files, index, load=load, first=first: (
            dali_pipeline(files, index, load, crop_first=first)
        )
        for first, what in ((False, "whole images decoded"), (True, "crops decoded"))
        for load in (0.65, 1.0)
        if not (first and load == 1.0)  # the engines decode no crops
    },
}
#: parts of experiment T3, each measured in one process
PARTS = (*MAKERS, "DALI pipeline on 2 cores")


def peers_of(part: str, index: int) -> dict[str, MakePeer]:
    """Return functions that make the peers of a part for a GPU, by name."""
    return {name: lambda files, make=make: make(files, index) for name, make in MAKERS[part].items()}
