"""The fused kernel for interleaved pixels; see `bodies_cuda` for how it works."""

from __future__ import annotations

from numba import cuda
from numpy import float32, int32, uint32

from ffcv_gpu.kernels.bodies_cuda import (
    NO_ROW,
    NONE,
    ZERO,
    blend_rows,
    finish_pixel,
    four,
    keep_place,
    kept_place,
    load_levels,
    place_of,
    unpack,
)
from ffcv_gpu.kernels.codes import COLUMN_KIND, COLUMN_OFFSET0, COLUMN_PITCH0, KIND_YCBCR, TABLE_COLUMNS
from ffcv_gpu.kernels.resample import axis_filter, frame_position

__all__ = ["STRIP_ROWS", "make_kernel"]

#: output rows of a block: enough that the row which two strips share costs little, few enough that a batch
#: of 64 fills a large GPU (64 x 14 blocks for 224 rows)
STRIP_ROWS = 16

SPAN_ITEMS, WEIGHT_ITEMS = 2 * STRIP_ROWS, 3 * STRIP_ROWS


def make_kernel(channels, antialias, coloured):
    """Return the kernel, a plain function for `cuda.jit`. Samples in YCbCr planes are left alone.

    With one channel it takes their first plane.

    The arguments are compiled in; constants, and nothing else, are captured. Blocks are samples, strips of
    `STRIP_ROWS` rows, parts of `blockDim.x` columns.

    Parameters
    ----------
    channels : int
        1, 3 or 4.
    antialias : bool
        For RESAMPLE_ANTIALIAS; the other filters share a kernel.
    coloured : bool
        If operations may do more than erase.
    """
    entries = 256 * channels

    def compose_pixels(
        pixels, longs, words, reals, out, table, strides, settings, boxes, geometry, ops, fills, lut, params,
        rows, columns, chroma_rows, chroma_columns, op_count, param_count, out_h, out_w,
    ):  # fmt: skip
        levels = cuda.shared.array(entries, uint32)
        spans = cuda.shared.array(SPAN_ITEMS, int32)
        weights = cuda.shared.array(WEIGHT_ITEMS, float32)
        thread = int32(cuda.threadIdx.x)
        n, first = int32(cuda.blockIdx.x), int32(cuda.blockIdx.y * STRIP_ROWS)
        record = table + TABLE_COLUMNS * n
        if channels > 1 and int32(longs[uint32(record + COLUMN_KIND)]) & KIND_YCBCR != 0:
            return
        load_levels(words, lut, entries, thread, cuda.blockDim.x, levels)
        box_y, box_x, h, w = four(words, boxes + 4 * n)
        sign_y, shift_y, sign_x, shift_x = four(words, geometry + 4 * n)
        kind = int32(axis_filter(words[uint32(settings + 1)], h, w, out_h, out_w))
        y = int32(first + thread)
        if thread < STRIP_ROWS and y < out_h:
            i = int32(frame_position(y, sign_y, shift_y, out_h))
            start, taps = unpack(words, rows + n * out_h + y)
            line = place_of(antialias, kind, i, ZERO, h, out_h, ZERO, start, start, taps)
            keep_place(line, thread, spans, weights)
        cuda.syncthreads()
        x = int32(cuda.blockIdx.z * cuda.blockDim.x + thread)
        if x >= out_w:
            return

        i = int32(frame_position(x, sign_x, shift_x, out_w))
        start, taps = unpack(words, columns + n * out_w + x)
        column = place_of(antialias, kind, i, ZERO, w, out_w, ZERO, start, start, taps)
        pitch = longs[uint32(record + COLUMN_PITCH0)]
        begin = longs[uint32(record + COLUMN_OFFSET0)] + box_y * pitch + box_x * channels
        target = n * longs[uint32(strides)] + x * longs[uint32(strides + 2)]
        late_from, own = words[uint32(settings)], params + n * param_count
        held, new, old = (NO_ROW, NO_ROW), (NONE, NONE, NONE, NONE), (NONE, NONE, NONE, NONE)
        for y in range(first, min(int32(first + STRIP_ROWS), out_h)):
            line = kept_place(int32(y - first), spans, weights)
            value, held, new, old = blend_rows(
                pixels, begin, pitch, channels, antialias, column, line, held, new, old
            )
            finish_pixel(
                words, reals, out, levels, ops, fills, own, late_from, op_count, y, x, out_w, channels,
                coloured, target + y * longs[uint32(strides + 1)], longs[uint32(strides + 3)], value,
            )  # fmt: skip

    return compose_pixels
