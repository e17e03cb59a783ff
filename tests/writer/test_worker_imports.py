"""What worker processes need is loaded before they are forked: once, not by each of them."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys

import numpy as np

from ffcv_gpu.fields import RGBImageField, rgb_image
from ffcv_gpu.writer import DatasetWriter, worker

rgb_image._WORTH_LOADING = 1
settle = worker._settle


def settled():
    settle()
    loaded = set(sys.modules)
    done = worker._Desk.ranges

    def ranges(self):
        yield from done(self)
        print(sorted(set(sys.modules) - loaded), flush=True)

    worker._Desk.ranges = ranges


worker._settle = settled
sides = [(90, 120), (80, 100)]  # 100 to 50 is a whole factor, 120 is not
samples = [(np.full((*sides[k % 2], 3), k, np.uint8),) for k in range(40)]
fields = {"image": RGBImageField("jpg", 50)}
DatasetWriter(sys.argv[1], fields, num_workers=2, progress=False).from_indexed_dataset(samples, chunksize=10)
"""


def test_forked_workers_import_nothing(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "a.beton")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["[]", "[]"], done.stderr
