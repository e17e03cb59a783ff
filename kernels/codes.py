"""The numbers that the kernels and their callers agree on. Imports nothing."""

__all__ = [
    "AFFINE",
    "AT_BOXES",
    "AT_CHROMA_COLUMNS",
    "AT_CHROMA_ROWS",
    "AT_COLUMNS",
    "AT_FILLS",
    "AT_GEOMETRY",
    "AT_LUT",
    "AT_OPS",
    "AT_PARAMS",
    "AT_ROWS",
    "AT_STRIDES",
    "AT_TABLE",
    "BRIGHTNESS",
    "COLUMN_HEIGHT",
    "COLUMN_KIND",
    "COLUMN_OFFSET0",
    "COLUMN_OFFSET1",
    "COLUMN_OFFSET2",
    "COLUMN_PITCH0",
    "COLUMN_PITCH12",
    "COLUMN_WIDTH",
    "CONTRAST",
    "ERASE_INSIDE",
    "ERASE_OUTSIDE",
    "GRAYSCALE",
    "HUE",
    "KIND_DECODED",
    "KIND_GREY",
    "KIND_STORED",
    "KIND_YCBCR",
    "MIX",
    "OPERATION_COLUMNS",
    "POSTERIZE",
    "RESAMPLE_ANTIALIAS",
    "RESAMPLE_AREA",
    "RESAMPLE_NEAREST",
    "RESAMPLE_NONE",
    "SATURATION",
    "SETTING_LATE_FROM",
    "SETTING_OPS",
    "SETTING_OUT_H",
    "SETTING_OUT_W",
    "SETTING_PARAMS",
    "SETTING_RESAMPLE",
    "SHIFT_X_BITS",
    "SHIFT_Y_BITS",
    "SOLARIZE",
    "TABLE_COLUMNS",
    "chroma_side",
    "max_taps",
    "padded",
    "scratch_size",
    "ycbcr_kind",
]

# Columns of a pixel table, int64 (N, TABLE_COLUMNS): where the pixels of each sample of a batch lie.
# Offsets and pitches in bytes, sizes in pixels. The second and third plane are for planar images.
COLUMN_KIND = 0
COLUMN_OFFSET0 = 1
COLUMN_OFFSET1 = 2
COLUMN_OFFSET2 = 3
COLUMN_PITCH0 = 4
COLUMN_PITCH12 = 5
COLUMN_HEIGHT = 6
COLUMN_WIDTH = 7
TABLE_COLUMNS = 8

# Values of COLUMN_KIND: which memory holds the pixels (a CPU has two, a GPU one), and in which form.
# Interleaved is the default. Planes are JPEG's Y, Cb and Cr, all in the same memory; each side of the
# chroma planes is the image's divided by a power of two, rounded up; two bits hold the exponent.
KIND_DECODED = 0
KIND_STORED = 1
KIND_YCBCR = 2
KIND_GREY = 4  # with KIND_YCBCR: only the first plane exists, chroma is 128
SHIFT_Y_BITS = 8
SHIFT_X_BITS = 10

# Codes of operations, and their parameter columns.
#   ERASE_*     y0 x0 y1 x1, half open, in output pixels: a rectangle, or everything else, becomes one colour
#   BRIGHTNESS  factor
#   CONTRAST    factor; mean of the grey version of the image at this point, or any other pivot
#   SATURATION  factor
#   HUE         shift in turns, -0.5 to 0.5
#   GRAYSCALE   1 to convert the sample, 0 to leave it
#   SOLARIZE    threshold: values at or above it are inverted; 256 inverts none
#   POSTERIZE   bits kept; 8 keeps all
#   AFFINE      scale r, g, b, then offset r, g, b (autocontrast)
# Erasing may come before the table or after it, everything else only before. Factor 1, shift 0, and scale 1
# with offset 0 leave a sample unchanged, bit for bit.
ERASE_INSIDE = 1
ERASE_OUTSIDE = 2
BRIGHTNESS = 3
CONTRAST = 4
SATURATION = 5
HUE = 6
GRAYSCALE = 7
SOLARIZE = 8
POSTERIZE = 9
AFFINE = 10
MIX = 11  # reserved
OPERATION_COLUMNS = (0, 4, 4, 1, 2, 1, 1, 1, 1, 1, 6)

# Numbers at the start of a launch block, int32: what is the same for all samples, then where each other part
# of the block begins, in words of 32 bits from its first. The order of the parts is that of `block.Block`.
SETTING_LATE_FROM = 0
SETTING_RESAMPLE = 1
SETTING_OUT_H = 2
SETTING_OUT_W = 3
SETTING_OPS = 4
SETTING_PARAMS = 5
AT_TABLE = 6
AT_STRIDES = 7
AT_BOXES = 8
AT_GEOMETRY = 9
AT_OPS = 10
AT_FILLS = 11
AT_LUT = 12
AT_PARAMS = 13
AT_ROWS = 14
AT_COLUMNS = 15
AT_CHROMA_ROWS = 16
AT_CHROMA_COLUMNS = 17

# Filters.
RESAMPLE_NONE = 0
RESAMPLE_AREA = 1
RESAMPLE_ANTIALIAS = 2
RESAMPLE_NEAREST = 3

# Each part of the scratch memory starts a whole number of cache lines after the first, and ends with
# padding for the lanes that a vector load reads but does not use.
SCRATCH_ALIGNMENT = 16
SCRATCH_MARGIN = 8


def max_taps(size: int, out_size: int) -> int:
    """Return the maximum number of source pixels per output pixel along one axis, for any filter.

    That is the number of pixel centres under a triangle two output pixels wide, or two source pixels if
    those are larger.

    Parameters
    ----------
    size, out_size : int
        Pixels of the crop and of the output along the axis.
    """
    return min(size, (2 * max(size, out_size) + out_size - 1) // out_size)


def padded(floats: int) -> int:
    """Return the padded length, in float32, of a part of the scratch memory that holds `floats` values."""
    return (floats + SCRATCH_MARGIN + SCRATCH_ALIGNMENT - 1) // SCRATCH_ALIGNMENT * SCRATCH_ALIGNMENT


def scratch_size(max_box_h: int, max_box_w: int, out_h: int, out_w: int, channels: int) -> int:
    """Return the number of float32 of scratch memory that `shell_cpu.compose` needs.

    Parameters
    ----------
    max_box_h, max_box_w : int
        Height and width of the tallest and of the widest box, in pixels.
    out_h, out_w : int
        Size of the output in pixels.
    channels : int
    """
    line = padded(max_box_w * channels)
    rows = 3 * padded(out_w * channels)  # two resampled along x, one finished
    taps_y, taps_x = max_taps(max_box_h, out_h), max_taps(max_box_w, out_w)
    axes = padded(out_w) + padded(out_w * taps_x) + padded(out_h) + padded(out_h * taps_y)
    if channels == 3:
        # Chroma planes have their own tables; upsampling reaches a second pixel even for a one-pixel box. The
        # rows of three planes and a finished one need slightly more than interleaved rows.
        rows += padded(out_w)
        axes += padded(out_w) + padded(out_w * max(taps_x, 2))
        axes += padded(out_h) + padded(out_h * max(taps_y, 2))
    return line + rows + axes


def chroma_side(side: int, shift: int) -> int:
    """Return the length of a chroma plane's side for an image side of `side` pixels."""
    return (side + (1 << shift) - 1) >> shift


def ycbcr_kind(shift_y: int, shift_x: int) -> int:
    """Return the COLUMN_KIND of a decoded image in planes Y, Cb, Cr.

    Parameters
    ----------
    shift_y, shift_x : int
        0 to 3: chroma planes have one pixel per ``2 ** shift`` image pixels along the axis (4:2:0: 1, 1;
        4:2:2: 0, 1; 4:4:0: 1, 0; 4:1:1: 0, 2).
    """
    if not (0 <= shift_y <= 3 and 0 <= shift_x <= 3):
        raise ValueError(f"ycbcr_kind: shifts must be 0 to 3, not {shift_y}, {shift_x}")
    return KIND_YCBCR | shift_y << SHIFT_Y_BITS | shift_x << SHIFT_X_BITS
