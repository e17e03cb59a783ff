"""One image put through a field, for the tests of `RGBImageField`."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ffcv_gpu.jpeg.facts import scan_jpeg

JPEG, RAW = 0, 1


class Stored:
    """One image put through a field's `encode_sample`."""

    def __init__(self, field, value, index=0):
        row, self.payload = np.zeros(1, field.metadata_type), None

        def malloc(size):
            assert self.payload is None, "one payload for each image"
            self.payload = np.full(size, 99, np.uint8)
            return 4321, self.payload

        self.note = field.encode_sample(index, row, value, malloc)
        self.mode, width, height, pointer = row[0].item()
        self.size = height, width
        self.data = self.payload.tobytes()
        assert pointer == 4321
        subsampling, encoding, self.components, self.orientation, self.flags = self.note.facts
        if self.mode == JPEG:
            header = scan_jpeg(self.data)
            assert (header.height, header.width) == self.size
            assert (header.subsampling, header.encoding, header.components) == (
                subsampling, encoding, self.components
            )  # fmt: skip
            assert (self.flags & 31) == header.flags
        else:
            assert encoding == 0 and self.payload.size == height * width * 3

    @property
    def pixels(self):
        if self.mode == RAW:
            return self.payload.reshape(*self.size, 3)
        return np.asarray(Image.open(io.BytesIO(self.data)).convert("RGB"))


def png(pixels, **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))
