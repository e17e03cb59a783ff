"""Loads a file of ints ("label") and of rows of bytes ("row") by the pipelines that people write for FFCV.

The same text runs with FFCV, and with the import renamed; it prints what came out as one line of JSON.
``pipelines_of_ffcv.py file.beton``
"""

import json
import sys

import torch
from ffcv.fields.decoders import IntDecoder, NDArrayDecoder
from ffcv.loader import Loader
from ffcv.pipeline.pipeline_spec import PipelineSpec
from ffcv.transforms import Squeeze, ToTensor, View


def appended():
    """Steps that are appended to a spec before the Loader is made."""
    spec = PipelineSpec("label", IntDecoder())
    spec.transforms.append(ToTensor())
    return spec


PIPELINES = {
    "left out": dict,
    "empty": lambda: {"label": [], "row": PipelineSpec("row")},
    "only a decoder": lambda: {"label": [IntDecoder()], "row": PipelineSpec("row", NDArrayDecoder())},
    "a decoder in transforms": lambda: {
        "label": PipelineSpec("label", transforms=[IntDecoder(), ToTensor()]),
        "row": PipelineSpec("row", decoder=None, transforms=[NDArrayDecoder(), ToTensor()]),
    },
    "appended": lambda: {"label": appended(), "row": None},
    "a second output": lambda: {"more": PipelineSpec("label"), "row": None},
    "views": lambda: {
        "label": [IntDecoder(), ToTensor(), View(torch.int32)],
        "row": [NDArrayDecoder(), ToTensor(), View(torch.float32)],
    },
    "squeezed": lambda: {"label": [IntDecoder(), ToTensor(), View(torch.int64), Squeeze([1])], "row": None},
}


def shown(batch):
    """Each value's class, type, shape and bytes."""
    arrays = [(type(value).__name__, torch.as_tensor(value)) for value in batch]
    return [
        [kind, str(value.dtype), list(value.shape), value.numpy().tobytes().hex()] for kind, value in arrays
    ]


def main(path):
    found = {}
    for name, make in PIPELINES.items():
        loader = Loader(path, batch_size=4, num_workers=1, pipelines=make())
        specs = loader.pipeline_specs
        found[name] = [
            shown(next(iter(loader))),
            {key: [spec.default_pipeline, str(type(spec.transforms))] for key, spec in specs.items()},
        ]
    # appended too late: FFCV's code is already made
    specs["label"].transforms.append(View(torch.int32))
    loader.generate_code()
    found["too late"] = shown(next(iter(loader)))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
