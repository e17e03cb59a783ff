"""The floor: whole images of a file decoded by libturbojpeg 3 on all threads, and nothing else done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

#: images a thread takes at a time
PART = 8


class BareDecode:
    """Looks like a loader: yields, batch by batch in random order, a status of each image."""

    def __init__(self, path: str, batch_size: int, workers: int, dct: str) -> None:
        import numpy as np

        from ffcv_gpu.format import open_beton
        from ffcv_gpu.jpeg.turbo3 import Turbo3Backend

        beton = open_beton(path)
        column = beton.column("image")
        sides = (column["height"].astype(np.int64), column["width"].astype(np.int64))
        self._images = (beton.offsets("image"), beton.lengths("image"), *sides)
        self._stored = np.memmap(path, np.uint8, mode="r")
        self._backend = Turbo3Backend(dct)
        self._threads, self._own = ThreadPoolExecutor(workers), threading.local()
        self._batch_size, self._random = batch_size, np.random.default_rng(0)

    def __iter__(self) -> Iterator[tuple[Any]]:
        import numpy as np

        order = self._random.permutation(self._images[0].size)
        for start in range(0, order.size, self._batch_size):
            batch = order[start : start + self._batch_size]
            parts = [batch[first : first + PART] for first in range(0, batch.size, PART)]
            yield (np.concatenate(list(self._threads.map(self._decode, parts))),)

    def _decode(self, rows: Any) -> Any:
        import numpy as np

        from ffcv_gpu.jpeg.base import Encoded

        offsets, lengths, heights, widths = (column[rows] for column in self._images)
        size = int(3 * (heights * widths).max())
        if not hasattr(self._own, "pixels") or self._own.pixels.size < size:
            self._own.pixels = np.empty(size, np.uint8)
        encoded = Encoded(self._stored, offsets, lengths, heights, widths)
        # All to one place, which stays in cache: nobody looks at the pixels.
        status = self._backend.submit(encoded, self._own.pixels, np.zeros(rows.size, np.int64)).wait().status
        if status.any():
            raise ValueError(f"images {rows[status != 0]} cannot be decoded")
        return status
