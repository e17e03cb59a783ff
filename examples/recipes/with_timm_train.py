"""timm's own train.py, unchanged, fed by Loaders: its create_dataset and create_loader are replaced by ours.

    python examples/recipes/digits.py data
    python examples/recipes/with_timm_train.py pytorch-image-models/train.py --data-dir data \\
        --val-split test --model test_resnet --num-classes 10 --img-size 16 --color-jitter 0 --device cpu

`--data-dir` holds a file SPLIT.beton for each split; the other options are train.py's own. What it asks of
its loader is done by the fused launch: crops, flip, colour jitter, random erasing, mean and std; batches are
on the device, samples are dealt to the ranks. What is not offered is refused in a sentence. With
`--no-prefetcher`, timm's Mixup works on our batches.
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

#: arguments of timm's create_loader that change pixels or samples in ways that this recipe does not offer
NOT_OFFERED = (
    "vflip", "auto_augment", "num_aug_repeats", "num_aug_splits", "grayscale_prob", "gaussian_blur_prob",
    "tf_preprocessing", "collate_fn",
)  # fmt: skip


@dataclass(frozen=True)
class Split:
    """What stands for timm's dataset."""

    path: Path


def create_dataset(name: str = "", root: Any = ".", split: str = "validation", **_: Any) -> Split:
    """Return the file of a split; takes the place of timm's."""
    path = Path(root) / f"{split}.beton"
    if not path.is_file():
        raise ReadError(
            f"{path} is missing; --data-dir holds a file for each split (--train-split, --val-split)"
        )
    return Split(path)


def create_loader(
    dataset: Split, input_size: Any, batch_size: int, is_training: bool = False, **asked: Any
) -> ForTimm:
    """Return a Loader that gives what timm's would; takes its place."""
    refused = [name for name in NOT_OFFERED if asked.get(name)]
    if refused:
        hint = "; with --no-prefetcher, Mixup works on batches" if refused == ["collate_fn"] else ""
        raise PipelineError(f"train.py asks its loader for {', '.join(refused)}, which is not offered{hint}")
    height, width = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)[-2:]
    mean, std = (255 * np.array(asked.get(name, 0.5)) for name in ("mean", "std"))
    onto = [ToTensor(), ToDevice(str(asked.get("device", "cuda")))]
    if is_training and not asked.get("no_aug"):
        head, augment = training_steps((height, width), mean, asked)
    else:
        head, augment = CenterCropRGBImageDecoder((height, width), asked.get("crop_pct") or 0.875), []
    dtype = str(asked.get("img_dtype", "torch.float32")).removeprefix("torch.")
    normalise = NormalizeImage(mean, std, "float16" if asked.get("fp16") else dtype)
    batches = Loader(
        dataset.path,
        batch_size,
        num_workers=asked.get("num_workers", 1),
        order=OrderOption.RANDOM if is_training else OrderOption.SEQUENTIAL,
        distributed=bool(asked.get("distributed")),
        seed=0,
        drop_last=is_training,
        pipelines={
            "image": [head, *augment, *onto, ToTorchImage(), normalise],
            "label": [IntDecoder(), *onto, Squeeze(1)],
        },
    )
    return ForTimm(batches)


def training_steps(size: tuple[int, int], mean: Any, asked: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Return the decoder and the augmentation that train.py asks for."""
    scale, ratio = asked.get("scale") or (0.08, 1), asked.get("ratio") or (3 / 4, 4 / 3)
    steps: list[Any] = [RandomHorizontalFlip(asked.get("hflip", 0.5))]
    factor = asked.get("color_jitter") or 0
    if factor:
        steps.append(RandomColorJitter(asked.get("color_jitter_prob") or 1.0, factor, factor, factor, 0))
    if asked.get("re_prob"):
        if asked.get("re_mode", "const") != "const" or asked.get("re_count", 1) != 1:
            raise PipelineError(
                "train.py asks for random erasing with noise; --remode const --recount 1 is offered"
            )
        steps.append(RandomErasing(asked["re_prob"], (0.02, 1 / 3), (0.3, 10 / 3), mean=tuple(mean)))
    return RandomResizedCropRGBImageDecoder(size, scale=tuple(scale), ratio=tuple(ratio)), steps


def run(script: Path, arguments: list[str]) -> None:
    """Run train.py with our functions in the place of timm's."""
    try:
        import timm.data
    except ImportError as error:
        raise BackendUnavailable(f"timm cannot be imported ({error}): pip install timm") from error
    if not script.is_file():
        raise ReadError(f"{script} is missing; it is train.py of github.com/huggingface/pytorch-image-models")
    timm.data.create_dataset, timm.data.create_loader = create_dataset, create_loader
    sys.argv = [os.fspath(script), *arguments]
    runpy.run_path(os.fspath(script), run_name="__main__")


def main(arguments: list[str] | None = None) -> int:
    """Run it; what cannot work ends in one sentence."""
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
