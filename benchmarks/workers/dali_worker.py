"""NVIDIA DALI's pipeline on the CPU as a contender."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import contender
import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
from dali_runs import Runs
from nvidia.dali import pipeline_def


class Batches:
    """The batches of an epoch as arrays."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for images, labels in self._runs:
            yield np.asarray(images.as_tensor()), np.asarray(labels.as_tensor())


def make_loader(
    folder: str, batch_size: int, workers: int, side: int, prefetch_queue_depth: int = 2, **_: Any
) -> Batches:
    """Return batches of the folder: uint8 NHWC and labels; the next epoch fills up the last one."""
    paths, labels = zip(*contender.labelled(folder), strict=True)
    runs = -(-len(paths) // batch_size)
    ahead = min(prefetch_queue_depth, runs)

    @pipeline_def(batch_size=batch_size, num_threads=workers, device_id=None,
                  prefetch_queue_depth=ahead, seed=0)  # fmt: skip
    def augmented() -> Any:
        jpegs, classes = fn.readers.file(
            files=list(paths), labels=list(labels), random_shuffle=True, name="reader",
            prefetch_queue_depth=prefetch_queue_depth,
        )  # fmt: skip
        images = fn.decoders.image_random_crop(
            jpegs, device="cpu", output_type=types.RGB, random_area=[0.08, 1.0],
            random_aspect_ratio=[3 / 4, 4 / 3], num_attempts=10, adjust_orientation=False,
        )  # fmt: skip
        images = fn.resize(images, size=(side, side), interp_type=types.INTERP_LINEAR, antialias=True)
        return fn.flip(images, horizontal=fn.random.coin_flip()), classes

    pipeline = augmented()
    pipeline.build()
    return Batches(Runs(pipeline, runs, ahead))


def make_decoder(
    files: Sequence[bytes], threads: int, prefetch_queue_depth: int = 2, batch_size: int = 32, **_: Any
) -> Callable[[], Any]:
    """Decode batch by batch, to RGB arrays."""
    arrays = [np.frombuffer(file, np.uint8) for file in files]
    batches = [arrays[i : i + batch_size] for i in range(0, len(arrays), batch_size)]
    forever, ahead = itertools.cycle(batches), min(prefetch_queue_depth, len(batches))

    @pipeline_def(batch_size=batch_size, num_threads=threads, device_id=None,
                  prefetch_queue_depth=ahead)  # fmt: skip
    def decoded() -> Any:
        jpegs = fn.external_source(source=lambda: next(forever), batch=True, dtype=types.UINT8, ndim=1,
                                   no_copy=True)  # fmt: skip
        return fn.decoders.image(jpegs, device="cpu", output_type=types.RGB, adjust_orientation=False)

    pipeline = decoded()
    pipeline.build()
    runs = Runs(pipeline, len(batches), ahead)

    def all_files() -> Any:
        image = None
        for (images,) in runs:
            image = images[len(images) - 1]
        return image

    return all_files


if __name__ == "__main__":
    contender.serve(("nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-nvimgcodec-cu13"), make_loader,
                    make_decoder)  # fmt: skip
