"""timm: its networks, optimiser and schedule, fed by a Loader instead of timm.data.create_loader.

    python examples/recipes/digits.py data
    python examples/recipes/with_timm.py data --model test_resnet

A Loader yields what timm's prefetcher yields: (images, labels) on the device, normalised, channels last.
`ForTimm` adds the loader attributes that timm's training script reads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import torch
from digits import accuracy, command_line, loaders

from ffcv_gpu.errors import BackendUnavailable, FfcvGpuError, PipelineError

try:
    import timm
    import timm.loss
    import timm.optim
    import timm.scheduler
except ImportError as error:
    timm, missing = None, str(error)


class ForTimm:
    """A Loader with the attributes that timm's training script reads."""

    #: the script looks for ``set_epoch`` here, too; it finds the Loader's at `dataset`
    batch_sampler = None
    #: the script would switch off the prefetcher's own mixup here for the last epochs
    mixup_enabled = False

    def __init__(self, batches: Any, sampler: Any = None) -> None:
        self.dataset = self._batches = batches
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)


def train(options: argparse.Namespace) -> float:
    """Train; return the test accuracy."""
    if timm is None:
        raise BackendUnavailable(f"timm cannot be imported ({missing}): pip install timm")
    if options.model not in timm.list_models():
        raise PipelineError(f"timm has no network {options.model!r}")
    torch.manual_seed(0)
    training, test = map(ForTimm, loaders(options.data, workers=options.workers))
    model = timm.create_model(options.model, num_classes=10).to(memory_format=torch.channels_last)
    optimiser = timm.optim.create_optimizer_v2(model, "adamw", lr=5e-3, weight_decay=0.02)
    schedule = timm.scheduler.CosineLRScheduler(optimiser, options.epochs * len(training), t_in_epochs=False)
    loss_of = timm.loss.LabelSmoothingCrossEntropy(0.1)
    updates = 0
    for _ in range(options.epochs):
        model.train()
        for images, labels in training:
            loss = loss_of(model(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            updates += 1
            schedule.step_update(updates)
    reached = accuracy(model, test)
    print(f"test accuracy {reached:.1%}")
    return reached


def main(arguments: list[str] | None = None) -> int:
    """Train; return the exit status, 2 after an expected error (one line)."""
    parser = command_line(__doc__)
    parser.add_argument("--model", default="test_resnet")
    try:
        train(parser.parse_args(arguments))
    except FfcvGpuError as error:
        print(f"with_timm.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
