"""Pack CIFAR-10 into train.beton and test.beton.

    python examples/cifar10/write.py FOLDER OUT [--mode raw|jpg]

FOLDER holds parquet files, torchvision's batches or PNG sheets: see cifar10_images.py. raw (default): 154 MB
of pixels, decoded once, while writing. jpg: JPEG bytes unchanged (15 MB); images that come as pixels are
encoded at quality 95, which costs accuracy.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cifar10_images import CLASSES, open_split

from ffcv_gpu.errors import FfcvGpuError
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.writer import DatasetWriter


def write(folder: Path, out: Path, mode: str = "raw") -> None:
    """Write both splits."""
    splits = {split: open_split(folder, split) for split in ("train", "test")}
    out.mkdir(parents=True, exist_ok=True)
    for split, dataset in splits.items():
        image = RGBImageField(write_mode=mode, jpeg_quality=95)
        writer = DatasetWriter(
            out / f"{split}.beton", {"image": image, "label": IntField()}, class_names=CLASSES
        )
        print(writer.from_indexed_dataset(dataset), "\n")


def main(arguments: list[str] | None = None) -> int:
    """Write; return the exit status, 2 after an error in the data (one line)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mode", choices=("raw", "jpg"), default="raw")
    options = parser.parse_args(arguments)
    try:
        write(options.folder, options.out, options.mode)
    except (FfcvGpuError, OSError) as error:
        print(f"write.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
