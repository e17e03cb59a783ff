"""Train a ResNet on ImageNet, or on any images with labels, from raw files to accuracy.

    python examples/imagenet/train.py --train train.beton --val val.beton --config rn18_16 --out run
    torchrun --nproc-per-node 8 examples/imagenet/train.py --train ... --val ... --config rn50_88 --out run
    python examples/imagenet/train.py ... --out run --resume          # resumes after a kill

Runs on GPUs (bfloat16, NCCL) or on the CPU (float32, gloo). The configurations are FFCV's (configs.py); other
options override them. Accuracies are of centre crops (224/256 of the shorter side); --tta averages with the
flipped image, --ema evaluates the averaged weights. After each epoch, a row is printed and run/results.json
written, which plot.py plots. `wait` is how long the loop waited for batches: the stall.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from configs import CONFIGS, Config
from resnet import LAYERS, ResNet
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ffcv_gpu.errors import BackendUnavailable, FfcvGpuError, PipelineError, ReadError, WriteError
from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder, IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.reader import Reader
from ffcv_gpu.transforms import (
    NormalizeImage,
    RandomHorizontalFlip,
    Squeeze,
    ToDevice,
    ToTensor,
    ToTorchImage,
)

MEAN = np.array([0.485, 0.456, 0.406]) * 255
STD = np.array([0.229, 0.224, 0.225]) * 255
CENTRE = 224 / 256
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# ---- data


def make_loader(path: Path, head: Any, options: argparse.Namespace, **settings: Any) -> Loader:
    """Return a loader of (images, labels); everything after decoding is one fused launch."""
    if not path.is_file():
        raise ReadError(f"{path} is missing; examples/imagenet/write.py makes such files")
    flip = [RandomHorizontalFlip()] if isinstance(head, RandomResizedCropRGBImageDecoder) else []
    onto = [ToTensor(), ToDevice(options.device)]
    image = [head, *flip, *onto, ToTorchImage(), NormalizeImage(MEAN, STD, options.dtype)]
    pipelines = {"image": image, "label": [IntDecoder(), *onto, Squeeze(1)]}
    loader = Loader(path, num_workers=options.workers, seed=options.seed, pipelines=pipelines, **settings)
    if loader.reader.field_names[:2] != ["image", "label"]:
        raise PipelineError(f"{path} has fields {loader.reader.field_names}, not image and label")
    return loader


def training_loader(config: Config, options: argparse.Namespace) -> tuple[Loader, Any]:
    """Return the training loader and its decoder, whose `output_size` changes between epochs."""
    decoder = RandomResizedCropRGBImageDecoder((config.min_res, config.min_res), scale=(options.scale, 1))
    if config.batch_size % options.world_size:
        raise PipelineError(f"a batch of {config.batch_size} cannot be split by {options.world_size} ranks")
    each = config.batch_size // options.world_size
    loader = make_loader(
        options.train,
        decoder,
        options,
        batch_size=each,
        order=OrderOption.RANDOM if options.in_memory else OrderOption.QUASI_RANDOM,
        os_cache=options.in_memory,
        distributed=options.world_size > 1,
        drop_last=True,
    )
    if not len(loader):
        raise PipelineError(
            f"{options.train} has {len(loader.indices)} images, too few for a batch of {each}"
        )
    return loader, decoder


def validation_loader(config: Config, options: argparse.Namespace) -> Loader:
    """Return the validation loader: centre crops; the ranks share the images, each of which is used once."""
    decoder = CenterCropRGBImageDecoder((config.val_res, config.val_res), ratio=CENTRE)
    if not options.val.is_file():
        raise ReadError(f"{options.val} is missing; examples/imagenet/write.py makes such files")
    share = np.arange(options.rank, Reader(options.val).num_samples, options.world_size)
    each = min(512, max(1, config.batch_size // options.world_size))
    return make_loader(options.val, decoder, options, batch_size=each, indices=share, drop_last=False)


def count_classes(loaders: tuple[Loader, Loader], wanted: int) -> int:
    """Return the number of classes; raise if a label is out of range."""
    training, validation = (loader.reader.metadata["f1"] for loader in loaders)
    classes = wanted or int(training.max()) + 1
    for name, labels in (("training", training), ("validation", validation)):
        if labels.min() < 0 or labels.max() >= classes:
            raise PipelineError(
                f"the {name} file has labels {labels.min()} to {labels.max()}; there are {classes} classes"
                + (" (--classes)" if wanted else " in the training file")
            )
    return classes


# ---- the run


class Run:
    """The state of a training run, which checkpoints save."""

    def __init__(self, config: Config, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.config, self.options = config, options
        self.loader, self.decoder = training_loader(config, options)
        self.validation = validation_loader(config, options)
        classes = count_classes((self.loader, self.validation), options.classes)
        model = ResNet(config.arch, classes, options.width, blur_pool=config.blur_pool)
        self.model = model.to(options.device, memory_format=torch.channels_last)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": plain, "weight_decay": 0},
        ]
        self.optimiser = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
        # float16 gradients would underflow; for other dtypes the scaler is disabled
        self.scaler = torch.amp.GradScaler(options.device_type, enabled=options.dtype == torch.float16)
        self.ema: AveragedModel | None = None
        if options.ema:
            average = get_ema_multi_avg_fn(options.ema)
            self.ema = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.epoch, self.step = 0, 0
        self.sums = new_sums()
        self.rows: list[dict[str, Any]] = []

    @property
    def checkpoint(self) -> Path:
        """The path of the checkpoint file."""
        return Path(self.options.out) / "checkpoint.pt"

    def save(self) -> None:
        """Save the state atomically; every rank must call this, rank 0 writes."""
        sums = reduced(self.sums, self.options)  # collective: every rank takes part
        if self.options.rank:
            return
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema and self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loader": self.loader.state_dict(),
            "place": (self.epoch, self.step),
            "sums": sums,
            "rows": self.rows,
            "config": asdict(self.config),
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def load(self) -> None:
        """Resume where `save` was called, also in the middle of an epoch."""
        if not self.checkpoint.is_file():
            raise ReadError(f"--resume: there is no {self.checkpoint}")
        try:
            state = torch.load(self.checkpoint, map_location=self.options.device, weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            why = str(error).splitlines()[0]
            raise ReadError(f"--resume: {self.checkpoint} is no checkpoint of this script: {why}") from error
        if state["config"] != asdict(self.config):
            raise PipelineError(f"--resume: {self.checkpoint} was saved by a run with different settings")
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise PipelineError(
                f"--resume: {self.checkpoint} holds another network; give the same --width and --classes"
            ) from error
        if self.ema is not None:
            if state["ema"] is None:
                raise PipelineError(f"--resume --ema: {self.checkpoint} has no averaged weights")
            self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.loader.load_state_dict(state["loader"])
        (self.epoch, self.step), self.rows = state["place"], state["rows"]
        if not self.options.rank:  # the saved sums are those of all ranks
            self.sums = state["sums"]


def new_sums() -> dict[str, float]:
    """Return the sums of an epoch before its first step."""
    return {"loss": 0.0, "right": 0.0, "seen": 0.0, "seconds": 0.0, "wait_seconds": 0.0}


def reduced(sums: dict[str, float], options: argparse.Namespace) -> dict[str, float]:
    """Return the sums over all ranks."""
    if options.world_size == 1:
        return dict(sums)
    values = torch.tensor(list(sums.values()), dtype=torch.float64, device=options.device)
    dist.all_reduce(values)
    return dict(zip(sums, values.tolist(), strict=True))


def rate(config: Config, progress: float) -> float:
    """Return the learning rate: linearly up to the peak, then linearly down to 0 (FFCV's schedule)."""
    peak = min(config.lr_peak_epoch, config.epochs / 2)
    return float(np.interp(progress, [0, peak, config.epochs], [1e-4 * config.lr, config.lr, 0]))


def train_epoch(run: Run, network: nn.Module) -> None:
    """Train the rest of the epoch; add to `run.sums`."""
    config, options, sums = run.config, run.options, run.sums
    side = config.resolution(run.epoch)
    run.decoder.output_size = (side, side)  # takes effect at the next iter()
    steps = len(run.loader)
    network.train()
    loss_sum = torch.zeros((), device=options.device)
    right_sum = torch.zeros((), device=options.device)

    def note() -> None:
        sums["loss"] += float(loss_sum)  # waits for the GPU
        sums["right"] += float(right_sum)
        sums["seconds"] += time.perf_counter() - begin
        loss_sum.zero_()
        right_sum.zero_()

    begin = time.perf_counter()
    batches = iter(run.loader)
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        sums["wait_seconds"] += time.perf_counter() - asked
        if batch is None:
            break
        images, labels = batch
        for group in run.optimiser.param_groups:
            group["lr"] = rate(config, run.epoch + run.step / steps)
        with torch.autocast(options.device_type, options.dtype, enabled=options.dtype != torch.float32):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
        run.optimiser.zero_grad(set_to_none=True)
        run.scaler.scale(loss).backward()
        run.scaler.step(run.optimiser)
        run.scaler.update()
        if run.ema is not None:
            run.ema.update_parameters(run.model)
        loss_sum += loss.detach() * len(labels)
        right_sum += (logits.detach().argmax(1) == labels).sum()
        sums["seen"] += len(labels)
        run.step += 1
        if options.save_every and run.step % options.save_every == 0 and run.step < steps:
            note()
            run.save()
            begin = time.perf_counter()
    note()


@torch.no_grad()
def evaluate(run: Run) -> tuple[float, float]:
    """Return top-1 and top-5 accuracy of centre crops over all ranks."""
    model, options = run.ema or run.model, run.options
    model.eval()
    found = torch.zeros(3, dtype=torch.float64, device=options.device)
    for images, labels in run.validation:
        with torch.autocast(options.device_type, options.dtype, enabled=options.dtype != torch.float32):
            logits = model(images).float()
            if options.tta:
                logits += model(images.flip(3)).float()
        hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        found[:2] += torch.stack([hits[:, 0].sum(), hits.sum()])
        found[2] += len(labels)
    if options.world_size > 1:
        dist.all_reduce(found)
    top1, top5, count = found.tolist()
    return top1 / count, top5 / count


def train(config: Config, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train all epochs; print a row, write results.json and save a checkpoint after each; return the rows."""
    run = Run(config, options)
    if options.resume:
        run.load()
    network: nn.Module = run.model
    if options.world_size > 1:
        network = DistributedDataParallel(
            network, [options.local_rank] if options.device_type == "cuda" else None
        )
    if options.compile:
        network = torch.compile(network)
    say = print if not options.rank else lambda *_, **__: None
    say("epoch  side    loss   train   top-1   top-5   seconds      wait", flush=True)
    for row in run.rows:
        say(line(row), flush=True)
    while run.epoch < config.epochs:
        side = config.resolution(run.epoch)
        train_epoch(run, network)
        sums = reduced(run.sums, options)
        top1, top5 = evaluate(run)
        seen = sums["seen"]
        row = {"epoch": run.epoch + 1, "side": side, "loss": sums["loss"] / seen, "images": seen}
        row |= {"train_accuracy": sums["right"] / seen, "top1": top1, "top5": top5}
        row |= {name: sums[name] / options.world_size for name in ("seconds", "wait_seconds")}
        run.rows.append(row)
        say(line(row), flush=True)
        run.epoch, run.step, run.sums = run.epoch + 1, 0, new_sums()
        run.save()
        if not options.rank:
            result = {"config": asdict(config), "settings": settings(options), "epochs": run.rows}
            (options.out / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return run.rows


def line(row: dict[str, Any]) -> str:
    """Format a row of the table."""
    return (
        f"{row['epoch']:5d} {row['side']:5d} {row['loss']:7.4f} {row['train_accuracy']:7.2%} "
        f"{row['top1']:7.2%} {row['top5']:7.2%} {row['seconds']:9.2f} {row['wait_seconds']:9.3f}"
    )


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options besides the configuration that affect the result, ready for JSON."""
    names = "seed width scale ema tta device world_size compile workers in_memory"
    return {**{name: getattr(options, name) for name in names.split()}, "dtype": str(options.dtype)[6:]}


# ---- the command line


def configuration(options: argparse.Namespace) -> Config:
    """Return the chosen configuration with overrides; the learning rate scales with the batch size."""
    config = CONFIGS[options.config]
    names = ("arch", "epochs", "batch_size", "lr", "min_res", "max_res", "val_res", "lr_peak_epoch")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if "batch_size" in given and "lr" not in given:
        given["lr"] = config.lr * given["batch_size"] / config.batch_size
    if "epochs" in given:  # the ramp keeps its relative position
        start, end = config.ramp
        given["ramp"] = tuple(round(e * given["epochs"] / config.epochs) for e in (start, end))
    for name, low in (("epochs", 1), ("batch_size", 1), ("min_res", 32), ("val_res", 32)):
        if given.get(name, low) < low:
            raise PipelineError(f"--{name.replace('_', '-')} must be at least {low}, not {given[name]}")
    if options.width <= 0 or not 0 <= options.ema < 1 or options.save_every < 0:
        raise PipelineError("--width must be more than 0, --ema from 0 to below 1, --save-every at least 0")
    if options.no_blur:
        given["blur_pool"] = False
    config = replace(config, **given)
    if config.max_res < config.min_res:
        raise PipelineError(f"--max-res {config.max_res} is less than --min-res {config.min_res}")
    return config


def choose(options: argparse.Namespace) -> None:
    """Resolve device, dtype and ranks; raise if a GPU is requested and there is none."""
    found = torch.cuda.is_available()
    if options.device == "cuda" and not found:
        raise BackendUnavailable("--device cuda, but torch finds no GPU here; use --device cpu (slower)")
    options.rank, options.world_size, options.local_rank = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    options.device_type = "cuda" if found and options.device != "cpu" else "cpu"
    options.device = f"cuda:{options.local_rank}" if options.device_type == "cuda" else "cpu"
    if options.dtype == "auto":
        options.dtype = "bfloat16" if options.device_type == "cuda" else "float32"
    options.dtype = DTYPES[options.dtype]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--train", type=Path, required=True)
    add("--val", type=Path, required=True)
    add("--out", type=Path, default=Path("imagenet-run"), help="folder for the checkpoint and results")
    add("--config", choices=CONFIGS, default="rn18_16")
    for name in ("epochs", "batch-size", "min-res", "max-res", "val-res", "lr-peak-epoch"):
        add(f"--{name}", type=int, help="overrides the configuration")
    add("--lr", type=float, help="overrides the configuration's, which is scaled with --batch-size")
    add("--arch", choices=LAYERS, help="overrides the configuration")
    add("--no-blur", action="store_true", help="no blur before strided convolutions")
    add("--width", type=float, default=1.0, help="factor on the network's channels")
    add("--scale", type=float, default=0.08, help="smallest share of the image in a training crop")
    add("--classes", type=int, default=0, help="default: the number in the training file")
    add("--ema", type=float, default=0.0, help="decay of the weights' moving average; 0: none")
    add("--tta", action="store_true", help="average with the flipped image when evaluating")
    add("--seed", type=int, default=0)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--dtype", choices=("auto", *DTYPES), default="auto", help="auto: bfloat16 on a GPU, else float32")
    add("--workers", type=int, default=-1, help="threads of the loader; -1: one per CPU")
    add("--in-memory", action=argparse.BooleanOptionalAction, default=True, help="the file fits in memory")
    add("--compile", action="store_true", help="torch.compile the network")
    add("--save-every", type=int, default=0, help="also save every N steps, to resume inside an epoch")
    add("--resume", action="store_true")
    return parser.parse_args(arguments)


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on a GPU or on the host (for which torch has no exception class)."""
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "allocate memory" in str(error)


def main(arguments: list[str] | None = None) -> int:
    """Train; return the exit status, 2 after an expected error (one line)."""
    options = parse(arguments)
    try:
        choose(options)
        config = configuration(options)
        try:
            options.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"--out {options.out}: {error.strerror}") from error
        if options.world_size > 1:
            if options.device_type == "cuda":
                torch.cuda.set_device(options.local_rank)
            dist.init_process_group("nccl" if options.device_type == "cuda" else "gloo")
        train(config, options)
    except (FfcvGpuError, MemoryError, RuntimeError) as error:
        said = str(error) or type(error).__name__
        if out_of_memory(error):
            advice = "lower --batch-size or --max-res, or use more ranks"
            said = f"not enough memory on {options.device}; {advice} ({said.splitlines()[0]})"
        elif not isinstance(error, FfcvGpuError):
            raise
        print(f"train.py: {said}", file=sys.stderr)
        return 2
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    status = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Everything is saved. Gloo's threads outlive main and may release reduced tensors during Python's
        # finalisation, which aborts the process (3 of 60 runs on a busy machine, and some even after a
        # barrier); os._exit skips the finalisation.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
