"""E14: the whole loader, from the page cache to normalised batches: alone, and feeding a training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.bench import BRIEF, Bench, fact
from benchmarks.gpu.datasets import epochs, loader_of, long_epoch, stored
from benchmarks.gpu.speed import measured

__all__ = ["run"]

Row = dict[str, Any]
STEPS = 30


def run(bench: Bench) -> Iterator[Row]:
    """Time the loader alone, a training step alone, then both."""
    gpu, scale = bench.gpu, bench.scale
    side = 32 if gpu.rehearsal else 224
    path = stored(bench, "jpeg", bench.photos(), scale.samples)
    for batch_size in (scale.batch, max(1, scale.batch // 4))[: 1 if scale is BRIEF else 2]:
        settings = {"device": gpu.name, "side": side, "indices": long_epoch(bench)}
        loader = loader_of(path, batch_size, output="float16", **settings)
        _, answer = _epochs(bench, loader, None)
        yield fact(f"first epoch of the loader, batch {batch_size}", **answer)
        rate, row = _epochs(bench, loader, None)
        yield fact(
            f"the loader alone, batch {batch_size}", images_per_second=rate, **row, stages=_stages(loader)
        )
        try:
            train = gpu.training(batch_size, side)
        except ImportError as error:
            yield fact("no model to train", words=str(error))
            continue
        alone = _train_alone(bench, train, batch_size)
        yield fact(f"ResNet-50 step alone, batch {batch_size}", images_per_second=alone)
        rate, row = _epochs(bench, loader, train)
        yield fact(f"the loader feeding it, batch {batch_size}", images_per_second=rate,
                   of_the_step_alone=round(rate / alone, 3), **row)  # fmt: skip
    yield from _repeats(bench, path, side)


def _repeats(bench: Bench, path: Any, side: int) -> Iterator[Row]:
    """The loader alone with every repeat: an epoch a repeat."""
    for output in ("float16", "uint8"):
        settings = {"device": bench.gpu.name, "side": side, "indices": long_epoch(bench)}
        loader = loader_of(path, bench.scale.batch, output=output, **settings)

        def turn(loader: Any = loader) -> dict[str, float]:
            return epochs(loader, 0.0, lambda images: None, bench.gpu.synchronize)

        yield from measured(bench, f"loader, {output}, an epoch of {len(long_epoch(bench))}", turn)


def _epochs(bench: Bench, loader: Any, train: Any) -> tuple[float, dict[str, float]]:
    loader.reset_stats()
    answer = epochs(loader, bench.scale.loader_seconds, train or (lambda images: None), bench.gpu.synchronize)
    rate = answer["images"] / answer["loop_seconds"]
    return rate, {**answer, "cpu_us_per_image": 1e6 * answer["loop_cpu_seconds"] / answer["images"]}


def _stages(loader: Any) -> dict[str, float]:
    return {name: round(stage.seconds, 3) for name, stage in loader.stats().stages.items()}


def _train_alone(bench: Bench, train: Any, batch_size: int) -> float:
    """Images a second of a training whose batches are there already."""
    images = bench.gpu.images(batch_size, 32 if bench.gpu.rehearsal else 224)
    steps = 2 if bench.gpu.rehearsal else STEPS
    for _ in range(3):
        train(images)
    bench.gpu.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        train(images)
    bench.gpu.synchronize()
    return steps * batch_size / (time.perf_counter() - start)
