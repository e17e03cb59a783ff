"""Shared by the workers on PyTorch: torchvision's transforms with any build of torch, and a DataLoader."""

from __future__ import annotations

from typing import Any

__all__ = ["data_loader", "transforms"]


def transforms() -> Any:
    """Return ``torchvision.transforms.v2``, imported without torchvision's binaries.

    With another build of torch these do not load, and the import would fail where it registers fake
    operators. The transforms do not need them.
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
    """Return a DataLoader as PyTorch's tuning guide recommends; nothing is pinned, there is no GPU."""
    from torch.utils.data import DataLoader

    return DataLoader(
        dataset, batch_size=batch_size, shuffle=True, num_workers=workers, pin_memory=False,
        prefetch_factor=prefetch_factor, persistent_workers=persistent_workers,
    )  # fmt: skip
