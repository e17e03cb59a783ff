"""TorchCodec's ``decode_jpeg`` as a contender: in torch's DataLoader, and as a bare decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import contender


class Augmented:
    """The files of a folder through TorchCodec and transforms on tensors."""

    def __init__(self, folder: str, augment: Any) -> None:
        self.files, self.augment = contender.labelled(folder), augment

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from torchcodec.decoders import decode_jpeg

        path, label = self.files[index]
        return self.augment(decode_jpeg(path, mode="RGB")), label


def make_loader(
    folder: str, batch_size: int, workers: int, side: int, prefetch_factor: int = 2,
    persistent_workers: bool = True, **_: Any,
) -> Any:  # fmt: skip
    """Return a DataLoader over the folder: uint8 NCHW and labels."""
    from torch_parts import data_loader, transforms

    v2 = transforms()
    augment = v2.Compose([v2.RandomResizedCrop(side, antialias=True), v2.RandomHorizontalFlip()])
    return data_loader(
        Augmented(folder, augment), batch_size, workers,
        prefetch_factor=prefetch_factor, persistent_workers=persistent_workers,
    )  # fmt: skip


def make_decoder(files: Sequence[bytes], threads: int, **_: Any) -> Callable[[], Any]:
    """Decode in threads, one image per thread, to RGB tensors (3, height, width)."""
    import torch
    from torchcodec.decoders import decode_jpeg

    torch.set_num_threads(1)
    return contender.by_threads(lambda file: decode_jpeg(file, mode="RGB"), files, threads)


if __name__ == "__main__":
    contender.serve(("torchcodec", "torch", "torchvision"), make_loader, make_decoder)
