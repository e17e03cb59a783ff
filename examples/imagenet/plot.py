"""Draw the loss, accuracy and loader stall of a run.

python examples/imagenet/plot.py run/results.json OUT.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ffcv_gpu.errors import FfcvGpuError, ReadError


def rows_of(source: Path) -> list[dict[str, Any]]:
    """Return the rows in `source`; raise ReadError if it is not a result of train.py."""
    try:
        rows = list(json.loads(source.read_text(encoding="utf-8"))["epochs"])
        rows[0]["wait_seconds"]
        return rows
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ReadError(f"{source} is not a result of train.py: {error!r}") from error


def plot(source: Path, target: Path) -> None:
    """Plot the results in `source` to the image file `target`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = rows_of(source)
    epochs = [row["epoch"] for row in rows]
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
    left.plot(epochs, [row["loss"] for row in rows])
    left.set(title="training loss", xlabel="epoch")
    for name, label in (("train_accuracy", "training crops"), ("top1", "validation, top-1")):
        middle.plot(epochs, [100 * row[name] for row in rows], label=label)
    middle.set(title="accuracy, %", xlabel="epoch", ylim=(0, 101))
    middle.legend()
    right.plot(epochs, [100 * row["wait_seconds"] / row["seconds"] for row in rows])
    right.set(title="waiting for the loader, % of the epoch", xlabel="epoch", ylim=(0, None))
    figure.savefig(target, dpi=90)
    pyplot.close(figure)


def main(arguments: list[str]) -> int:
    """Plot; return the exit status, 2 after an expected error (one line)."""
    if len(arguments) != 2:
        print("usage: plot.py run/results.json OUT.png", file=sys.stderr)
        return 2
    try:
        plot(Path(arguments[0]), Path(arguments[1]))
    except (FfcvGpuError, OSError, ValueError) as error:  # ValueError: an ending unknown to matplotlib
        print(f"plot.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
