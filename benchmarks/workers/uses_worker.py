"""FFCV or ffcv_gpu as a contender in ``uses``: the same lines run both, each by its own Python."""

from __future__ import annotations

import threading
import time
from typing import Any

import protocol
from uses import PIPELINES, Library


class Uses:
    """The handlers; one loader at a time."""

    loader: Any = None

    def facts(self, cores: int) -> protocol.Answer:
        """Take the cores."""
        protocol.use_cores(cores)
        return {}

    def open_loader(
        self, library: str, path: str, pipeline: str, batch_size: int, workers: int, order: str,
        os_cache: bool = True, drop_last: bool = True,
    ) -> protocol.Answer:  # fmt: skip
        """Make a loader and run a first epoch, in which compilers run."""
        modules = Library(library)
        order = getattr(modules.loader.OrderOption, order)
        self.loader = None
        self.loader, answer = protocol.first_batch_of(
            lambda: modules.loader.Loader(
                path, batch_size=batch_size, num_workers=workers, order=order, seed=0, os_cache=os_cache,
                drop_last=drop_last, pipelines=PIPELINES[pipeline](modules),
            )
        )  # fmt: skip
        return answer

    def epochs(self, seconds: float, least: int = 1, pause: float = 0.0) -> protocol.Answer:
        """Run at least `least` whole epochs, until `seconds` are full; `pause` after every batch."""
        samples = batches = epochs = threads = 0
        first, clock = 0.0, protocol.Clock()
        while epochs < least or clock.seconds() < seconds:
            start, waiting = time.perf_counter(), True
            for batch in self.loader:
                if waiting:
                    first, waiting = first + time.perf_counter() - start, False
                    threads = max(threads, count_threads())
                samples, batches = samples + len(batch[0]), batches + 1
                if pause:
                    time.sleep(pause)
            epochs += 1
        counts = {"images": samples, "batches": batches, "epochs": epochs, "threads": threads}
        return clock.answer() | counts | {"first_batch_seconds": first / epochs} | protocol.memory_bytes()


def count_threads() -> int:
    import os
    return len(os.listdir("/proc/self/task"))


if __name__ == "__main__":
    uses = Uses()
    protocol.serve(facts=uses.facts, open_loader=uses.open_loader, epochs=uses.epochs)
