"""FFCV or ffcv_gpu as a contender in ``uses``: the same lines run both, each by its own Python."""

from __future__ import annotations

import os
import time
from typing import Any

import protocol
from uses import PIPELINES, Library
from uses_data import written_by


class Uses:
    """The handlers; one loader at a time."""

    loader: Any = None
    pause: float

    def facts(self, cores: int) -> protocol.Answer:
        """Take the cores."""
        protocol.use_cores(cores)
        return {}

    def open_loader(
        self, library: str, path: str, pipeline: str, order: str, pause: float, **arguments: Any
    ) -> protocol.Answer:
        """Make a loader and run a first epoch, in which compilers run; later batches are `pause` s apart."""
        names = Library(library)
        self.pause = pause
        self.loader, answer = protocol.first_batch_of(
            lambda: names.loader.Loader(
                path, order=names.loader.OrderOption[order], seed=0, pipelines=PIPELINES[pipeline](names),
                **arguments,
            )
        )  # fmt: skip
        return answer

    def epochs(self, seconds: float) -> protocol.Answer:
        """Run whole epochs until `seconds` are full; `first_batch_seconds` is the mean of all epochs."""
        samples = batches = epochs = threads = 0
        first, clock = 0.0, protocol.Clock()
        while clock.seconds() < seconds:
            began, before = clock.seconds(), batches
            for batch in self.loader:
                if batches == before:
                    first += clock.seconds() - began
                    threads = max(threads, len(os.listdir("/proc/self/task")))
                samples, batches = samples + len(batch[0]), batches + 1
                if self.pause:
                    time.sleep(self.pause)
            epochs += 1
        counts = {"samples": samples, "batches": batches, "epochs": epochs, "threads": threads}
        return clock.answer() | counts | {"first_batch_seconds": first / epochs} | protocol.memory_bytes()

    def write(self, **what: Any) -> protocol.Answer:
        """Write a file."""
        written_by(**what)
        return {}


if __name__ == "__main__":
    protocol.serve(Uses())
