"""Run in FFCV's environment, without ffcv_gpu: reads files and saves what it read.

``read_with_ffcv.py constant.beton photos.beton shards.beton out.npz``
"""

import sys

import numpy as np
from ffcv.fields.decoders import (
    BytesDecoder,
    CenterCropRGBImageDecoder,
    FloatDecoder,
    IntDecoder,
    NDArrayDecoder,
    SimpleRGBImageDecoder,
)
from ffcv.loader import Loader, OrderOption

CONSTANT = {
    "passed": SimpleRGBImageDecoder,
    "raw": SimpleRGBImageDecoder,
    "encoded": SimpleRGBImageDecoder,
    "mixed": SimpleRGBImageDecoder,
    "smart": SimpleRGBImageDecoder,
    "auto": SimpleRGBImageDecoder,
    "label": IntDecoder,
    "score": FloatDecoder,
    "array": NDArrayDecoder,
    "tensor": NDArrayDecoder,
    "doc": BytesDecoder,
    "text": BytesDecoder,
}
PHOTOS = {"photo": lambda: CenterCropRGBImageDecoder((64, 64), ratio=1), "label": IntDecoder}


SHARDS = {"data": NDArrayDecoder, "n0": IntDecoder}  # the others by their own decoders


def main(constant, photos, shards, out):
    found = {}
    files = (
        ("constant", constant, CONSTANT, 4),
        ("photos", photos, PHOTOS, 4),
        ("shards", shards, SHARDS, 1000),
    )
    for name, path, decoders, batch_size in files:
        for order in OrderOption:
            for os_cache in (True, False):
                pipelines = {field: [make()] for field, make in decoders.items()}
                loader = Loader(path, batch_size=batch_size, num_workers=1, order=order, os_cache=os_cache,
                                drop_last=False, pipelines=pipelines, seed=1)  # fmt: skip
                batches = [[np.array(value) for value in batch] for batch in loader]
                for k, field in enumerate(decoders):
                    values = np.concatenate([batch[k] for batch in batches])
                    found[f"{name}/{order.name}/{os_cache}/{field}"] = values
    np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
