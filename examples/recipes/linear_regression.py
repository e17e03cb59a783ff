"""Linear regression on a table that may be larger than memory (FFCV's third example).

    python examples/recipes/linear_regression.py table.beton --rows 1000000

Rows are read a page at a time in the epoch's order, within `--cache-gb` of memory. If the file does not
exist, it is created from random rows with known weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ffcv_gpu.errors import FfcvGpuError, PipelineError
from ffcv_gpu.fields import FloatField, NDArrayField
from ffcv_gpu.fields.decoders import FloatDecoder, NDArrayDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.transforms import Convert, Squeeze, ToDevice, ToTensor
from ffcv_gpu.writer import DatasetWriter

NOISE = 0.1


class Table:
    """``dataset[i]`` is (row, target): the target is a weighted sum of the row plus noise."""

    def __init__(self, rows: int, columns: int) -> None:
        self._rows = rows
        self.weights = np.random.default_rng(0).normal(size=columns).astype(np.float32)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> tuple[np.ndarray, float]:
        if not 0 <= index < self._rows:
            raise IndexError(index)
        rng = np.random.default_rng(index + 1)
        row = rng.normal(size=len(self.weights)).astype(np.float32)
        return row, float(row @ self.weights + NOISE * rng.normal())


def write(path: Path, rows: int, columns: int) -> None:
    """Write a table in pages of 2 MiB, so that even a small file has many."""
    fields = {"row": NDArrayField(np.dtype("float32"), (columns,)), "target": FloatField()}
    DatasetWriter(path, fields, page_size=2 << 20).from_indexed_dataset(Table(rows, columns))


def make_loader(path: Path, batch_size: int, cache_gb: float, device: str, **settings: Any) -> Loader:
    """Return a loader of (rows, targets), float32."""
    onto = [ToTensor(), ToDevice(device)]
    pipelines = {
        "row": [NDArrayDecoder(), *onto],
        "target": [FloatDecoder(), *onto, Convert(torch.float32), Squeeze(1)],
    }
    return Loader(
        path,
        batch_size,
        os_cache=False,
        order=OrderOption.QUASI_RANDOM,
        seed=0,
        cache_gb=cache_gb,
        pipelines=pipelines,
        **settings,
    )


def train(options: argparse.Namespace) -> tuple[np.ndarray, float]:
    """Fit by SGD; return the weights and the last epoch's mean squared error."""
    if not options.file.exists():
        write(options.file, options.rows, options.columns)
    loader = make_loader(options.file, options.batch_size, options.cache_gb, options.device)
    if not len(loader) or options.epochs < 1:
        asked = f"--batch-size {options.batch_size} --epochs {options.epochs}"
        raise PipelineError(f"nothing to train on: {options.file} has {len(loader.indices)} rows; {asked}")
    columns = next(iter(loader))[0].shape[1]
    weights = torch.zeros(columns, device=options.device, requires_grad=True)
    bias = torch.zeros(1, device=options.device, requires_grad=True)
    optimiser = torch.optim.SGD([weights, bias], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0.01, options.epochs * len(loader))
    for epoch in range(options.epochs):
        errors = []
        for rows, targets in loader:
            loss = (rows @ weights + bias - targets).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            errors.append(loss.detach())
        error = float(torch.stack(errors).mean())
        print(f"epoch {epoch + 1}   mean squared error {error:.5f}")
    return weights.detach().cpu().numpy(), error


def main(arguments: list[str] | None = None) -> int:
    """Fit; return the exit status, 2 after an expected error (one line)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=100_000, help="of a table that is created")
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--cache-gb", type=float, default=0.2)
    parser.add_argument("--device", default="cpu")
    try:
        train(parser.parse_args(arguments))
    except FfcvGpuError as error:
        print(f"linear_regression.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
