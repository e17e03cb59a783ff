"""Pack ImageNet into one file, or any image folder, parquet files or tar shards.

    python examples/imagenet/write.py ILSVRC/train train.beton
    python examples/imagenet/write.py ILSVRC/val val.beton
    python examples/imagenet/write.py 'data/train-*.parquet' train.beton          # of Hugging Face's hub
    python examples/imagenet/write.py 'train-{0000..0146}.tar' train.beton        # WebDataset: jpg, cls

JPEGs are stored byte for byte. `--max-resolution 500 --quality 90` shrinks the larger ones, as FFCV does.
`--mode proportion --compress 0.5` stores half of the images as raw pixels: less decoding, more memory.
`--crop-index` adds an index to the JPEGs, by which a CPU decodes only what a crop needs.
"""

from __future__ import annotations

import argparse
import glob
import sys
from pathlib import Path
from typing import Any

from ffcv_gpu.convert.image_folder import ImageFolder
from ffcv_gpu.convert.parquet import ParquetImages
from ffcv_gpu.errors import FfcvGpuError, PipelineError
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.writer import DatasetWriter

#: endings of WebDataset shards
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def write(options: argparse.Namespace) -> None:
    """Write the file and print the writer's report."""
    image = RGBImageField(
        write_mode=options.mode,
        max_resolution=options.max_resolution,
        jpeg_quality=options.quality,
        crop_index=options.crop_index,
        **({"compress_probability": options.compress} if options.mode == "proportion" else {}),
    )
    fields = {"image": image, "label": IntField()}
    files: Any = sorted(glob.glob(options.source)) or options.source
    if options.source.endswith(TARS):
        writer = DatasetWriter(options.out, fields, num_workers=options.workers)
        print(writer.from_webdataset(files, jpegs_and_classes))
        return
    dataset = ParquetImages(files) if options.source.endswith(".parquet") else ImageFolder(options.source)
    found = len(dataset.classes or ())
    if options.classes and found != options.classes:
        raise PipelineError(f"{options.source} has {found} classes, not the {options.classes} of --classes")
    writer = DatasetWriter(options.out, fields, num_workers=options.workers, class_names=dataset.classes)
    print(writer.from_indexed_dataset(dataset))


def jpegs_and_classes(dataset: Any) -> Any:
    """Return (JPEG bytes, class number) for each sample of a shard."""
    return dataset.to_tuple("jpg;jpeg", "cls").map_tuple(bytes, int)


def main(arguments: list[str] | None = None) -> int:
    """Write; return the exit status, 2 after an error in the data (one line)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", help="folder, parquet files or tar shards")
    add("out", type=Path)
    add("--mode", choices=("raw", "jpg", "proportion", "smart"), help="default: JPEGs byte for byte")
    add("--compress", type=float, default=0.5, help="for proportion: share stored as JPEG")
    add("--max-resolution", type=int, help="shrink images whose longer side is longer, in pixels")
    add("--quality", type=int, help="of re-encoded JPEGs")
    add("--crop-index", action="store_true", help="JPEGs some 3 % larger, decoded in part on a CPU")
    add("--classes", type=int, default=0, help="fail unless there are this many classes (0: any)")
    add("--workers", type=int, default=-1)
    options = parser.parse_args(arguments)
    try:
        write(options)
    except FfcvGpuError as error:
        print(f"write.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
