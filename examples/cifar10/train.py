"""Train on CIFAR-10 fast, in one file that reads top to bottom.

    python examples/cifar10/write.py FOLDER data/cifar10      # once
    python examples/cifar10/train.py data/cifar10             # on a GPU if there is one, else the CPU
    python examples/cifar10/train.py data/cifar10 --preset 96 # wider, deeper, four times the epochs
    python examples/cifar10/train.py data/cifar10 --width 0.25 --limit 12500 --epochs 6 --batch-size 256

A row is printed per epoch; `wait` is how long the loop waited for batches.

The ideas and their sources (the code is written for this loader):

- a frozen first layer that whitens 2x2 patches, a triangular schedule, SGD with Nesterov momentum whose step
  size, momentum and decay are decoupled: David Page, "How to train your ResNet", 2018
  (https://myrtle.ai/learn/how-to-train-your-resnet/)
- whitening followed by an activation, large steps for the biases of BatchNorm, an average of the weights
  that is written back (lookahead): Tysam Balsam, hlb-CIFAR10 (https://github.com/tysam-code/hlb-CIFAR10)
- this network shape, identity initialisation, shifts that reflect the image, a flip that alternates instead
  of being drawn in each epoch, test-time averaging over flips and shifts: Keller Jordan, "94% on CIFAR-10 in
  3.29 seconds on a single GPU", arXiv:2404.00498 (https://github.com/KellerJordan/cifar10-airbench), whose
  settings are the defaults here
- --preset 96: twice the width, a third convolution in each block and a shortcut around the last two, cutout
  of 12 pixels, shifts of up to 4, smaller steps, 40 epochs: the same author's airbench96, published with
  96.05 % (not measured here on the original images)

If the decoded images fit into a quarter of the memory (of the GPU if there is one, else of the host), they
are decoded once and stay there (--resident); the batches are the same.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import BackendUnavailable, FfcvGpuError, PipelineError, ReadError
from ffcv_gpu.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption, ResidentLoader
from ffcv_gpu.transforms import (
    Cutout,
    NormalizeImage,
    RandomHorizontalFlip,
    RandomTranslate,
    Squeeze,
    ToDevice,
    ToTensor,
    ToTorchImage,
)

CLASSES = 10
WARM_STEPS = 8
SIDE = 32
MEAN = np.array([125.307, 122.950, 113.865])
STD = np.array([62.993, 62.089, 66.705])

MOMENTUM = 0.85
WEIGHT_DECAY = 0.0153
BIAS_FACTOR = 64  # biases of BatchNorm take larger steps (hlb-CIFAR10)
LABEL_SMOOTHING = 0.2
WHITEN_BIAS_EPOCHS = 3  # after that, the first layer is entirely frozen


@dataclass(frozen=True)
class Preset:
    """The settings of one training recipe."""

    epochs: float
    widths: tuple[int, int, int]
    shortcuts: bool  # three convolutions per block, with a shortcut around the last two
    learning_rate: float  # per 1024 samples and decoupled (Page): the same for any batch size and momentum
    translate: int
    cutout: int


PRESETS = {
    "94": Preset(9.9, (64, 256, 256), False, 11.5, 2, 0),
    "96": Preset(40, (128, 512, 512), True, 9.0, 4, 12),
}

# ---- data


class AlternatingFlip(RandomHorizontalFlip):
    """Flip half of the images in even epochs, and the other half in odd ones.

    Each pair of epochs thus shows every image both ways (arXiv:2404.00498). Like its parent, this is part of
    the fused launch; the only difference is which samples are flipped.
    """

    draw_name = "alternating_flip"

    def mirrored(self, draws: Draws, draw: int) -> Any:
        """Return bool (N,): the flips of epoch 0, inverted in odd epochs."""
        return super().mirrored(Draws(draws.seed, 0, draws.samples), draw) ^ bool(draws.epoch % 2)


def make_loader(path: Path, options: argparse.Namespace, *, training: bool) -> Loader:
    """Return a loader of (images, labels); for training shuffled, flipped and shifted in one fused launch."""
    if not path.is_file():
        raise ReadError(f"{path} is missing; examples/cifar10/write.py makes it")
    augment = augmentation(options.preset) if training else []
    image = [
        SimpleRGBImageDecoder(),
        *augment,
        ToTensor(),
        ToDevice(options.device),
        ToTorchImage(),  # channels_last
        NormalizeImage(MEAN, STD, options.dtype),
    ]
    label = [IntDecoder(), ToTensor(), ToDevice(options.device), Squeeze(1)]
    loader = Loader(
        path,
        batch_size=options.batch_size if training else 1000,
        order=OrderOption.RANDOM if training else OrderOption.SEQUENTIAL,
        seed=options.seed,
        indices=chosen(path, options.limit) if training else None,
        drop_last=training,
        num_workers=options.workers,
        pipelines={"image": image, "label": label},
    )
    check_dataset(loader, path)
    if not len(loader):
        raise PipelineError(f"{len(loader.indices)} training images give no batch of {options.batch_size}")
    return loader


def augmentation(preset: Preset) -> list[Any]:
    """Return the augmentation of training images; holes get the mean colour."""
    holes = [Cutout(preset.cutout, fill=tuple(MEAN))] if preset.cutout else []
    return [AlternatingFlip(), RandomTranslate(preset.translate, padding_mode="reflect"), *holes]


def resident(loader: Loader, options: argparse.Namespace) -> Any:
    """Return a resident loader if --resident is yes, or is auto and the images fit; else `loader`."""
    if options.resident == "no" or (options.resident == "auto" and not ResidentLoader.fits(loader)):
        return loader
    return ResidentLoader(loader)


def chosen(path: Path, limit: int) -> np.ndarray | None:
    """Return the indices of `limit` training images, the same for every seed; None for all."""
    if not limit:
        return None
    count = Loader(path, 1).reader.num_samples
    if limit > count:
        raise PipelineError(f"--limit {limit}, but {path} has {count} images")
    return np.sort(np.random.default_rng(0).permutation(count)[:limit])


def check_dataset(loader: Loader, path: Path) -> None:
    """Raise if the file's fields, labels or sizes are not CIFAR-10's."""
    names = loader.reader.field_names
    if names != ["image", "label"]:
        raise PipelineError(
            f"{path} has fields {names}, not image and label; examples/cifar10/write.py writes it"
        )
    labels = loader.reader.metadata["f1"]
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise PipelineError(
            f"{path} has labels {labels.min()} to {labels.max()}; this trains {CLASSES} classes"
        )
    image = loader.reader.metadata["f0"]
    if (image["height"] != SIDE).any() or (image["width"] != SIDE).any():
        raise PipelineError(f"{path} has images that are not {SIDE} x {SIDE} pixels")


class Waiting:
    """Iterates over batches and adds up the seconds that the loop waited for them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield what `batches` yields."""
        iterator = iter(batches)
        while True:
            begin = time.perf_counter()
            batch = next(iterator, None)
            self.seconds += time.perf_counter() - begin
            if batch is None:
                return
            yield batch


# ---- network


def conv(inside: int, outside: int) -> nn.Conv2d:
    """Return a 3x3 convolution, initialised to the identity on as many channels as possible."""
    layer = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight.data[:inside])
    return layer


def norm(channels: int) -> nn.BatchNorm2d:
    """Return a BatchNorm with fixed scales (only its biases are trained) and a large momentum."""
    layer = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    layer.weight.requires_grad_(False)
    return layer


class Shortcut(nn.Module):
    """Two convolutions with a shortcut around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (nn.Sequential(conv(channels, channels), norm(channels)) for _ in range(2))
        self.body = nn.Sequential(first, nn.GELU(), second)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features of the same shape."""
        return F.gelu(images + self.body(images))


class Network(nn.Module):
    """Whitening, three blocks of convolutions, one linear layer; 31 -> 15 -> 7 -> 3 -> 1 pixels."""

    def __init__(self, preset: Preset, width: float) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad_(False)
        layers: list[nn.Module] = [nn.GELU()]
        inside = 24
        for full in preset.widths:
            outside = max(8, round(full * width))
            layers += [conv(inside, outside), nn.MaxPool2d(2), norm(outside), nn.GELU()]
            plain = [conv(outside, outside), norm(outside), nn.GELU()]
            layers += [Shortcut(outside)] if preset.shortcuts else plain
            inside = outside
        self.body = nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten())
        self.head = nn.Linear(inside, CLASSES, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (N, 10), scaled down for a gentle start."""
        return self.head(self.body(self.whiten(images))) / 9


@torch.no_grad()
def set_whitening(layer: nn.Conv2d, images: torch.Tensor) -> None:
    """Set the first layer to the patches' principal axes, scaled to unit variance, and their negatives."""
    patches = F.unfold(images.float(), 2).transpose(1, 2).reshape(-1, 12).double().cpu()
    variances, axes = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (axes / torch.sqrt(variances + 5e-4)).T.reshape(12, 3, 2, 2)
    layer.weight.copy_(torch.cat([filters, -filters]))
    nn.init.zeros_(layer.bias)


# ---- optimisation


def make_optimiser(model: Network, batch_size: int, learning_rate: float) -> torch.optim.SGD:
    """Return Nesterov SGD for a loss summed over the batch."""
    rate = learning_rate / (1024 * (1 + 1 / (1 - MOMENTUM)))
    decay = WEIGHT_DECAY * batch_size / 1024 / (1 + 1 / (1 - MOMENTUM))
    biases = [m.bias for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    groups = [
        {"params": biases, "lr": rate * BIAS_FACTOR, "weight_decay": decay / (rate * BIAS_FACTOR)},
        {"params": [*weights, model.whiten.bias], "lr": rate, "weight_decay": decay / rate},
    ]
    fused = model.whiten.bias.is_cuda
    return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, nesterov=True, fused=fused)


def triangle(step: int, steps: int) -> float:
    """Return the learning rate's factor: from 0.2 up to 1 at 23 % of the steps, then down to 0.07."""
    return float(np.interp(step / steps, [0, 0.23, 1], [0.2, 1.0, 0.07]))


class Lookahead:
    """A slow average of all weights and statistics; every few steps they are set to it."""

    def __init__(self, model: nn.Module) -> None:
        self.slow = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, keep: float) -> None:
        """Move the average towards the weights, then the weights onto the average."""
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.slow[name].lerp_(value, 1 - keep)
                value.copy_(self.slow[name])


# ---- evaluation


@torch.no_grad()
def evaluate(model: nn.Module, loader: Iterable[Any], options: argparse.Namespace) -> float:
    """Return the accuracy; --tta averages logits over flips (1) and one-pixel shifts (2)."""
    model.eval()
    right = total = 0
    for images, labels in loader:
        with torch.autocast(options.device, options.dtype, enabled=options.dtype != torch.float32):
            logits = sum(weight * model(view).float() for view, weight in views(images, options.tta))
        right += int((logits.argmax(1) == labels).sum())
        total += len(labels)
    return right / total


def views(images: torch.Tensor, level: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield views of a batch and their weights: unchanged, flipped, shifted along the diagonal."""
    shown = [(images, 2)]
    if level >= 2:
        padded = F.pad(images, (1, 1, 1, 1), "reflect")
        shown += [(padded[..., :SIDE, :SIDE], 1), (padded[..., 2:, 2:], 1)]
    for view, weight in shown:
        yield view, weight
        if level >= 1:
            yield view.flip(3), weight


# ---- the run


def warm_up(options: argparse.Namespace) -> None:
    """Train a network on noise and drop it: loads libraries, selects convolutions, allocates memory."""
    model = Network(options.preset, options.width).to(options.device, memory_format=torch.channels_last)
    optimiser = make_optimiser(model, options.batch_size, options.preset.learning_rate)
    noise = torch.randn(options.batch_size, 3, SIDE, SIDE, device=options.device)
    noise = noise.to(options.dtype, memory_format=torch.channels_last)
    labels = torch.zeros(options.batch_size, dtype=torch.int64, device=options.device)
    for _ in range(WARM_STEPS):
        with torch.autocast(options.device, options.dtype, enabled=options.dtype != torch.float32):
            loss = F.cross_entropy(model(noise).float(), labels, reduction="sum")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    loss.item()  # waits for the GPU


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train and print a table; return the results."""
    torch.backends.cudnn.benchmark = True  # all batches have one size: benchmark convolutions once
    if options.warm:
        warm_up(options)
    torch.manual_seed(options.seed)
    preset = options.preset
    loader: Any = make_loader(options.data / "train.beton", options, training=True)
    test = make_loader(options.data / "test.beton", options, training=False)
    if options.loader == "torch":
        from plain_loader import PlainLoader

        loader = PlainLoader(options.source, loader.indices, preset.translate, MEAN, STD, options)
    else:
        loader, test = resident(loader, options), resident(test, options)
    model = Network(preset, options.width).to(options.device, memory_format=torch.channels_last)
    set_whitening(model.whiten, first_images(options, 5000))
    run = torch.compile(model) if options.compile else model
    steps = math.ceil(options.epochs * len(loader))
    optimiser = make_optimiser(model, options.batch_size, preset.learning_rate)
    base = [group["lr"] for group in optimiser.param_groups]
    lookahead = Lookahead(model)

    rows: list[dict[str, float | None]] = []
    step, seconds = 0, 0.0
    print("epoch    loss   train    test   seconds      wait", flush=True)
    while step < steps:
        model.train()
        model.whiten.bias.requires_grad_(len(rows) < WHITEN_BIAS_EPOCHS)
        waiting, begin, losses, right, seen = Waiting(), time.perf_counter(), [], [], 0
        for images, labels in waiting.over(loader):
            for group, rate in zip(optimiser.param_groups, base, strict=True):
                group["lr"] = rate * triangle(step, steps)
            with torch.autocast(options.device, options.dtype, enabled=options.dtype != torch.float32):
                logits = run(images)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=LABEL_SMOOTHING, reduction="sum")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            step, seen = step + 1, seen + len(labels)
            losses.append(loss.detach())
            right.append((logits.detach().argmax(1) == labels).sum())
            if step % 5 == 0:
                lookahead.update(model, 0.95**5 * (step / steps) ** 3)
            if step == steps:
                break
        if step == steps:
            lookahead.update(model, 1.0)
        mean_loss, accuracy = float(sum(losses)) / seen, float(sum(right)) / seen  # waits for the GPU
        seconds += time.perf_counter() - begin
        last = step == steps
        tested = evaluate(model, test, options) if last or not options.quick else None
        row = {"loss": mean_loss, "train_accuracy": accuracy, "test_accuracy": tested}
        rows.append({**row, "seconds": seconds, "wait_seconds": waiting.seconds})
        print(
            f"{len(rows):5d} {mean_loss:7.4f} {accuracy:7.2%} {percent(tested):>7} {seconds:9.2f} "
            f"{waiting.seconds:9.3f}",
            flush=True,
        )
    print(f"\ntest accuracy {percent(tested)} after {seconds:.2f} s of training (without evaluation)")
    chosen_options = {**settings(options), "resident": isinstance(loader, ResidentLoader)}
    return {"settings": chosen_options, "steps": steps, "test_accuracy": tested, "epochs": rows}


def percent(share: float | None) -> str:
    """Format a share for the table; a dash if it was not measured."""
    return "-" if share is None else f"{share:.2%}"


def first_images(options: argparse.Namespace, count: int) -> torch.Tensor:
    """Return normalised training images without augmentation, for the patch statistics."""
    parts, found = [], 0
    for images, _ in make_loader(options.data / "train.beton", options, training=False):
        parts.append(images)
        found += len(images)
        if found >= count:
            break
    return torch.cat(parts)[:count]


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that affect the result, ready for JSON."""
    names = "epochs width seed device limit batch_size tta loader compile workers warm"
    found = {name: getattr(options, name) for name in names.split()}
    preset = next(name for name, preset in PRESETS.items() if preset is options.preset)
    return {**found, "preset": preset, "dtype": str(options.dtype).removeprefix("torch.")}


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def choose(options: argparse.Namespace) -> None:
    """Resolve "auto"; raise if a GPU is requested and there is none, or options contradict each other."""
    found = torch.cuda.is_available()
    if options.device == "auto":
        options.device = "cuda" if found else "cpu"
    if options.device == "cuda" and not found:
        raise BackendUnavailable("--device cuda, but torch finds no GPU here; use --device cpu (slower)")
    if options.dtype == "auto":
        options.dtype = "bfloat16" if options.device == "cuda" else "float32"
    options.dtype = DTYPES[options.dtype]
    if options.loader == "torch" and options.source is None:
        raise PipelineError("--loader torch reads the original files: --source FOLDER is needed")
    options.preset = PRESETS[options.preset]
    if options.loader == "torch" and options.preset.cutout:
        raise PipelineError("--loader torch has no cutout, so --preset 96 is not possible")
    if options.epochs is None:
        options.epochs = options.preset.epochs
    if options.epochs <= 0 or options.width <= 0 or options.batch_size < 1:
        raise PipelineError("--epochs, --width and --batch-size must be greater than 0")
    if options.limit < 0:
        raise PipelineError("--limit must be 0 (all images) or greater")
    if options.json and not options.json.absolute().parent.is_dir():  # noticed now, not after training
        raise PipelineError(f"--json {options.json}: there is no such folder")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", type=Path, help="folder with train.beton and test.beton")
    add("--preset", choices=PRESETS, default="94", help="named after the published accuracy of its settings")
    add("--epochs", type=float, help="default: the preset's, 9.9 (94) or 40 (96)")
    add("--width", type=float, default=1.0, help="factor on the network's widths")
    add("--resident", choices=("auto", "yes", "no"), default="auto", help="decode once, keep in memory")
    add("--batch-size", type=int, default=1024)
    add("--seed", type=int, default=0)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--dtype", choices=("auto", *DTYPES), default="auto", help="auto: bfloat16 on a GPU, else float32")
    add("--limit", type=int, default=0, help="number of training images to use (0: all)")
    add("--tta", type=int, choices=(0, 1, 2), default=2, help="test-time views: 1 flips, 2 also shifts")
    add("--quick", action="store_true", help="evaluate after the last epoch only")
    add("--compile", action="store_true", help="torch.compile the network; compiling counts as training time")
    add("--warm", action="store_true", help="first train on noise, untimed, as the published records do")
    add("--workers", type=int, default=-1, help="threads of the loader; -1: one per CPU")
    add("--loader", choices=("ffcv_gpu", "torch"), default="ffcv_gpu", help="torch: the plain DataLoader")
    add("--source", type=Path, help="for --loader torch: the folder that write.py read")
    add("--json", type=Path, help="save the results to this file")
    return parser.parse_args(arguments)


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on a GPU or on the host (for which torch has no exception class)."""
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "allocate memory" in str(error)


def main(arguments: list[str] | None = None) -> int:
    """Train; return the exit status, 2 after an expected error (one line)."""
    options = parse(arguments)
    try:
        choose(options)
        result = train(options)
    except (FfcvGpuError, MemoryError, RuntimeError) as error:
        said = str(error) or type(error).__name__
        if out_of_memory(error):
            advice = "lower --batch-size or --width, or try --resident no"
            said = f"not enough memory on {options.device}; {advice} ({said.splitlines()[0]})"
        elif not isinstance(error, FfcvGpuError):
            raise
        print(f"train.py: {said}", file=sys.stderr)
        return 2
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
