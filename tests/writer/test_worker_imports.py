"""What worker processes need is loaded before they are forked: once, not by each of them."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys

import numpy as np

from ffcv_gpu.fields import RGBImageField, rgb_image
from ffcv_gpu.writer import DatasetWriter

rgb_image._WORTH_LOADING = 1


class Images:
    loaded = None  # when this process began

    def __len__(self):
        return 40

    def __getitem__(self, k):
        image = np.full([(90, 120, 3), (80, 100, 3)][k % 2], k, np.uint8)  # 100 to 50 is a whole factor
        self.loaded = self.loaded or set(sys.modules)
        if new := set(sys.modules) - self.loaded:
            print(sorted(new), flush=True)
        return (image,)


writer = DatasetWriter(sys.argv[1], {"image": RGBImageField("jpg", 50)}, num_workers=2, progress=False)
print(writer.from_indexed_dataset(Images(), chunksize=10).samples)
"""


def test_forked_workers_import_nothing(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "a.beton")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "40\n", done.stdout + done.stderr
