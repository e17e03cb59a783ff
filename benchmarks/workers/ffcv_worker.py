"""FFCV as a contender: run as a script, by the Python of FFCV's own environment."""

from __future__ import annotations

from typing import Any

import protocol
from pipelines import theirs


class Ffcv:
    """The handlers; one loader at a time."""

    loader: Any = None

    def facts(self, cores: int) -> protocol.Answer:
        """Take the cores and say which versions these are."""
        protocol.use_cores(cores)
        from importlib.metadata import version

        return {name: version(name) for name in ("ffcv", "numba", "numpy", "torch", "opencv-python-headless")}

    def open_loader(
        self,
        path: str,
        batch_size: int,
        workers: int,
        output: str,
        side: int,
        os_cache: bool = True,
        **_: Any,
    ) -> protocol.Answer:
        """Make a loader and run a first epoch, in which FFCV compiles."""
        import numpy as np
        from ffcv.loader import Loader, OrderOption

        pipelines = theirs(side, None if output == "uint8" else np.dtype(output).type)
        self.loader, answer = protocol.first_batch_of(
            lambda: Loader(path, batch_size=batch_size, num_workers=workers, order=OrderOption.RANDOM, seed=0,
                           os_cache=os_cache, drop_last=False, pipelines=pipelines)
        )  # fmt: skip
        return answer

    def epoch(self) -> protocol.Answer:
        """Run one epoch."""
        return protocol.epoch_of(self.loader)

    def write(self, listing: str, count: int, target: str, workers: int, **field: Any) -> protocol.Answer:
        """Write photos as Pillow images, FFCV's natural way; `field` are RGBImageField's arguments."""
        from ffcv.fields import IntField, RGBImageField
        from ffcv.writer import DatasetWriter

        photos = protocol.Photographs(listing, count, protocol.pillow_rgb)
        writer = DatasetWriter(
            target, {"image": RGBImageField(**field), "label": IntField()}, num_workers=workers
        )
        return protocol.timed_write(lambda: writer.from_indexed_dataset(photos), target, count)

    def open_file(self, path: str, warm: str) -> protocol.Answer:
        """Construct a Loader for `path`; one for the small `warm` first: imports do not count."""
        from ffcv.loader import Loader

        Loader(warm, batch_size=2, num_workers=1)
        before, clock = protocol.memory_bytes(), protocol.Clock()
        loader = Loader(path, batch_size=256, num_workers=1)
        answer = clock.answer()
        growth = protocol.memory_growth(before)
        return answer | {"loader_seconds": answer["seconds"], "loader_growth": growth, "batches": len(loader)}


if __name__ == "__main__":
    ffcv = Ffcv()
    protocol.serve(facts=ffcv.facts, open_loader=ffcv.open_loader, epoch=ffcv.epoch, write=ffcv.write,
                   open_file=ffcv.open_file)  # fmt: skip
