"""ffcv_gpu as a contender: a script run by the suite's Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import contender
import protocol
from pipelines import ours


def make_loader(
    path: str, batch_size: int, workers: int, output: str, side: int, dct: str = "accurate",
    jpeg_backend: str | None = None, os_cache: bool = True, **_: Any,
) -> Any:  # fmt: skip
    """Return a Loader in random order."""
    import numpy as np

    from ffcv_gpu.loader import Loader, OrderOption

    pipelines = ours(side, None if output == "uint8" else np.dtype(output))
    return Loader(path, batch_size=batch_size, num_workers=workers, order=OrderOption.RANDOM, seed=0,
                  os_cache=os_cache, drop_last=False, pipelines=pipelines, dct=dct,
                  jpeg_backend=jpeg_backend)  # fmt: skip


def make_decoder(
    files: Sequence[bytes], threads: int, dct: str = "accurate", batch_size: int = 32, **_: Any
) -> Callable[[], Any]:
    """Decode batch by batch, to arrays in newly allocated memory."""
    from ffcv_gpu import decode_jpegs

    batches = [files[i : i + batch_size] for i in range(0, len(files), batch_size)]

    def all_files() -> Any:
        for batch in batches:
            images, _ = decode_jpegs(
                batch, device="cpu", output="numpy", on_error="raise", num_workers=threads, dct=dct
            )
        return images[-1]

    return all_files


class Own(contender.Handlers):
    """The handlers of every benchmark."""

    def open_loader(self, **request: Any) -> protocol.Answer:
        """Make a loader and run a first epoch; imports are not part of the first batch."""
        import ffcv_gpu.loader  # noqa: F401

        ours(request["side"])
        return super().open_loader(**request)

    def epoch(self, limit: int | None = None) -> protocol.Answer:
        """Run one epoch, or `limit` images of it; adds the loader's seconds per stage."""
        self.loader.reset_stats()
        answer = protocol.epoch_of(self.loader, limit)
        stages = self.loader.stats().stages
        return answer | {"stage_seconds": {name: stage.seconds for name, stage in stages.items()}}

    def memory(self) -> protocol.Answer:
        """Return the resident memory."""
        return protocol.memory_bytes()

    def write(
        self, listing: str, count: int, target: str, workers: int, source: str = "path", **field: Any
    ) -> protocol.Answer:
        """Write photos given as paths or Pillow images; `field`: RGBImageField's arguments."""
        from ffcv_gpu.fields import IntField, RGBImageField
        from ffcv_gpu.writer import DatasetWriter

        photos = protocol.Photographs(listing, count, protocol.pillow_rgb if source == "pillow" else str)
        fields = {"image": RGBImageField(**field), "label": IntField()}
        writer = DatasetWriter(target, fields, num_workers=workers, progress=False)
        reports: list[Any] = []
        answer = protocol.timed_write(
            lambda: reports.append(writer.from_indexed_dataset(photos)), target, count
        )
        return answer | {"modes": dict(reports[0].modes)}

    def open_file(self, path: str, warm: str) -> protocol.Answer:
        """Construct a Loader for `path` and read its lengths; `warm` is opened first, to exclude imports."""
        from ffcv_gpu.format import open_beton
        from ffcv_gpu.loader import Loader

        Loader(warm, 2, num_workers=1)
        loader, answer = protocol.opened(lambda: Loader(path, 256, num_workers=1))
        del loader
        start = time.perf_counter()
        beton = open_beton(path)
        answer["open_seconds"] = time.perf_counter() - start
        total = int(beton.lengths("image").sum())
        answer["lengths_seconds"] = time.perf_counter() - start
        return answer | {"payload_bytes": total}


if __name__ == "__main__":
    protocol.serve(Own((), make_loader, make_decoder))
