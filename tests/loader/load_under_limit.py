"""Load a file for one epoch in a process that may have 2 GB of memory; print what it took as JSON.

Arguments: the file, the name of an order, the limit in bytes.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
from ffcv_gpu.loader import Loader, OrderOption


def peak_bytes() -> int:
    """Return the most memory that was resident: pages of mapped files count, the page cache does not."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    path, order, limit = sys.argv[1], OrderOption[sys.argv[2]], int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    crop = [CenterCropRGBImageDecoder((32, 32), 32 / 512)]
    pipelines = {"image": crop, "label": [IntDecoder()]}
    loader = Loader(path, 64, order=order, seed=0, os_cache=False, drop_last=False, pipelines=pipelines)
    seen = np.zeros(len(loader.dataset), np.int64)
    start = time.perf_counter()
    for images, labels in loader:
        np.add.at(seen, labels[:, 0], 1)
        assert images.shape[1:] == (32, 32, 3) and images[0].std() > 10
    seconds = time.perf_counter() - start
    assert (seen == 1).all()
    stages = {name: round(stage.seconds, 1) for name, stage in loader.stats().stages.items()}
    direct = loader.dataset.reader.file.direct
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes(), "direct": direct, "stages": stages}))


if __name__ == "__main__":
    main()
