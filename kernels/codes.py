"""The numbers that the kernels and their callers agree on. Imports nothing."""

__all__ = [
    "COLUMN_HEIGHT",
    "COLUMN_KIND",
    "COLUMN_OFFSET0",
    "COLUMN_OFFSET1",
    "COLUMN_OFFSET2",
    "COLUMN_PITCH0",
    "COLUMN_PITCH12",
    "COLUMN_WIDTH",
    "ERASE_INSIDE",
    "ERASE_OUTSIDE",
    "KIND_DECODED",
    "KIND_STORED",
    "RESAMPLE_ANTIALIAS",
    "RESAMPLE_AREA",
    "RESAMPLE_NEAREST",
    "RESAMPLE_NONE",
    "TABLE_COLUMNS",
    "max_taps",
    "padded",
    "scratch_size",
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

# Values of COLUMN_KIND: which memory holds the interleaved pixels.
KIND_DECODED = 0
KIND_STORED = 1

# Codes of operations on rectangles of the output.
ERASE_INSIDE = 1
ERASE_OUTSIDE = 2

# Filters.
RESAMPLE_NONE = 0
RESAMPLE_AREA = 1
RESAMPLE_ANTIALIAS = 2
RESAMPLE_NEAREST = 3

# Each part of the scratch memory starts a whole number of cache lines after the first, and ends with
# room for the lanes that a vector load reads and nobody uses.
SCRATCH_ALIGNMENT = 16
SCRATCH_MARGIN = 8


def max_taps(size: int, out_size: int) -> int:
    """Return how many source pixels one output pixel can depend on along one axis, for any filter.

    That is the number of pixel centres under a triangle two output pixels wide, or two source pixels if
    those are larger.

    Parameters
    ----------
    size, out_size : int
        Pixels of the crop and of the output along the axis.
    """
    return min(size, (2 * max(size, out_size) + out_size - 1) // out_size)


def padded(floats: int) -> int:
    """Return the length of a part of the scratch memory, in float32, that has to hold so many."""
    return (floats + SCRATCH_MARGIN + SCRATCH_ALIGNMENT - 1) // SCRATCH_ALIGNMENT * SCRATCH_ALIGNMENT


def scratch_size(max_box_h: int, max_box_w: int, out_h: int, out_w: int, channels: int) -> int:
    """Return how many float32 of scratch memory `shell_cpu.compose` needs.

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
    columns = padded(out_w) + padded(out_w * max_taps(max_box_w, out_w))
    return line + rows + columns + padded(out_h) + padded(out_h * max_taps(max_box_h, out_h))
