"""timm's own train.py, unmodified, fed by Loaders: its create_dataset and create_loader are replaced.

    python examples/recipes/digits.py data
    python examples/recipes/with_timm_train.py pytorch-image-models/train.py --data-dir data \\
        --val-split test --model test_resnet --num-classes 10 --img-size 16 --color-jitter 0 --hflip 0 \\
        --scale 0.7 1 --warmup-epochs 0 --epochs 3 --device cpu

`--data-dir` holds a file SPLIT.beton per split; the other options are train.py's own. The fused launch does
the augmentation that it asks for: crops, flip, colour jitter, random erasing, mean and std. Batches are on
the device, samples are divided among torchrun's ranks, and `--resume` continues the interrupted run's order.
Images are resampled by area, whatever `--interpolation` says; `-j` is a number of threads. With
`--no-prefetcher`, timm's Mixup works on these batches. Unsupported options raise an error.

It was run with the train.py of October 2026 (commit 3c467449 of huggingface/pytorch-image-models on GitHub)
and timm 1.0.31, on the CPU, where train.py cannot start more than one process.
"""

from __future__ import annotations

import os
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from with_timm import ForTimm

from ffcv_gpu.errors import BackendUnavailable, FfcvGpuError, PipelineError, ReadError
from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder, IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.sampling import distributed_env
from ffcv_gpu.transforms import (
    NormalizeImage,
    RandomColorJitter,
    RandomErasing,
    RandomHorizontalFlip,
    Squeeze,
    ToDevice,
    ToTensor,
    ToTorchImage,
)

#: arguments of timm's create_dataset and create_loader that change samples or pixels in ways that this recipe
#: does not support, and the options that set them
NOT_OFFERED = {
    "name": "--dataset", "class_map": "--class-map", "target_transform": "--task multilabel",
    "vflip": "--vflip", "auto_augment": "--aa", "num_aug_repeats": "--aug-repeats",
    "num_aug_splits": "--aug-splits", "grayscale_prob": "--grayscale-prob",
    "gaussian_blur_prob": "--gaussian-blur-prob", "re_split": "--resplit",
    "train_crop_mode": "--train-crop-mode", "crop_mode": "another crop_mode than center",
    "input_size_choices": "--train-img-sizes", "collate_fn": "--mixup or --cutmix without --no-prefetcher",
}  # fmt: skip
#: supported crop modes, by timm's names
CROPS = ("rrc", "center")


@dataclass(frozen=True)
class Split:
    """Replaces timm's dataset."""

    path: Path
    seed: int
    #: AugMixDataset reads it before `create_loader` can refuse
    transform: None = None


@dataclass(frozen=True)
class Dealt:
    """Replaces timm's sampler, whose count lets the evaluator drop the samples that pad a rank."""

    num_valid_samples: int


def refuse(asked: dict[str, Any]) -> None:
    """Raise if anything unsupported is asked for."""
    found = [what for name, what in NOT_OFFERED.items() if asked.get(name) and asked[name] not in CROPS]
    if found:
        raise PipelineError(f"train.py is asked for {', '.join(found)}: this recipe does not support that")


def create_dataset(
    name: str = "", root: Any = ".", split: str = "validation", seed: int = 0, **asked: Any
) -> Split:
    """Return the file of a split; replaces timm's function."""
    refuse({"name": name, **asked})
    path = Path(root) / f"{split}.beton"
    if not path.is_file():
        raise ReadError(
            f"{path} is missing; --data-dir must hold a file per split (--train-split, --val-split)"
        )
    return Split(path, seed)


def create_naflex_loader(*_: Any, **__: Any) -> None:
    """Raise; replaces timm's function."""
    raise PipelineError("train.py is asked for --naflex-loader: this recipe does not support that")


def create_loader(
    dataset: Split, input_size: Any, batch_size: int, is_training: bool = False, **asked: Any
) -> ForTimm:
    """Return a Loader that yields what timm's would; replaces timm's function."""
    refuse(asked)
    channels, height, width = input_size
    if channels != 3:
        raise PipelineError(f"train.py is asked for images with {channels} channels; only 3 are supported")
    mean, std = (255 * np.array(asked[name]) for name in ("mean", "std"))
    onto = [ToTensor(), ToDevice(str(asked["device"]))]
    if is_training and not asked.get("no_aug"):
        head, augment = training_steps((height, width), mean, asked)
    else:
        share = 1.0 if is_training else asked.get("crop_pct") or 0.875
        head, augment = CenterCropRGBImageDecoder((height, width), share), []
    dtype = str(asked.get("img_dtype", "torch.float32")).removeprefix("torch.")
    normalise = NormalizeImage(mean, std, "float16" if asked.get("fp16") else dtype)
    batches = Loader(
        dataset.path,
        batch_size,
        num_workers=asked.get("num_workers", 1),
        order=OrderOption.RANDOM if is_training else OrderOption.SEQUENTIAL,
        distributed=bool(asked.get("distributed")),
        seed=dataset.seed,
        drop_last=is_training,
        pipelines={
            "image": [head, *augment, *onto, ToTorchImage(), normalise],
            "label": [IntDecoder(), *onto, Squeeze(1)],
        },
    )
    if is_training or not asked.get("distributed"):
        return ForTimm(batches)
    rank, ranks = distributed_env()
    return ForTimm(batches, Dealt(len(range(rank, len(batches.indices), ranks))))


def training_steps(size: tuple[int, int], mean: Any, asked: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Return the decoder and the augmentation that train.py asks for."""
    scale, ratio = asked.get("scale") or (0.08, 1), asked.get("ratio") or (3 / 4, 4 / 3)
    steps: list[Any] = [RandomHorizontalFlip(asked.get("hflip", 0.5))]
    factor = asked.get("color_jitter") or 0
    if factor:
        often = asked.get("color_jitter_prob")
        steps.append(RandomColorJitter(1.0 if often is None else often, factor, factor, factor, 0))
    if asked.get("re_prob"):
        if asked.get("re_mode", "const") != "const" or asked.get("re_count", 1) != 1:
            raise PipelineError(
                "train.py is asked for random erasing with noise; use --remode const --recount 1"
            )
        steps.append(RandomErasing(asked["re_prob"], (0.02, 1 / 3), (0.3, 10 / 3), mean=tuple(mean)))
    return RandomResizedCropRGBImageDecoder(size, scale=tuple(scale), ratio=tuple(ratio)), steps


def run(script: Path, arguments: list[str]) -> None:
    """Run train.py with timm's functions replaced by the ones above."""
    try:
        import timm.data
    except ImportError as error:
        raise BackendUnavailable(f"timm cannot be imported ({error}): pip install timm") from error
    if not script.is_file():
        raise ReadError(f"{script} is missing; it is train.py of github.com/huggingface/pytorch-image-models")
    for ours in (create_dataset, create_loader, create_naflex_loader):
        setattr(timm.data, ours.__name__, ours)
    sys.argv = [os.fspath(script), *arguments]
    runpy.run_path(os.fspath(script), run_name="__main__")


def main(arguments: list[str] | None = None) -> int:
    """Run train.py; return the exit status, 2 after an expected error (one line)."""
    script, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if script in ("-h", "--help"):
        print(__doc__)
        return 0
    try:
        run(Path(script), rest)
    except FfcvGpuError as error:
        print(f"with_timm_train.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
