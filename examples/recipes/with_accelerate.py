"""Hugging Face Accelerate: pass the network and the optimiser to `prepare`, but not the Loader.

    python examples/recipes/digits.py data
    accelerate launch examples/recipes/with_accelerate.py data

The Loader divides samples among the ranks itself (`distributed=True`) and puts batches on this process's
device.
"""

from __future__ import annotations

import argparse
import sys

import torch
from digits import accuracy, command_line, loaders, network

from ffcv_gpu.errors import BackendUnavailable, FfcvGpuError

try:
    import accelerate
except ImportError as error:
    accelerate, missing = None, str(error)


def train(options: argparse.Namespace) -> float:
    """Train; return the test accuracy."""
    if accelerate is None:
        raise BackendUnavailable(f"Accelerate cannot be imported ({missing}): pip install accelerate")
    accelerate.utils.set_seed(0)
    accelerator = accelerate.Accelerator(cpu=options.cpu)
    device = str(accelerator.device)
    many = accelerator.num_processes > 1
    training, test = loaders(options.data, device, workers=options.workers, distributed=many)
    model = network()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model, optimiser = accelerator.prepare(model, optimiser)
    for _ in range(options.epochs):
        for images, labels in training:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            accelerator.backward(loss)
            optimiser.step()
            optimiser.zero_grad()
    reached = accuracy(model, test)  # every process tests all 297 images
    accelerator.print(f"test accuracy {reached:.1%}")
    return reached


def main(arguments: list[str] | None = None) -> int:
    """Train; return the exit status, 2 after an expected error (one line)."""
    parser = command_line(__doc__)
    parser.add_argument("--cpu", action="store_true")
    try:
        train(parser.parse_args(arguments))
    except FfcvGpuError as error:
        print(f"with_accelerate.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
