"""The fused loop for interleaved pixels and any operations."""

from __future__ import annotations

import numpy as np

from ffcv_gpu.kernels._numba import body, entry, loop
from ffcv_gpu.kernels.codes import COLUMN_KIND, ERASE_OUTSIDE, KIND_STORED, KIND_YCBCR
from ffcv_gpu.kernels.color_cpu import change_row
from ffcv_gpu.kernels.compose_cpu import box_place, check_arguments, check_output, spread_of
from ffcv_gpu.kernels.frame_cpu import carve, fill_axes, make_row
from ffcv_gpu.kernels.output_cpu import erase_row, is_identity, look_up

__all__ = ["compose_coloured", "finish_row"]


@loop
def finish_row(values, params, ops, fills, late_from, lut, identity, out, at, strides, y, out_w):
    """Write one row of resampled values to the output: operations, table, operations."""
    channels, one = np.int64(lut.shape[0]), np.int64(1)
    for k in range(late_from):
        if ops[k, 0] > ERASE_OUTSIDE:
            change_row(values, channels, ops[k, 0], params[ops[k, 1] :])
        else:
            some = slice(k, k + 1)
            erase_row(values, one - 1, channels, one, y, out_w, channels, ops[some], fills[some], params)
    look_up(values, lut, identity, out, at, strides[2], strides[3])
    late = slice(late_from, ops.shape[0])
    erase_row(out, at, strides[2], strides[3], y, out_w, channels, ops[late], fills[late], params)


@body
def compose_sample(
    pixels, begin, pitch, box, geometry, params, ops, fills, late_from, lut, identity, out, first,
    strides, out_h, out_w, resample, scratch,
):  # fmt: skip
    """Compute one sample; `begin` is the first byte of its box, `first` its first element in `out`."""
    channels = np.int64(lut.shape[0])
    parts = carve(scratch, box[2], box[3], out_h, out_w, channels, resample)
    fill_axes(parts, box, geometry, channels, out_h, out_w, resample)
    for y in range(out_h):
        make_row(pixels, begin, pitch, box, channels, y, out_h, resample, parts)
        at = first + y * strides[1]
        finish_row(parts.values, params, ops, fills, late_from, lut, identity, out, at, strides, y, out_w)


@entry
def compose_coloured(
    decoded, stored, table, boxes, geometry, params, ops, fills, late_from, lut, out, out_strides,
    out_h, out_w, resample, scratch, lo, hi,
):  # fmt: skip
    """Compute samples [lo, hi): see `shell_cpu.compose`. Leaves samples in planes alone."""
    channels = lut.shape[0]
    check_arguments(table, boxes, geometry, params, ops, fills, late_from, lut, resample, lo, hi)
    identity, spread = is_identity(lut), spread_of(out_strides, out_h, out_w, channels)
    for n in range(lo, hi):
        if table[n, COLUMN_KIND] & KIND_YCBCR and channels != 1:
            continue
        pixels = stored if table[n, COLUMN_KIND] & KIND_STORED else decoded
        box, first = boxes[n], n * out_strides[0]
        check_output(out, first, first + spread)
        begin, pitch = box_place(pixels, table[n], box, channels)
        compose_sample(
            pixels, begin, pitch, box, geometry[n], params[n], ops, fills, late_from, lut, identity, out,
            first, out_strides, out_h, out_w, resample, scratch,
        )  # fmt: skip
