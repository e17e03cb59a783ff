"""One start: a new process imports what it needs, makes a loader, and says when its first batch is there.

Started as a script by `start_worker`, with one JSON object of settings; ends without tidying up.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from typing import Any

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def own_loader(path: str, batch_size: int, workers: int, side: int, container: str) -> Any:
    """Make ffcv_gpu's loader of normalised float16 images: numpy arrays, or tensors."""
    import numpy as np

    from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv_gpu.loader import Loader, OrderOption
    from ffcv_gpu.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage

    tensors = container == "tensors"
    image = [RandomResizedCropRGBImageDecoder((side, side)), RandomHorizontalFlip()]
    image += [ToTensor(), ToTorchImage()] if tensors else []
    image.append(NormalizeImage(np.array(MEAN), np.array(STD), np.float16))
    label = [IntDecoder(), *([ToTensor(), Squeeze(1)] if tensors else [])]
    return Loader(path, batch_size, num_workers=workers, order=OrderOption.RANDOM, seed=0,
                  pipelines={"image": image, "label": label})  # fmt: skip


def ffcv_loader(path: str, batch_size: int, workers: int, side: int, container: str) -> Any:
    """Make FFCV's loader of the same; it always gives tensors."""
    import numpy as np
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage

    normalize = NormalizeImage(np.array(MEAN), np.array(STD), np.float16)
    image = [RandomResizedCropRGBImageDecoder((side, side)), RandomHorizontalFlip(), normalize]
    image += [ToTensor(), ToTorchImage()]
    pipelines = {"image": image, "label": [IntDecoder(), ToTensor(), Squeeze()]}
    return Loader(path, batch_size=batch_size, num_workers=workers, order=OrderOption.RANDOM, seed=0,
                  os_cache=True, pipelines=pipelines)  # fmt: skip


LOADERS = {"ffcv_gpu": own_loader, "ffcv": ffcv_loader}


def main(library: str, **settings: Any) -> None:
    """Import `library`; if it has a loader, wait for its first batch; then say so and end."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print as they please
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
