"""The fused kernel for interleaved pixels; see `bodies_cuda` for how it works."""

from __future__ import annotations

from numba import cuda
from numpy import float32, int32, int64, uint8, uint32, uint64

from ffcv_gpu.kernels.bodies_cuda import (
    LINE_WORDS,
    MAX_THREADS,
    NO_ROW,
    NONE,
    ZERO,
    blend_rows,
    cut,
    finish_pixel,
    four,
    keep_place,
    kept_place,
    load_levels,
    look_up,
    place_of,
    rounded,
    rows_of,
    store,
    unpack,
)
from ffcv_gpu.kernels.chroma import chroma_span
from ffcv_gpu.kernels.codes import (
    AT_BOXES,
    AT_COLUMNS,
    AT_GEOMETRY,
    AT_ROWS,
    AT_STRIDES,
    AT_TABLE,
    COLUMN_KIND,
    COLUMN_OFFSET0,
    COLUMN_PITCH0,
    KIND_YCBCR,
    SETTING_OPS,
    SETTING_OUT_H,
    SETTING_OUT_W,
    SETTING_RESAMPLE,
    TABLE_COLUMNS,
)
from ffcv_gpu.kernels.packed_cuda import memory_at
from ffcv_gpu.kernels.resample import axis_filter, frame_position
from ffcv_gpu.kernels.triples_cuda import blend_triples, packed_place

__all__ = ["STRIP_ROWS", "launch_bounds", "make_kernel"]

#: output rows per block: enough that the source rows shared by two strips cost little, few enough that a
#: batch of 64 fills a large GPU (64 x 10 blocks for 224 rows). On an H200, the kernel takes 82 us with 16
#: rows, 80 with 24 and 89 with 32 (e13_kernel)
STRIP_ROWS = 24


def launch_bounds(channels, antialias):
    """Return the maximum threads per block, and how many such blocks a multiprocessor is to hold at least.

    Other warps can then run while some wait for pixels, which is where the time goes: on an H200, the kernel
    of three channels takes 104 us with 5 blocks, 93 with 6 and 82 with 8 (e13_kernel, strips of 16 rows),
    although the compiler then limits itself to 32 registers and spills 16 bytes (20 with colours; 40 for
    10.0). GPUs with room for fewer threads (7.5, 8.6, 8.9, 12.0) ignore the second number; nothing has been
    measured on them.
    """
    if channels > 3:
        return MAX_THREADS, 4
    return MAX_THREADS, 8 if channels == 3 and not antialias else 5


def make_kernel(channels, antialias, coloured, dtype, strip_rows=STRIP_ROWS):
    """Return the kernel, a plain function for `cuda.jit`. It skips samples in YCbCr planes.

    With one channel it takes their first plane.

    The arguments are compiled in; only constants are captured. The grid's axes are samples, strips of
    `strip_rows` rows, and parts of `blockDim.x` columns. The kernel takes three addresses: of the memory that
    offsets are relative to, of the launch block, and of the output.

    Parameters
    ----------
    channels : int
        1, 3 or 4.
    antialias : bool
        For RESAMPLE_ANTIALIAS; the other filters share a kernel.
    coloured : bool
        If operations may do more than erase.
    dtype : type
        uint8, uint16 or uint32: the size of an output element.
    strip_rows : int
        At most 32.
    """
    line_items = int(LINE_WORDS) * strip_rows
    entries, triples, itemsize = 256 * channels, channels == 3 and not antialias, dtype(0).itemsize

    def compose_pixels(memory, block, out):
        words, longs, reals = memory_at(block, int32), memory_at(block, int64), memory_at(block, float32)
        levels = cuda.shared.array(entries, uint32)
        lines = cuda.shared.array(line_items, int32)
        thread = int32(cuda.threadIdx.x)
        n, first = int32(cuda.blockIdx.x), int32(cuda.blockIdx.y * strip_rows)
        out_h, out_w, ops = words[SETTING_OUT_H], words[SETTING_OUT_W], words[SETTING_OPS]
        box_y, box_x, h, w = four(words, words[AT_BOXES] + 4 * n)
        sign_y, shift_y, sign_x, shift_x = four(words, words[AT_GEOMETRY] + 4 * n)
        record, strides = words[AT_TABLE] // 2 + TABLE_COLUMNS * n, words[AT_STRIDES] // 2
        if channels > 1 and int32(longs[uint32(record + COLUMN_KIND)]) & KIND_YCBCR != 0:
            return
        load_levels(words, entries, thread, cuda.blockDim.x, levels)
        kind = int32(axis_filter(words[SETTING_RESAMPLE], h, w, out_h, out_w))
        y = int32(first + thread)
        if thread < strip_rows and y < out_h:
            i = int32(frame_position(y, sign_y, shift_y, out_h))
            start, taps = unpack(words, words[AT_ROWS] + n * out_h + y)
            line = place_of(antialias, kind, i, ZERO, h, out_h, ZERO, start, start, taps)
            if triples:
                line = rows_of(line, float32(1.0) / float32(w))
            keep_place(line, thread, lines)
        cuda.syncthreads()
        x = int32(cuda.blockIdx.z * cuda.blockDim.x + thread)
        if x >= out_w:
            return

        pitch = longs[uint32(record + COLUMN_PITCH0)]
        begin = longs[uint32(record + COLUMN_OFFSET0)] + box_y * pitch + box_x * channels
        i = int32(frame_position(x, sign_x, shift_x, out_w))
        start, taps = unpack(words, words[AT_COLUMNS] + n * out_w + x)
        if triples:
            area, corner, length, unit = chroma_span(kind, i, ZERO, w, out_w, ZERO, start)
            column = packed_place(area, corner, length, unit, start, taps)
            begin, pitch = uint64(memory + begin + column[0]), uint32(pitch)
            new, old = (NONE, NONE, NONE), (NONE, NONE, NONE)
        else:
            pixels = memory_at(memory, uint8)
            column = place_of(antialias, kind, i, ZERO, w, out_w, ZERO, start, start, taps)
            new, old = (NONE, NONE, NONE, NONE), (NONE, NONE, NONE, NONE)
        step_y, step = itemsize * longs[uint32(strides + 1)], itemsize * longs[uint32(strides + 3)]
        target = n * longs[uint32(strides)] + x * longs[uint32(strides + 2)]
        target = int64(out + itemsize * target + first * step_y)
        entry, rows, held = ZERO, min(int32(out_h - first), int32(strip_rows)), (NO_ROW, NO_ROW)
        while entry < rows:
            line = kept_place(entry, lines)
            if triples:
                sums, held, new, old = blend_triples(begin, pitch, column, line, held, new, old)
                value = cut((sums[0], sums[1], sums[2], NONE))
            else:
                value, held, new, old = blend_rows(
                    pixels, begin, pitch, channels, antialias, column, line, held, new, old
                )
                value = rounded(value)
            if ops == 0:
                bits = look_up(levels, channels, value)
            else:
                bits = finish_pixel(
                    words, reals, levels, n, int32(first + entry), x, channels, coloured, value
                )
            store(target, step, channels, bits, dtype)
            target, entry = int64(target + step_y), int32(entry + 1)

    return compose_pixels
