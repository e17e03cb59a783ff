"""ffcv_gpu as a contender: run as a script, by the Python that runs the suite."""

from __future__ import annotations

import time
from typing import Any

import contender
import protocol
from pipelines import ours


class Own:
    """The handlers; one loader at a time."""

    loader: Any = None
    files: list[bytes]
    how: dict[str, Any]
    batch_size: int

    def facts(self, cores: int) -> protocol.Answer:
        """Take the cores."""
        protocol.use_cores(cores)
        return {}

    def open_loader(
        self, path: str, batch_size: int, workers: int, output: str, side: int, dct: str = "accurate",
        jpeg_backend: str | None = None, os_cache: bool = True, **_: Any,
    ) -> protocol.Answer:  # fmt: skip
        """Make a loader and run a first epoch."""
        import numpy as np

        from ffcv_gpu.loader import Loader, OrderOption

        pipelines = ours(side, None if output == "uint8" else np.dtype(output))
        self.loader, answer = protocol.first_batch_of(
            lambda: Loader(path, batch_size=batch_size, num_workers=workers, order=OrderOption.RANDOM, seed=0,
                           os_cache=os_cache, drop_last=False, pipelines=pipelines, dct=dct,
                           jpeg_backend=jpeg_backend)
        )  # fmt: skip
        return answer

    def epoch(self, limit: int | None = None) -> protocol.Answer:
        """Run one epoch, or `limit` images of it; adds the loader's seconds by stage."""
        self.loader.reset_stats()
        answer = protocol.epoch_of(self.loader, limit)
        stages = self.loader.stats().stages
        return answer | {"stage_seconds": {name: stage.seconds for name, stage in stages.items()}}

    def open_files(
        self, listing: str, count: int, threads: int, dct: str = "accurate", batch_size: int = 32
    ) -> protocol.Answer:
        """Read `count` files of a list, decode all once, and say what the last one is like."""
        self.files = contender.read_files(listing, count)
        self.how = {"device": "cpu", "output": "numpy", "num_workers": threads, "dct": dct}
        self.batch_size = batch_size
        return contender.described(self._decoded())

    def decode(self) -> protocol.Answer:
        """Decode all files once."""
        clock = protocol.Clock()
        self._decoded()
        return clock.answer() | {"images": len(self.files)}

    def _decoded(self) -> Any:
        """Decode batch by batch; returns the last image."""
        from ffcv_gpu import decode_jpegs

        for start in range(0, len(self.files), self.batch_size):
            images, _ = decode_jpegs(
                self.files[start : start + self.batch_size], on_error="raise", **self.how
            )
        return images[-1]

    def memory(self) -> protocol.Answer:
        """Resident memory now."""
        return protocol.memory_bytes()

    def write(
        self, listing: str, count: int, target: str, workers: int, source: str = "path", **field: Any
    ) -> protocol.Answer:
        """Write photos from their paths, or as Pillow images; `field` are RGBImageField's arguments."""
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
        """Construct a Loader for `path`, and ask for lengths; `warm` first, so that imports do not count."""
        from ffcv_gpu.format import open_beton
        from ffcv_gpu.loader import Loader

        Loader(warm, 2, num_workers=1)
        before, clock = protocol.memory_bytes(), protocol.Clock()
        loader = Loader(path, 256, num_workers=1)
        answer = clock.answer()
        growth = protocol.memory_growth(before)
        answer |= {"loader_seconds": answer["seconds"], "loader_growth": growth, "batches": len(loader)}
        del loader
        start = time.perf_counter()
        beton = open_beton(path)
        answer["open_seconds"] = time.perf_counter() - start
        total = int(beton.lengths("image").sum())
        answer["lengths_seconds"] = time.perf_counter() - start
        return answer | {"payload_bytes": total}


if __name__ == "__main__":
    own = Own()
    protocol.serve(facts=own.facts, open_loader=own.open_loader, epoch=own.epoch, memory=own.memory,
                   write=own.write, open_file=own.open_file, open_files=own.open_files,
                   decode=own.decode)  # fmt: skip
