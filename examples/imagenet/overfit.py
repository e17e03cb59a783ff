"""Does the whole pipeline learn? A narrow ResNet-18 that overfits a few hundred photographs.

    python examples/imagenet/overfit.py PHOTOS OUT --json RESULT [options of train.py]

PHOTOS is an image folder. Writes the photos to OUT with at most 160 pixels per side, trains at 64, later 96
pixels, and tests on centre crops of the same photos. OUT/curves.png shows loss and accuracy;
`python -m benchmarks show RESULT` prints the last epoch.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import plot
import torch
import train
import write

# Appended last, so that the repository's kernels/ does not shadow an installed package of that name.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.record import Metric, Record, Row, save

SETTINGS = (
    *("--epochs", "50", "--batch-size", "50", "--lr", "0.1", "--min-res", "64", "--max-res", "96"),
    *("--val-res", "96", "--width", "0.5", "--no-blur", "--scale", "0.5", "--tta"),
)
METRICS = [
    Metric("training accuracy", "%", "train_accuracy", scale=100),
    Metric("top-1 of centre crops", "%", "top1", scale=100),
    Metric("loss", "", "loss"),
    Metric("training", "s", "seconds"),
    Metric("waiting for batches", "s", "wait_seconds"),
]


def main(arguments: list[str] | None = None) -> int:
    """Write, train and record; return the exit status, 2 after an expected error (one line)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos")
    parser.add_argument("out", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--note", action="append", default=[], help="a note for the result; may be repeated")
    options, rest = parser.parse_known_args(arguments)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"overfit.py: {error}", file=sys.stderr)
        return 2
    file = str(options.out / "photos.beton")
    if write.main([options.photos, file, "--max-resolution", "160", "--quality", "90"]):
        return 2
    if train.main(["--train", file, "--val", file, "--out", str(options.out), *SETTINGS, *rest]):
        return 2
    found = json.loads((options.out / "results.json").read_text(encoding="utf-8"))
    rows = found["epochs"]
    total = {name: sum(row[name] for row in rows) for name in ("seconds", "wait_seconds")}
    row = Row(
        f"{rows[-1]['images']:.0f} photos an epoch", "ffcv_gpu", {**found["config"], **found["settings"]}
    )
    row.repeats = [{**rows[-1], **total, "epochs": rows}]
    row.sum_up(METRICS, None)
    notes = ["overfitting on purpose: tested on the photos it was trained on", *options.note]
    settings = {"threads": torch.get_num_threads()}
    save(Record("imagenet-overfit", settings, METRICS, [row], notes), options.json)
    plot.plot(options.out / "results.json", options.out / "curves.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
