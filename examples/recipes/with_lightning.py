"""PyTorch Lightning: a Loader works as a train_dataloader unchanged.

    python examples/recipes/digits.py data
    python examples/recipes/with_lightning.py data

With several GPUs, pass `distributed=True` to the Loader and `use_distributed_sampler=False` to the Trainer:
the Loader divides the samples among the ranks itself. It also counts its epochs; set_epoch is not needed.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from digits import command_line, loaders, network

from ffcv_gpu.errors import BackendUnavailable, FfcvGpuError

try:
    import pytorch_lightning as lightning
except ImportError as error:
    lightning, missing = None, str(error)


def module() -> Any:
    """Return the network as a LightningModule."""

    class Digits(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()
            self.hits: list[torch.Tensor] = []

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            images, labels = batch
            return torch.nn.functional.cross_entropy(self.network(images), labels)

        def validation_step(self, batch: Any, index: int) -> None:
            images, labels = batch
            self.hits.append((self.network(images).argmax(1) == labels).float())

        def on_validation_epoch_end(self) -> None:
            self.log("accuracy", torch.cat(self.hits).mean(), prog_bar=True)
            self.hits.clear()

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=3e-3)

    return Digits()


def train(options: argparse.Namespace) -> float:
    """Train; return the test accuracy."""
    if lightning is None:
        raise BackendUnavailable(
            f"PyTorch Lightning cannot be imported ({missing}): pip install pytorch-lightning"
        )
    lightning.seed_everything(0, verbose=False)
    training, test = loaders(options.data, workers=options.workers)
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module(), training, test)
    reached = float(trainer.callback_metrics["accuracy"])
    print(f"test accuracy {reached:.1%}")
    return reached


def main(arguments: list[str] | None = None) -> int:
    """Train; return the exit status, 2 after an expected error (one line)."""
    parser = command_line(__doc__)
    try:
        train(parser.parse_args(arguments))
    except FfcvGpuError as error:
        print(f"with_lightning.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
