"""A training loop as a contender: the same step, fed by a given loader."""

from __future__ import annotations

import os
from typing import Any

import protocol

#: batches kept for the step alone, and the number of those steps after each epoch, as a share of the epoch's
KEPT, ALONE = 2, 0.5


class Training:
    """The handlers; one feed at a time."""

    feed: Any = None

    def facts(self, cores: int) -> protocol.Answer:
        """Pin this process to the cores; return torch's version and the device."""
        protocol.use_cores(cores)
        os.environ["OMP_WAIT_POLICY"] = "passive"  # waiting threads sleep: CPU seconds are work
        import torch

        torch.set_num_threads(cores)
        self.cores = cores
        gpu = torch.cuda.is_available()
        return {"torch": torch.__version__, "device": torch.cuda.get_device_name(0) if gpu else "cpu"}

    def open_feed(self, feed: str, width: float, device: str = "", **request: Any) -> protocol.Answer:
        """Make the step and its feed, and run a first epoch, during which compilers run."""
        from train_feeds import FEEDS
        from train_step import Kept, Step

        self.step = Step(width, request["samples"], device)
        clock, kept, first = protocol.Clock(), [], 0.0
        self.feed = FEEDS[feed](request, self.step)
        made = clock.seconds()
        for batch in self.feed:
            first = first or clock.seconds()
            if len(kept) < KEPT:
                kept.append(tuple(part.clone() for part in batch))
        self.alone = Kept(kept, max(1, round(ALONE * (request["samples"] // request["batch_size"]))))
        self._measure(self.alone)  # torch's first steps are slow
        return {"construct_seconds": made, "first_batch_seconds": first}

    def _measure(self, batches: Any) -> protocol.Answer:
        from train_step import measured

        return measured(self.step, batches, protocol.Clock, self.cores)

    def epoch(self) -> protocol.Answer:
        """Train an epoch, then some steps without a loader: the difference is the loader's cost."""
        answer, alone = self._measure(self.feed), self._measure(self.alone)
        share = answer["images"] / alone["images"]
        return answer | {
            "alone": alone,
            "kept_share": alone["seconds"] * share / answer["seconds"],
            "loader_cpu_seconds": answer["cpu_seconds"] - alone["cpu_seconds"] * share,
        }


if __name__ == "__main__":
    protocol.serve(Training())
