"""Does ffcv_gpu's decoding and augmentation cost accuracy? One recipe, fed by it and by torch's DataLoader.

    python examples/cifar10/compare.py DATA SOURCE --json RESULT [options of train.py]

DATA is the folder that write.py wrote, SOURCE the one it read. The two sides take turns, seed by seed; the
result file is rewritten after each run. `python -m benchmarks show RESULT` prints it as a table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from cifar10_images import kind_of, open_split
from train import choose, parse, train

from ffcv_gpu.errors import FfcvGpuError

# Appended last, so that the repository's kernels/ does not shadow an installed package of that name.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.record import Metric, Record, Row, save

METRICS = [
    Metric("test accuracy", "%", "test_accuracy", scale=100, ratio=True),
    Metric("last epoch's training loss", "", "loss"),
    Metric("training", "s", "seconds"),
    Metric("waiting for batches", "s", "wait_seconds"),
]
BUSY = "other work ran on the machine: the seconds mean little, the accuracies are not affected"


def compare(options: argparse.Namespace, rest: list[str]) -> None:
    """Run the recipe with both loaders."""
    sides = {
        side: [str(options.data), "--loader", side, "--source", str(options.source)]
        for side in ("torch", "ffcv_gpu")
    }
    notes = [
        "torch: DataLoader, Pillow decodes, torchvision crops and normalises; ffcv_gpu: one fused launch",
        "both: the same network, seeds, schedule, alternating flips, shifts; different random numbers",
        f"images: {kind_of(open_split(options.source, 'test'))} of CIFAR-10, as given to write.py",
    ]
    take_turns("cifar10", sides, options, rest, notes)


def take_turns(
    name: str,
    sides: Mapping[str, Sequence[str]],
    options: argparse.Namespace,
    rest: Sequence[str],
    notes: Sequence[str],
) -> None:
    """Run every seed on every side, in alternating order; save the record of benchmark `name` after each run.

    `sides` maps the name of each side to its arguments for train.py; `rest` is appended to them.
    """
    rows = {side: Row("the same recipe", side) for side in sides}
    for seed in range(options.seeds):
        for side in list(sides) if seed % 2 else list(sides)[::-1]:
            one = parse([*sides[side], "--seed", str(seed), *rest])
            choose(one)
            print(f"{side}, seed {seed}", flush=True)
            found = train(one)
            epochs = found["epochs"]
            rows[side].settings = {
                **found["settings"],
                "seed": "each repeat's",
                "threads": torch.get_num_threads(),
            }
            rows[side].repeats.append(
                {
                    "seed": seed,
                    "test_accuracy": found["test_accuracy"],
                    "loss": epochs[-1]["loss"],
                    "seconds": epochs[-1]["seconds"],
                    "wait_seconds": sum(epoch["wait_seconds"] for epoch in epochs),
                    "epochs": epochs if options.all_epochs else [epoch["loss"] for epoch in epochs],
                }
            )
            shown = [replace(row, values={}, ratio={}) for row in rows.values()]
            for row in shown:
                row.sum_up(METRICS, shown[0])
            settings = {"seeds": options.seeds, **shown[-1].settings}
            said = [*notes, *([BUSY] if options.busy else [])]
            save(Record(name, settings, METRICS, shown, said), options.json)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `take_turns` reads."""
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="record that other work runs on this machine")
    parser.add_argument("--all-epochs", action="store_true", help="record all figures of every epoch")


def run(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace, list[str]], None],
    arguments: list[str] | None,
) -> int:
    """Parse the options and do the work; return the exit status, 2 after an expected error (one line)."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_options(parser)
    options, rest = parser.parse_known_args(arguments)
    try:
        work(options, rest)
    except FfcvGpuError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Compare the loaders; return the exit status."""
    parser = argparse.ArgumentParser("compare.py", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("source", type=Path)
    return run(parser, compare, arguments)


if __name__ == "__main__":
    sys.exit(main())
