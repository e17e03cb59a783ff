"""Run by FFCV's own Python: what its imdecode, resize_crop and centre crop make of the arrays in a file."""

import sys

import numpy as np
from ffcv.fields.rgb_image import get_center_crop
from ffcv.libffcv import imdecode, resize_crop

given = np.load(sys.argv[1])
photo = given["photo"]
height, width = photo.shape[:2]
decoded, resized = np.zeros_like(photo), np.zeros((3, *given["size"], 3), np.uint8)
status = imdecode(given["jpeg"], decoded, height, width, height, width, 0, 0, 1, 1, False, False)
for part, out in zip(given["parts"], resized, strict=True):
    resize_crop(photo, *part.tolist(), out)
centre = get_center_crop(height, width, None, 0.7)
np.savez(sys.argv[2], decoded=decoded, resized=resized, centre=centre, status=status)
