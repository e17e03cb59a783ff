"""torchvision's RandomResizedCrop for workers that have no torchvision."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["random_crop"]


def random_crop(draw: Any, height: int, width: int) -> tuple[int, int, int, int]:
    """Return y, x, height, width of a crop drawn as torchvision's RandomResizedCrop does.

    `draw` is a `random.Random`, or the module.
    """
    for _ in range(10):
        area = height * width * draw.uniform(0.08, 1.0)
        ratio = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return draw.randint(0, height - h), draw.randint(0, width - w), h, w
    # The widest or highest that the ratio allows, in the middle.
    w = min(width, round(height * 4 / 3))
    h = min(height, round(width / (3 / 4)))
    return (height - h) // 2, (width - w) // 2, h, w
