"""SPDL as a contender: its pipeline of threads over FFmpeg, and as a bare decoder."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import contender
import numpy as np
import spdl.io
from crops import random_crop
from spdl.pipeline import PipelineBuilder


class Loader:
    """An epoch per ``iter()``, each with a new pipeline, as SPDL's own loader does."""

    def __init__(self, folder: str, batch_size: int, workers: int, side: int, buffer_size: int) -> None:
        self.files, self.batch_size, self.workers = contender.labelled(folder), batch_size, workers
        self.side, self.buffer_size = side, buffer_size

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        order = random.sample(self.files, len(self.files))
        pipeline = (
            PipelineBuilder()
            .add_source(order)
            .pipe(self.frames, concurrency=self.workers)
            .aggregate(self.batch_size)
            .pipe(batch)
            .add_sink(self.buffer_size)
            .build(num_threads=self.workers, max_failures=0)
        )
        with pipeline.auto_stop():
            yield from pipeline.get_iterator()

    def frames(self, sample: tuple[str, int]) -> tuple[Any, int]:
        """Decode one file; FFmpeg crops, scales, flips and converts in one filter graph."""
        path, label = sample
        packets = spdl.io.demux_image(path)
        y, x, h, w = random_crop(random, packets.height, packets.width)
        flip = "hflip," if random.random() < 0.5 else ""
        scale = f"scale={self.side}:{self.side}:flags=bilinear"
        graph = f"crop={w}:{h}:{x}:{y}:exact=1,{scale},{flip}format=pix_fmts=rgb24"
        return spdl.io.decode_packets(packets, filter_desc=graph), label


def batch(samples: list[tuple[Any, int]]) -> tuple[Any, Any]:
    """Convert frames to one array, uint8 NHWC, and labels."""
    frames, labels = zip(*samples, strict=True)
    return spdl.io.to_numpy(spdl.io.convert_frames(list(frames))), np.array(labels)


def make_loader(
    folder: str, batch_size: int, workers: int, side: int, buffer_size: int = 3, **_: Any
) -> Loader:
    """Return batches of the folder: uint8 NHWC and labels."""
    return Loader(folder, batch_size, workers, side, buffer_size)


def make_decoder(files: Sequence[bytes], threads: int, **_: Any) -> Callable[[], Any]:
    """Decode in threads, one image per thread, to RGB arrays."""
    return contender.by_threads(lambda file: spdl.io.to_numpy(spdl.io.load_image(file)), files, threads)


if __name__ == "__main__":
    spdl.io.decode_config()  # loads FFmpeg
    contender.serve(
        ("spdl", "spdl-io", "spdl-core", "numpy"), make_loader, make_decoder, library="libavcodec"
    )
