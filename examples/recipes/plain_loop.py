"""A plain PyTorch training loop, with torch.compile if it works here.

python examples/recipes/digits.py data
python examples/recipes/plain_loop.py data --compile
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from digits import accuracy, loaders, network

from ffcv_gpu.errors import BackendUnavailable, FfcvGpuError, PipelineError


def compiled(model: Any, example: torch.Tensor) -> Any:
    """Return `model` compiled for batches like `example`; if that fails, print why and return `model`."""
    fast = torch.compile(model)
    try:
        with torch.no_grad():
            fast(example)
    except (RuntimeError, OSError) as error:  # no C++ compiler, no Triton, a Python too new for dynamo
        print(f"not compiled: {str(error).strip().splitlines()[0]}")
        return model
    return fast


def train(options: argparse.Namespace) -> float:
    """Train; print a line per epoch and return the test accuracy."""
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable("--device cuda, but torch finds no GPU here; use --device cpu (slower)")
    if options.epochs < 1:
        raise PipelineError(f"--epochs {options.epochs}: at least 1")
    torch.manual_seed(0)
    training, test = loaders(options.data, device)
    model = network().to(device, memory_format=torch.channels_last)
    # A batch of another shape would compile again; drop_last keeps the training shape constant.
    run = compiled(model, next(iter(test))[0]) if options.compile else model
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(options.epochs):
        for images, labels in training:
            loss = torch.nn.functional.cross_entropy(run(images), labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        reached = accuracy(model, test)
        print(f"epoch {epoch + 1}   loss {loss.item():.3f}   test accuracy {reached:.1%}")
    return reached


def main(arguments: list[str] | None = None) -> int:
    """Train; return the exit status, 2 after an expected error (one line)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    try:
        train(parser.parse_args(arguments))
    except FfcvGpuError as error:
        print(f"plain_loop.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
