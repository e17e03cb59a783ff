"""The Loader where decoding and resampling are sleeps: a script run by the suite's Python."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import protocol


class Threads:
    """The handlers."""

    loader: Any = None

    def facts(self, cores: int) -> protocol.Answer:
        """Take the cores."""
        protocol.use_cores(cores)
        return {}

    def sleep(self, workers: int, images: int, decode_us: float, compose_us: float) -> protocol.Answer:
        """Sleep as often and as long as the loader's threads would for an epoch, in as many threads."""

        def share(count: int) -> None:
            for _ in range(count):
                time.sleep(decode_us * 1e-6)
                time.sleep(compose_us * 1e-6)

        each = -(-images // workers)
        with ThreadPoolExecutor(workers) as pool:
            clock = protocol.Clock()
            list(pool.map(share, [each] * workers))
            return clock.answer() | {"images": each * workers}

    def open_loader(
        self, path: str, batch_size: int, workers: int, images: int, decode_us: float, compose_us: float,
        jpeg_backend: str,
    ) -> protocol.Answer:  # fmt: skip
        """Make a loader of epochs of `images` images, and run the first one as it is."""
        import numpy as np
        from pipelines import ours

        from ffcv_gpu.convert.beton import BetonDataset
        from ffcv_gpu.device import CpuDevice
        from ffcv_gpu.jpeg.base import Decoded, Finished
        from ffcv_gpu.jpeg.turbo import TurboBackend
        from ffcv_gpu.jpeg.turbo2 import Turbo2Backend
        from ffcv_gpu.loader import Loader, OrderOption

        rows = np.arange(images) % len(BetonDataset(path))
        self.loader, answer = protocol.first_batch_of(
            lambda: Loader(
                path,
                batch_size,
                num_workers=workers,
                order=OrderOption.RANDOM,
                seed=0,
                indices=rows,
                pipelines=ours(224),
                jpeg_backend=jpeg_backend,
            )
        )

        def decode_files(_: Any, files: Any) -> dict[int, Any]:
            for _file in files:
                time.sleep(decode_us * 1e-6)
            return {}

        def submit(_: Any, encoded: Any, *_rest: Any) -> Any:
            time.sleep(decode_us * 1e-6 * encoded.offsets.size)
            return Finished(Decoded(np.zeros(encoded.offsets.size, np.int8)))

        def compose(_: Any, launch: Any, *_rest: Any) -> None:
            time.sleep(compose_us * 1e-6 * len(launch.boxes))

        TurboBackend.decode_files = decode_files  # type: ignore[method-assign]
        Turbo2Backend.submit = submit  # type: ignore[method-assign]
        CpuDevice.compose = compose  # type: ignore[method-assign]
        return answer

    def epoch(self) -> protocol.Answer:
        """Run one epoch."""
        return protocol.epoch_of(self.loader)


if __name__ == "__main__":
    protocol.serve(Threads())
