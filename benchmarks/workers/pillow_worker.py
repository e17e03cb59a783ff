"""Pillow as a contender: in torch's DataLoader with torchvision's transforms, and as a bare decoder."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import contender


def make_loader(
    folder: str, batch_size: int, workers: int, side: int, prefetch_factor: int = 2,
    persistent_workers: bool = True, **_: Any,
) -> Any:  # fmt: skip
    """Return a DataLoader over the folder: uint8 NCHW and labels."""
    from torch_parts import data_loader, transforms

    v2 = transforms()
    from torchvision.datasets import ImageFolder

    augment = v2.Compose([v2.RandomResizedCrop(side), v2.RandomHorizontalFlip(), v2.PILToTensor()])

    return data_loader(
        ImageFolder(folder, augment), batch_size, workers,
        prefetch_factor=prefetch_factor, persistent_workers=persistent_workers,
    )  # fmt: skip


def make_decoder(files: Sequence[bytes], threads: int, **_: Any) -> Callable[[], Any]:
    """Decode in threads, to Pillow images."""
    from PIL import Image

    def decode(file: bytes) -> Any:
        with Image.open(io.BytesIO(file)) as image:
            return image.convert("RGB")

    return contender.by_threads(decode, files, threads)


if __name__ == "__main__":
    contender.serve(("torch", "torchvision", "pillow"), make_loader, make_decoder)
