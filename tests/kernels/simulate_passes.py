"""Runs launches on finished images in numba's CUDA simulator: ``simulate_passes.py in.pickle out.pickle``."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from simulator import STREAM, simulated_launches

from ffcv_gpu.kernels.block import BlockLayout

LAUNCHES = simulated_launches()


def main(source: str, target: str) -> None:
    """Run each launch, (layout, memory, source, target, scratch) by name; store the memories."""
    found = {}
    for name, (layout, memory, *places) in pickle.loads(Path(source).read_bytes()).items():
        views = LAUNCHES.views(memory)
        if isinstance(layout, BlockLayout):
            LAUNCHES.measure(views, layout, 0, (1,), places[0], STREAM)
        else:
            LAUNCHES.transform(views, layout, 0, *places, STREAM)
        found[name] = memory
    Path(target).write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
