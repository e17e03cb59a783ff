"""FFCV as a contender: a script run by the Python of FFCV's environment."""

from __future__ import annotations

from typing import Any

import contender
import protocol
from pipelines import theirs


def make_loader(
    path: str, batch_size: int, workers: int, output: str, side: int, os_cache: bool = True, **_: Any
) -> Any:
    """Return a Loader in random order."""
    import numpy as np
    from ffcv.loader import Loader, OrderOption

    pipelines = theirs(side, None if output == "uint8" else np.dtype(output).type)
    return Loader(path, batch_size=batch_size, num_workers=workers, order=OrderOption.RANDOM, seed=0,
                  os_cache=os_cache, drop_last=False, pipelines=pipelines)  # fmt: skip


class Ffcv(contender.Handlers):
    """The handlers of every benchmark."""

    def open_loader(self, **request: Any) -> protocol.Answer:
        """Make a loader and run a first epoch, in which FFCV compiles; imports are not part of it."""
        import ffcv.loader  # noqa: F401

        theirs(request["side"])
        return super().open_loader(**request)

    def write(self, listing: str, count: int, target: str, workers: int, **field: Any) -> protocol.Answer:
        """Write photos given as Pillow images, as usual with FFCV; `field`: RGBImageField's arguments."""
        from ffcv.fields import IntField, RGBImageField
        from ffcv.writer import DatasetWriter

        photos = protocol.Photographs(listing, count, protocol.pillow_rgb)
        writer = DatasetWriter(
            target, {"image": RGBImageField(**field), "label": IntField()}, num_workers=workers
        )
        return protocol.timed_write(lambda: writer.from_indexed_dataset(photos), target, count)

    def open_file(self, path: str, warm: str) -> protocol.Answer:
        """Construct a Loader for `path`; one for the small `warm` first, to exclude imports."""
        from ffcv.loader import Loader

        Loader(warm, batch_size=2, num_workers=1)
        return protocol.opened(lambda: Loader(path, batch_size=256, num_workers=1))[1]


if __name__ == "__main__":
    protocol.serve(Ffcv(("ffcv", "numba", "numpy", "torch", "opencv-python-headless"), make_loader))
