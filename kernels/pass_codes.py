"""The launches that need more than the pixel itself, and their parameters. Imports nothing.

All work on uint8 images (N, H, W, C). Neutral parameters leave a sample's bytes unchanged.

===========  ==================================================  ======================================
launch       parameters of a sample, float32                     arrays for all samples
===========  ==================================================  ======================================
PASS_PAD     none: sizes are in the pixel table                  none
PASS_BLUR    weights of 2 r + 1 pixels; neutral: 1 in the middle none
PASS_SHARPEN share of the difference to the blurred image        none
             that is added; neutral: 0
PASS_WARP    xx, xy, x0, yx, yy, y0: output pixel (x, y) shows   fill, uint8 (C,)
             source pixel (xx x + xy y + x0, yx x + yy y + y0),
             both from the centre of the image; neutral:
             1, 0, 0, 0, 1, 0
PASS_REMAP   REMAP_NONE, REMAP_STRETCH or REMAP_EQUALIZE         none
PASS_BLEND   1: the sample is blended; neutral: 0                keep and add, float32 (H, W, C), and
                                                                 float32 (2,): lowest, highest value
===========  ==================================================  ======================================
"""

__all__ = [
    "IN_PLACE",
    "PASS_BLEND",
    "PASS_BLUR",
    "PASS_PAD",
    "PASS_REMAP",
    "PASS_SHARPEN",
    "PASS_WARP",
    "REMAP_EQUALIZE",
    "REMAP_NONE",
    "REMAP_STRETCH",
]

PASS_PAD = 1
PASS_BLUR = 2
PASS_SHARPEN = 3
PASS_WARP = 4
PASS_REMAP = 5
PASS_BLEND = 6

# What PASS_REMAP does to a channel: nothing, stretch its range to 0-255, equalise its histogram.
REMAP_NONE = 0
REMAP_STRETCH = 1
REMAP_EQUALIZE = 2

#: launches that modify their input in place; all others write to other memory
IN_PLACE = frozenset({PASS_REMAP, PASS_BLEND})
