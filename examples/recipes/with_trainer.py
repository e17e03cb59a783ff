"""Hugging Face Trainer: two of its methods return Loaders instead of DataLoaders.

    python examples/recipes/digits.py data
    python examples/recipes/with_trainer.py data

`ForTrainer` turns batches into dicts, which the Trainer passes to the network, and forwards `set_epoch`. The
Loader divides samples among the ranks itself (`distributed=True`) and puts batches on this process's device,
so nothing is left for the Trainer to do.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from digits import command_line, loaders, network

from ffcv_gpu.errors import BackendUnavailable, FfcvGpuError

try:
    import transformers
except ImportError as error:
    transformers, missing = None, str(error)


class ForTrainer:
    """A Loader with the attributes of a DataLoader that the Trainer reads."""

    def __init__(self, batches: Any) -> None:
        self._batches, self.batch_size = batches, batches.batch_size
        self.dataset = batches.indices  # for its length

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for images, labels in self._batches:
            yield {"pixel_values": images, "labels": labels}

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; the Trainer calls this before each one, also in a resumed run."""
        self._batches.set_epoch(epoch)


class Classifier(torch.nn.Module):
    """A network with the inputs and outputs that the Trainer expects."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return loss and logits."""
        logits = self.network(pixel_values)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def trainer(model: Any, arguments: Any, training: Any, test: Any) -> Any:
    """Return a Trainer fed by two Loaders."""

    class FedByLoaders(transformers.Trainer):
        def get_train_dataloader(self) -> ForTrainer:
            return ForTrainer(training)

        def get_eval_dataloader(self, eval_dataset: Any = None) -> ForTrainer:
            return ForTrainer(test)

    return FedByLoaders(model, arguments, eval_dataset=test.indices, compute_metrics=accuracy)


def accuracy(prediction: Any) -> dict[str, float]:
    """Return the share of correct predictions, for the Trainer's log."""
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def train(options: argparse.Namespace) -> float:
    """Train; return the test accuracy."""
    if transformers is None:
        raise BackendUnavailable(f"transformers cannot be imported ({missing}): pip install transformers")
    transformers.set_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, num_train_epochs=options.epochs, learning_rate=3e-3, use_cpu=options.cpu, report_to=[],
            eval_strategy="epoch", logging_strategy="epoch", save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        device, many = str(arguments.device), arguments.world_size > 1
        training, test = loaders(options.data, device, workers=options.workers, distributed=many)
        run = trainer(Classifier(), arguments, training, test)
        run.train()
        reached = float(run.evaluate()["eval_accuracy"])
    print(f"test accuracy {reached:.1%}")
    return reached


def main(arguments: list[str] | None = None) -> int:
    """Train; return the exit status, 2 after an expected error (one line)."""
    parser = command_line(__doc__)
    parser.add_argument("--cpu", action="store_true")
    try:
        train(parser.parse_args(arguments))
    except FfcvGpuError as error:
        print(f"with_trainer.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
