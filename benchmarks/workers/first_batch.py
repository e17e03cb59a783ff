"""One start: a new process imports what it needs, makes a loader, and reports its first batch.

A script started by `start_worker` with one JSON object of settings; exits without cleaning up.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from typing import Any

from pipelines import ours, theirs


def own_loader(path: str, batch_size: int, workers: int, side: int, container: str) -> Any:
    """Return ffcv_gpu's loader of normalised float16 images: NumPy arrays, or tensors."""
    import numpy as np

    from ffcv_gpu.loader import Loader, OrderOption

    pipelines = ours(side, np.float16, tensors=container == "tensors")
    return Loader(path, batch_size, num_workers=workers, order=OrderOption.RANDOM, seed=0,
                  pipelines=pipelines)  # fmt: skip


def ffcv_loader(path: str, batch_size: int, workers: int, side: int, container: str) -> Any:
    """Return FFCV's loader of the same; it always yields tensors."""
    import numpy as np
    from ffcv.loader import Loader, OrderOption

    return Loader(path, batch_size=batch_size, num_workers=workers, order=OrderOption.RANDOM, seed=0,
                  os_cache=True, pipelines=theirs(side, np.float16))  # fmt: skip


LOADERS = {"ffcv_gpu": own_loader, "ffcv": ffcv_loader}


def main(library: str, **settings: Any) -> None:
    """Import `library`; if it has a loader, wait for its first batch; then report and exit."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print to stdout
    shape: tuple[int, ...] = ()
    if library in LOADERS:
        images, _ = next(iter(LOADERS[library](**settings)))
        shape = tuple(images.shape)
    else:
        importlib.import_module(library)
    used = resource.getrusage(resource.RUSAGE_SELF)
    answers.write(json.dumps({"shape": shape, "cpu_seconds": used.ru_utime + used.ru_stime}) + "\n")
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
