"""WebDataset as a contender: tar shards, Pillow, torchvision's transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import contender


def make_loader(
    shards: Sequence[str], batch_size: int, workers: int, side: int, shuffle: int = 1000,
    prefetch_factor: int = 2, persistent_workers: bool = True, **_: Any,
) -> Any:  # fmt: skip
    """Return a WebLoader over the shards, batched in its workers: uint8 NCHW and labels."""
    import webdataset as wds
    from torch_parts import transforms

    v2 = transforms()
    augment = v2.Compose([v2.RandomResizedCrop(side), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    samples = (
        wds.WebDataset(list(shards), shardshuffle=len(shards))
        .shuffle(shuffle)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(augment, int)
        .batched(batch_size)
    )
    return wds.WebLoader(samples, batch_size=None, num_workers=workers, pin_memory=False,
                         prefetch_factor=prefetch_factor, persistent_workers=persistent_workers)  # fmt: skip


if __name__ == "__main__":
    contender.serve(("webdataset", "torch", "torchvision", "pillow"), make_loader)
