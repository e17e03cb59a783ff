"""The Loader on a GPU that does nothing: a script run by the suite's Python."""

from __future__ import annotations

from typing import Any

import protocol


class Host:
    """The handlers."""

    loader: Any = None
    image_ns = 0
    gpu: Any = None  # the package finds it only while somebody keeps it

    def facts(self, cores: int) -> protocol.Answer:
        """Take the cores."""
        protocol.use_cores(cores)
        return {}

    def open_loader(
        self, path: str, batch_size: int, workers: int, side: int, images: int, engine_us: float, spins: bool
    ) -> protocol.Answer:
        """Make a loader of epochs of `images` images, and run the first one."""
        import numpy as np
        from pipelines import ours
        from still_gpu import still_gpu

        from ffcv_gpu.convert.beton import BetonDataset
        from ffcv_gpu.loader import Loader, OrderOption

        self.image_ns = round(1000 * engine_us)
        self.gpu = still_gpu(self.image_ns, spins=spins)
        rows = np.arange(images) % len(BetonDataset(path))
        self.loader, answer = protocol.first_batch_of(
            lambda: Loader(
                path,
                batch_size,
                num_workers=workers,
                order=OrderOption.RANDOM,
                seed=0,
                indices=rows,
                pipelines=ours(side, np.dtype("float16"), device="cuda:0"),
            )
        )
        return answer

    def epoch(self) -> protocol.Answer:
        """Run one epoch; adds the seconds per stage, and what the engines needed and spun."""
        self.loader.reset_stats()
        nvjpeg = self.gpu.nvjpeg
        before = nvjpeg.spun_seconds
        answer = protocol.epoch_of(self.loader)
        nvjpeg.verify()  # else another route may have decoded, in earnest
        stages = self.loader.stats().stages
        answer |= {
            "spun_seconds": nvjpeg.spun_seconds - before,
            "stage_seconds": {name: stage.seconds for name, stage in stages.items()},
        }
        if self.image_ns:
            answer["engine_seconds_needed"] = answer["images"] * self.image_ns * 1e-9
        return answer


if __name__ == "__main__":
    protocol.serve(Host())
