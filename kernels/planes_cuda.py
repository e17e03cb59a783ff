"""The fused kernel for planes Y, Cb and Cr, each at its own resolution; see `bodies_cuda` for how it works.

A thread computes its strip of one plane after the other, so that it needs registers for one plane only, and
keeps the results in shared memory. After the third plane it converts the pixels, and continues as for
interleaved ones. Chroma is sampled at the output pixel's position on its own plane; no plane is enlarged
first.
"""

from __future__ import annotations

from numba import cuda
from numpy import float32, int32, int64, uint8, uint32

from ffcv_gpu.kernels.bodies_cuda import (
    LINE_WORDS,
    MAX_THREADS,
    NO_ROW,
    NONE,
    ZERO,
    blend_rows,
    finish_pixel,
    four,
    keep_place,
    kept_place,
    load_levels,
    look_up,
    place_of,
    rounded,
    store,
    unpack,
)
from ffcv_gpu.kernels.chroma import to_rgb
from ffcv_gpu.kernels.codes import (
    AT_BOXES,
    AT_CHROMA_COLUMNS,
    AT_CHROMA_ROWS,
    AT_COLUMNS,
    AT_GEOMETRY,
    AT_ROWS,
    AT_STRIDES,
    AT_TABLE,
    COLUMN_KIND,
    COLUMN_OFFSET0,
    COLUMN_PITCH0,
    COLUMN_PITCH12,
    KIND_GREY,
    KIND_YCBCR,
    SETTING_OPS,
    SETTING_OUT_H,
    SETTING_OUT_W,
    SETTING_RESAMPLE,
    SHIFT_X_BITS,
    SHIFT_Y_BITS,
    TABLE_COLUMNS,
)
from ffcv_gpu.kernels.packed_cuda import memory_at
from ffcv_gpu.kernels.resample import axis_filter, frame_position

__all__ = ["STRIP_ROWS", "make_kernel"]

#: output rows per block; its three planes take 24 kB of shared memory
STRIP_ROWS = 8

LINE_ITEMS = 2 * STRIP_ROWS * int(LINE_WORDS)
PLANE_SIZE = STRIP_ROWS * MAX_THREADS
NEUTRAL = float32(128.0)


def make_kernel(antialias, coloured, dtype):
    """Return the kernel, a plain function for `cuda.jit`. It skips interleaved samples.

    Parameters and grid are those of `pixels_cuda.make_kernel`; the output has three channels.
    """
    channels, entries, staged, itemsize = 3, 256 * 3, 3 * PLANE_SIZE, dtype(0).itemsize

    def compose_planes(memory, block, out):
        words, longs, reals = memory_at(block, int32), memory_at(block, int64), memory_at(block, float32)
        pixels = memory_at(memory, uint8)
        levels = cuda.shared.array(entries, uint32)
        lines = cuda.shared.array(LINE_ITEMS, int32)
        stage = cuda.shared.array(staged, float32)
        thread = int32(cuda.threadIdx.x)
        n, first = int32(cuda.blockIdx.x), int32(cuda.blockIdx.y * STRIP_ROWS)
        record, strides = words[AT_TABLE] // 2 + TABLE_COLUMNS * n, words[AT_STRIDES] // 2
        source = int32(longs[uint32(record + COLUMN_KIND)])
        if source & KIND_YCBCR == 0:
            return
        load_levels(words, entries, thread, cuda.blockDim.x, levels)
        out_h, out_w, ops = words[SETTING_OUT_H], words[SETTING_OUT_W], words[SETTING_OPS]
        box_y, box_x, h, w = four(words, words[AT_BOXES] + 4 * n)
        sign_y, shift_y, sign_x, shift_x = four(words, words[AT_GEOMETRY] + 4 * n)
        kind = int32(axis_filter(words[SETTING_RESAMPLE], h, w, out_h, out_w))
        grey, last = source & KIND_GREY != 0, min(int32(first + STRIP_ROWS), out_h)
        # rows of luma, then rows of chroma
        y, of_chroma = int32(first + thread % STRIP_ROWS), thread >= STRIP_ROWS
        if thread < (STRIP_ROWS if grey else 2 * STRIP_ROWS) and y < out_h:
            i = int32(frame_position(y, sign_y, shift_y, out_h))
            shown, taps = unpack(words, words[AT_ROWS] + n * out_h + y)
            start, taps = unpack(words, words[AT_CHROMA_ROWS if of_chroma else AT_ROWS] + n * out_h + y)
            halved = source >> SHIFT_Y_BITS & 3 if of_chroma else ZERO
            origin = box_y if of_chroma else ZERO
            line = place_of(antialias, kind, i, origin, h, out_h, halved, shown, start, taps)
            keep_place(line, thread, lines)
        at = thread
        while at < staged:
            stage[at] = NEUTRAL
            at += int32(MAX_THREADS)
        cuda.syncthreads()
        x = int32(cuda.blockIdx.z * cuda.blockDim.x + thread)
        if x >= out_w:
            return

        i = int32(frame_position(x, sign_x, shift_x, out_w))
        for plane in range(1 if grey else 3):
            of_chroma = plane > 0
            shown, taps = unpack(words, words[AT_COLUMNS] + n * out_w + x)
            start, taps = unpack(words, words[AT_CHROMA_COLUMNS if of_chroma else AT_COLUMNS] + n * out_w + x)
            halved = source >> SHIFT_X_BITS & 3 if of_chroma else ZERO
            origin = box_x if of_chroma else ZERO
            column = place_of(antialias, kind, i, origin, w, out_w, halved, shown, start, taps)
            begin = longs[uint32(record + COLUMN_OFFSET0 + plane)]
            pitch = longs[uint32(record + (COLUMN_PITCH12 if of_chroma else COLUMN_PITCH0))]
            begin += 0 if of_chroma else box_y * pitch + box_x
            held, new, old = (NO_ROW, NO_ROW), (NONE, NONE, NONE, NONE), (NONE, NONE, NONE, NONE)
            at = int32(plane * PLANE_SIZE + thread)
            entry = int32(STRIP_ROWS if of_chroma else 0)
            for _ in range(first, last):
                line = kept_place(entry, lines)
                entry += int32(1)
                value, held, new, old = blend_rows(
                    pixels, begin, pitch, 1, antialias, column, line, held, new, old
                )
                stage[at] = value[0]
                at += int32(MAX_THREADS)

        step_y, step = itemsize * longs[uint32(strides + 1)], itemsize * longs[uint32(strides + 3)]
        target = n * longs[uint32(strides)] + x * longs[uint32(strides + 2)]
        target = int64(out + itemsize * target + first * step_y)
        at = thread
        for y in range(first, last):
            red, green, blue = to_rgb(stage[at], stage[at + PLANE_SIZE], stage[at + 2 * PLANE_SIZE])
            at += int32(MAX_THREADS)
            value = rounded((red, green, blue, NONE))
            if ops == 0:
                bits = look_up(levels, channels, value)
            else:
                bits = finish_pixel(words, reals, levels, n, y, x, channels, coloured, value)
            store(target, step, channels, bits, dtype)
            target = int64(target + step_y)

    return compose_planes
