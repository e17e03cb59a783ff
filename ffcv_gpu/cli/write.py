"""``ffcv-gpu write``: writes an image folder, parquet file, tar shards or another .beton file to one file."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ffcv_gpu.cli.choices import Check, Exif, Mode, OnError, Subsampling, bytes_of, shard_of

__all__ = ["write"]

logger = logging.getLogger(__name__)

#: endings of WebDataset shards
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def write(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A folder with one sub-folder per class, .parquet files ('train-*.parquet'), WebDataset"
            " shards ('train-{000..146}.tar'), or a .beton file.",
            show_default=False,
        ),
    ],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="The .beton file to write.", show_default=False)],
    mode: Annotated[
        Mode,
        typer.Option(
            help="keep: JPEGs byte for byte, other images as raw pixels (as JPEG if --quality is given); raw,"
            " jpg: all images that way; proportion: JPEG at random, see --compress-probability; smart, auto:"
            " JPEG if the raw pixels take more than --smart-threshold bytes (auto: 64 KiB by default); auto"
            " with --target: as the target requires."
        ),
    ] = Mode.keep,
    max_resolution: Annotated[
        int | None,
        typer.Option(min=1, help="Shrink images whose longer side has more pixels.", show_default=False),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            help="Quality of encoded JPEGs; default: 90 from pixels, 95 from JPEGs.",
            show_default=False,
        ),
    ] = None,
    compress_probability: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of JPEGs in --mode proportion; default: 0.5.", show_default=False
        ),
    ] = None,
    smart_threshold: Annotated[
        int | None, typer.Option(min=0, help="Bytes of raw pixels; see --mode smart.", show_default=False)
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="With --mode auto: images/s that the loader should reach on the CPU. Measures some of the"
            " images on this machine, and chooses the largest size and highest share of JPEGs that reach it.",
            show_default=False,
        ),
    ] = None,
    target_cores: Annotated[
        int | None,
        typer.Option(min=1, help="CPUs that will load; default: those of this process.", show_default=False),
    ] = None,
    target_size: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the loaded images in pixels; default: 224.", show_default=False),
    ] = None,
    subsampling: Annotated[
        Subsampling | None,
        typer.Option(
            help="Chroma of encoded JPEGs; JPEGs with finer chroma are then encoded again.",
            show_default=False,
        ),
    ] = None,
    crop_index: Annotated[
        bool,
        typer.Option(
            "--crop-index",
            help="Give JPEGs an index for crops, in their headers: the loader then decodes only what a crop"
            " needs. A .beton file's index is kept without it.",
        ),
    ] = False,
    exif: Annotated[
        Exif, typer.Option(help="apply: rotate photos by their EXIF orientation; no decoder does it later.")
    ] = Exif.ignore,
    check: Annotated[
        Check,
        typer.Option(help="decode: decode every image before trusting it; header: faster, trusts more."),
    ] = Check.decode,
    shuffle: Annotated[
        bool,
        typer.Option("--shuffle", help="Shuffle the images, always in the same way; for quasi-random order."),
    ] = False,
    workers: Annotated[
        int, typer.Option(help="Processes; -1: one per available CPU. The file does not depend on it.")
    ] = -1,
    page_size: Annotated[str, typer.Option(metavar="SIZE", help="A power of two, at least 2MiB.")] = "8MiB",
    image_column: Annotated[
        str | None,
        typer.Option(help="Of parquet files; default: the only one of image files.", show_default=False),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(help="Of parquet files; default: the only one of integers.", show_default=False),
    ] = None,
    progress: Annotated[
        bool | None, typer.Option(help="Show progress; default: only on a terminal.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST if it exists.")] = False,
    append: Annotated[
        bool,
        typer.Option(
            "--append", help="Add the images after those in DST, which are compared with their checksums."
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Record progress, and resume if an earlier run was interrupted."),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Write only shard I (from 0) of N even shards, to DST-I-of-N.beton; `merge` joins them. Run"
            " again to resume an interrupted shard (tar files: start over); a complete one is left alone.",
            show_default=False,
        ),
    ] = None,
    on_error: Annotated[
        OnError, typer.Option(help="skip: leave out images that cannot be stored, and list them.")
    ] = OnError.raise_,
    fsync: Annotated[
        bool, typer.Option(help="Flush the file to disk before it takes its name; safe from power cuts.")
    ] = True,
) -> None:
    """Write a folder of images, parquet files, WebDataset shards or another .beton file to one .beton file.

    The fields are `image` and `label`. For a folder, the label is the class number, in the order of the
    sub-folder names; these names and each image's path below SRC are stored in the file. Names that begin
    with a dot are skipped, and a warning counts files that do not end like images. Parquet files need
    a column of image files ({bytes, path} or bytes) and one of integers; tar shards, compressed or not, need
    members KEY.jpg (or .png ...) and KEY.cls. Quoted patterns (*, ?, [...]) stand for all files that match,
    in sorted order. A .beton file keeps its fields, class names and paths; the options apply to its 8-bit
    RGB images.

    JPEGs are stored byte for byte wherever possible, so nothing is lost and nothing is encoded. The same
    source and options give the same file. It appears under its name only when it is complete.

    \b
    Examples:
      ffcv-gpu write photos/train train.beton
      ffcv-gpu write photos/train small.beton --max-resolution 500 --quality 90
      ffcv-gpu write photos/train fast.beton --max-resolution 256 --mode raw
      ffcv-gpu write photos/train quick.beton --mode auto --target 3000 --target-cores 8
      ffcv-gpu write phone-photos phone.beton --exif apply --shuffle
      ffcv-gpu write 'data/train-*.parquet' train.beton
      ffcv-gpu write train.beton small.beton --max-resolution 256
      ffcv-gpu write train.beton indexed.beton --crop-index
      ffcv-gpu write huge huge.beton --resume --on-error skip   interrupted? the same line resumes
      ffcv-gpu write more-photos train.beton --append
    On many machines, none of which waits for another (here 512 SLURM tasks):
      sbatch --array=0-511 --wrap 'ffcv-gpu write huge huge.beton --shard $SLURM_ARRAY_TASK_ID/512'
      ffcv-gpu merge huge-*-of-00512.beton -o huge.beton
    """
    from ffcv_gpu.fields import IntField, RGBImageField
    from ffcv_gpu.writer import DatasetWriter

    src, part, page_bytes = Path(source), shard_of(shard), bytes_of(page_size)
    _refuse_target(dst, part, append=append, overwrite=overwrite)
    _refuse_source(source, resumed=append or resume, shuffle=shuffle, columns=image_column or label_column)
    _refuse_unused(mode, compress_probability, smart_threshold, target, target_cores or target_size)
    dataset = None if src.name.endswith(TARS) else _dataset(src, image_column, label_column)
    image = RGBImageField(
        None if mode is Mode.keep else mode.value,
        max_resolution,
        smart_threshold,
        quality,
        0.5 if compress_probability is None else compress_probability,
        exif=exif.value,
        check=check.value,
        subsampling=None if subsampling is None else subsampling.value,
        crop_index=crop_index or _has_crop_index(dataset),
        target=_target(target, target_cores, target_size or 224),
    )
    known = getattr(dataset, "fields", {"image": image, "label": IntField()})
    fields = {name: image if isinstance(field, RGBImageField) else field for name, field in known.items()}
    if max_resolution is not None or target is not None or exif is Exif.apply:
        _warn_of_places(fields)
    writer = DatasetWriter(
        dst,
        fields,
        page_bytes,
        workers,
        progress=progress,
        class_names=None if dataset is None else dataset.classes,
        on_error="skip" if on_error is OnError.skip else "raise",
        fsync=fsync,
        resume=resume or (part is not None and dataset is not None),
    )
    if dataset is None:
        from ffcv_gpu.convert.webdataset import image_and_label

        print(writer.from_webdataset(_shards(src), image_and_label, shard=part))
        return
    indices = _mixed(len(dataset)) if shuffle else None
    if append:
        print(writer.append(dataset, indices))
    else:
        print(writer.from_indexed_dataset(dataset, indices, shard=part))


def _refuse_target(dst: Path, part: tuple[int, int] | None, *, append: bool, overwrite: bool) -> None:
    if part is not None and (append or overwrite):
        raise typer.BadParameter("--shard excludes --append and --overwrite: remove old shards yourself")
    if append and (overwrite or not dst.exists()):
        raise typer.BadParameter(f"--append needs a file to add to; {dst} is missing, or to be overwritten")
    if dst.exists() and not (overwrite or append or part):
        raise typer.BadParameter(f"{dst} exists; --overwrite replaces it, --append adds to it")


def _refuse_source(source: str, *, resumed: bool, shuffle: bool, columns: str | None) -> None:
    from ffcv_gpu.readers import is_url

    if not source:
        raise typer.BadParameter("SRC is empty")  # "$DATA" where it is not set: not the current folder
    if is_url(source):
        raise typer.BadParameter(
            f"{source}: write reads local files only; `ffcv-gpu verify URL --cache-dir DIR` fetches a .beton "
            "file, and prints the path of its copy"
        )
    src = Path(source)
    if shuffle and not (src.is_dir() or src.suffix == ".beton"):
        raise typer.BadParameter("--shuffle needs random access, which a folder or a .beton file provides")
    if src.name.endswith(TARS) and resumed:
        raise typer.BadParameter("--append and --resume do not work with tar files")
    if columns and src.suffix != ".parquet":
        raise typer.BadParameter("--image-column and --label-column are for parquet files")


def _warn_of_places(fields: Mapping[str, Any]) -> None:
    """Warn about fields that say where something is in an image, as the images may change shape."""
    from ffcv_gpu.fields import ImageField, RaggedField, RGBImageField

    def tells_places(field: Any) -> bool:
        ragged = isinstance(field, RaggedField) and field.shape in ((2,), (4,)) and field.dtype.kind == "f"
        return ragged or isinstance(field, ImageField)  # points, boxes; masks, depths

    stay = [name for name, field in fields.items() if tells_places(field)]
    if stay and any(isinstance(field, RGBImageField) for field in fields.values()):
        logger.warning(
            "%s: copied as they are, while the 8-bit RGB images may be shrunk or rotated; coordinates in"
            " pixels no longer fit then: change both in Python (BetonDataset, DatasetWriter)",
            ", ".join(map(repr, stay)),
        )


def _refuse_unused(
    mode: Mode, probability: float | None, threshold: int | None, target: float | None, aim: int | None
) -> None:
    """Refuse options that the mode does not use: the file would not be what they ask for."""
    if target is not None and mode is not Mode.auto:
        raise typer.BadParameter("--target chooses between JPEG and raw: give --mode auto")
    if aim is not None and target is None:
        raise typer.BadParameter("--target-cores and --target-size are for --target")
    if probability is not None and mode is not Mode.proportion:
        raise typer.BadParameter("--compress-probability is for --mode proportion")
    if threshold is not None and mode not in (Mode.smart, Mode.auto):
        raise typer.BadParameter("--smart-threshold is for --mode smart and --mode auto")


def _has_crop_index(dataset: Any) -> bool:
    """Return whether a .beton file has JPEGs with an index for crops; the new file then has, too."""
    fields = getattr(dataset, "fields", {}).values()
    return any(getattr(field, "crop_index", False) for field in fields)


def _target(images_per_second: float | None, cores: int | None, side: int) -> Any:
    if images_per_second is None:
        return None
    from ffcv_gpu.doctor import Target

    return Target(images_per_second, cores, side)


def _dataset(src: Path, image: str | None, label: str | None) -> Any:
    """Return the dataset at `src`, with its class names."""
    if src.suffix == ".beton":
        from ffcv_gpu.convert.beton import BetonDataset

        return BetonDataset(src, decode=False)
    if src.suffix == ".parquet":
        from ffcv_gpu.convert.parquet import ParquetImages

        return ParquetImages(_matching(src), image, label)
    from ffcv_gpu.convert.image_folder import ImageFolder

    found = ImageFolder(src)
    if len(found.classes) == 1:
        logger.warning(
            "all %d images of %s are of one class, %r; is it the folder above the one with the classes?",
            len(found), src, found.classes[0],
        )  # fmt: skip
    return found


def _shards(src: Path) -> list[str]:
    """Return the names of tar files; raise `OSError` now if one is missing, not when it is its turn."""
    from ffcv_gpu.convert.webdataset import shard_names

    names = shard_names(_matching(src))
    for name in names:
        if ":" not in name:  # webdataset's pipe:command
            os.stat(name)
    return names


def _matching(src: Path) -> list[str]:
    """Return the files that a pattern matches, in sorted order; a name without wildcards as it is."""
    name = str(src)
    if src.exists() or not glob.has_magic(name):
        return [name]
    found = sorted(glob.glob(name))
    if not found:
        raise typer.BadParameter(f"no file matches {name!r}")
    return found


def _mixed(number: int) -> list[int]:
    import numpy as np

    order: list[int] = np.random.default_rng(0).permutation(number).tolist()
    return order
