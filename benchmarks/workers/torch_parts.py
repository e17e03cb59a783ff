"""What the workers on PyTorch share: torchvision's transforms beside any build of torch, and a DataLoader."""

from __future__ import annotations

from typing import Any

__all__ = ["data_loader", "transforms"]


def transforms() -> Any:
    """Return ``torchvision.transforms.v2``, imported without torchvision's binaries.

    Beside another build of torch these do not load, and the import would end where it describes them. The
    transforms need none.
    """
    import torch

    real = torch.library.register_fake
    torch.library.register_fake = lambda *_, **__: lambda function: function
    try:
        from torchvision.transforms import v2
    finally:
        torch.library.register_fake = real
    return v2


def data_loader(
    dataset: Any, batch_size: int, workers: int, *, prefetch_factor: int, persistent_workers: bool
) -> Any:
    """Return a DataLoader as PyTorch's tuning guide has it, with a process per core; nothing to pin for."""
    from torch.utils.data import DataLoader

    return DataLoader(
        dataset, batch_size=batch_size, shuffle=True, num_workers=workers, pin_memory=False,
        prefetch_factor=prefetch_factor, persistent_workers=persistent_workers,
    )  # fmt: skip
