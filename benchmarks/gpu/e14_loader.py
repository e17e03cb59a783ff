"""E14: a training step fed by the loader, and by DALI's pipeline: how much of its speed is left?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from benchmarks.gpu.bench import Bench, Row, fact, timed
from benchmarks.gpu.datasets import loader_of, long_epoch, stored
from benchmarks.gpu.peers import BATCH
from benchmarks.gpu.t2_loader import loader_rows

__all__ = ["run"]

#: of torchvision: the usual one, and one that is three times as fast
NETWORKS = ("resnet50", "resnet18")
PEER = "DALI pipeline"


def run(bench: Bench) -> Iterator[Row]:
    """Time the loader alone, then each network's step on one repeated batch, and fed by each loader."""
    gpu, side = bench.gpu, 32 if bench.gpu.rehearsal else 224
    files = bench.photos()
    path = stored(bench, "jpeg", files, bench.scale.samples)
    for output in ("uint8", "float16"):
        yield from loader_rows(bench, path, f"jpeg, {output}", -1, output)

    def loaded(**settings: Any) -> Iterator[Any]:
        loader = loader_of(path, bench.scale.batch, device=gpu.name, output="float16", side=side,
                           indices=long_epoch(bench), **settings)  # fmt: skip
        return _endless(lambda: (images for images, *_ in loader))

    feeds = {
        "one batch": itertools.repeat(gpu.images(bench.scale.batch, side)),
        "the loader": loaded(),
        "the loader, idle cores decode too": loaded(cpu_share="auto"),
    }
    lists = [list(pictures.files) for pictures in bench.rotation(bench.scale.batch, files=files)]
    for name, make in gpu.peers(PEER).items():
        try:
            made = make(lists)
        except (ImportError, OSError, RuntimeError) as error:
            yield fact(f"{name} is not available", words=str(error)[:300])
            continue
        if made.kind == BATCH:
            feeds[name] = _endless(made.batches)
    for network in NETWORKS:
        try:
            step = gpu.training(network, bench.scale.batch)
        except ImportError as error:
            yield fact("no model to train", words=str(error))
            return
        yield from _fed(bench, network, step, feeds)


def _endless(feed: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """Chain epochs, so that the turns of a training do not start with an empty queue."""
    return itertools.chain.from_iterable(feed() for _ in itertools.repeat(None))


def _fed(
    bench: Bench, network: str, step: Callable[[Any], None], feeds: Mapping[str, Iterator[Any]]
) -> Iterator[Row]:
    """Time the step with each feed, first with one batch on the GPU; yield the ratios to that."""
    alone = 0.0
    for name, feed in feeds.items():

        def turn(feed: Iterator[Any] = feed) -> dict[str, float]:
            count = 0
            for images in itertools.islice(feed, bench.scale.steps):
                step(images)
                count += len(images)
            bench.gpu.synchronize()
            return {"images": float(count)}

        for row in timed(bench, f"{network} fed by {name}", turn):
            yield row
            if row["row"] == "result":
                rate = row["images_per_second"]
                alone = alone or rate
                yield fact(f"{network} fed by {name} / by one batch", ratio=round(rate / alone, 3))
