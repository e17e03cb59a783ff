"""What feeds the training step: each reads the same stored JPEGs, one epoch per iteration.

``FEEDS[name](request, step)``, where `request` has `path` (a .beton file), `listing` (JSON: the same JPEGs as
files, repeated as needed), `samples`, `batch_size`, `side`, `workers`. Libraries are imported where they are
used: each feed runs in its own environment.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from crops import random_crop
from pipelines import MEAN, STD, ours, theirs
from train_step import Step

Request = dict[str, Any]


def own(request: Request, step: Step) -> Any:
    """ffcv_gpu: the fused launch normalises and converts to the step's dtype."""
    from ffcv_gpu.loader import Loader, OrderOption

    return Loader(
        request["path"], batch_size=request["batch_size"], num_workers=request["workers"], seed=0,
        order=OrderOption.RANDOM, pipelines=ours(request["side"], step.dtype, device=step.device),
    )  # fmt: skip


def ffcv(request: Request, step: Step) -> Any:
    """FFCV: in the step's dtype on a CPU, in float16 on a GPU."""
    import numpy as np
    from ffcv.loader import Loader, OrderOption

    device = torch.device(step.device) if step.on_gpu else None
    return Loader(
        request["path"], batch_size=request["batch_size"], num_workers=request["workers"], seed=0,
        order=OrderOption.RANDOM, os_cache=True, drop_last=True,
        pipelines=theirs(request["side"], np.float16 if step.on_gpu else np.float32, device),
    )  # fmt: skip


class Files(torch.utils.data.Dataset[Any]):
    """JPEG files, decoded by Pillow and cropped and resized in one call."""

    def __init__(self, listing: str, count: int, side: int) -> None:
        with open(listing, encoding="utf-8") as file:
            self.paths: list[str] = json.load(file)
        self.count, self.side = count, side

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        import numpy as np
        from PIL import Image

        with Image.open(self.paths[index % len(self.paths)]) as file:
            image = file.convert("RGB")
        y, x, height, width = random_crop(random, image.height, image.width)
        box = (x, y, x + width, y + height)
        image = image.resize((self.side, self.side), Image.Resampling.BILINEAR, box)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image)), index


class Plain:
    """torch's DataLoader, tuned: persistent workers, uint8 between processes, normalised on the device."""

    def __init__(self, request: Request, step: Step) -> None:
        self._step = step
        self._loader = torch.utils.data.DataLoader(
            Files(request["listing"], request["samples"], request["side"]),
            request["batch_size"],
            shuffle=True,
            drop_last=True,
            num_workers=request["workers"],
            persistent_workers=True,
            prefetch_factor=4,
            pin_memory=step.on_gpu,
            generator=torch.Generator().manual_seed(0),
        )
        shape = {"dtype": step.dtype, "device": step.device}
        self._mean = torch.tensor(MEAN, **shape)[:, None, None]
        self._scale = 1 / torch.tensor(STD, **shape)[:, None, None]

    def __iter__(self) -> Iterator[Any]:
        for pixels, labels in self._loader:
            images = pixels.to(self._step.device, non_blocking=True).permute(0, 3, 1, 2).to(self._step.dtype)
            yield images.sub_(self._mean).mul_(self._scale), labels.to(self._step.device, non_blocking=True)


def memory(request: Request, step: Step) -> Any:
    """Noise in the memory of the step's device."""
    count, side = request["batch_size"], request["side"]
    images = torch.randn(count, 3, side, side, device=step.device).to(step.dtype)
    labels = torch.randint(request["samples"], (count,), device=step.device)
    batch = images.contiguous(memory_format=torch.channels_last), labels
    return [batch] * (request["samples"] // count)


FEEDS: dict[str, Callable[[Request, Step], Any]] = {
    "memory": memory,
    "dataloader": Plain,
    "ffcv": ffcv,
    "ffcv_gpu": own,
}
