"""The fused loop for most programs: interleaved pixels, and operations that only erase.

`compose_coloured_cpu` handles all operations, `compose_planes_cpu` planes. They are separate so that only
what a pipeline needs is compiled.
"""

from __future__ import annotations

import numpy as np

from ffcv_gpu.kernels._numba import body, entry
from ffcv_gpu.kernels.codes import (
    AFFINE,
    COLUMN_KIND,
    COLUMN_OFFSET0,
    COLUMN_PITCH0,
    ERASE_INSIDE,
    ERASE_OUTSIDE,
    KIND_STORED,
    OPERATION_COLUMNS,
    RESAMPLE_NEAREST,
    RESAMPLE_NONE,
)
from ffcv_gpu.kernels.frame_cpu import carve, fill_axes, make_row
from ffcv_gpu.kernels.output_cpu import erase_row, is_identity, look_up, look_up_box

__all__ = ["box_place", "check_arguments", "check_output", "compose_plain", "spread_of"]


@body
def check_arguments(table, boxes, geometry, params, ops, fills, late_from, lut, resample, lo, hi):
    """Raise ValueError if the arguments do not match each other."""
    rows = min(min(table.shape[0], boxes.shape[0]), min(geometry.shape[0], params.shape[0]))
    if lo < 0 or hi > rows:
        raise ValueError("compose: table, boxes, geometry or params have fewer rows than hi")
    if lut.shape[1] != 256 or lut.shape[0] > fills.shape[1]:
        raise ValueError("compose: lut must be (channels, 256) and fills (operations, >= channels)")
    if late_from < 0 or late_from > ops.shape[0] or ops.shape[0] > fills.shape[0]:
        raise ValueError("compose: late_from, ops and fills do not agree")
    for k in range(ops.shape[0]):
        code = ops[k, 0]
        if code < ERASE_INSIDE or code > AFFINE:
            raise ValueError("compose: unknown operation")
        if code > ERASE_OUTSIDE and k >= late_from:
            raise ValueError("compose: colour operations come before the table")
        if code > ERASE_OUTSIDE and lut.shape[0] != 1 and lut.shape[0] != 3:
            raise ValueError("compose: colour operations take 1 or 3 channels")
        if ops[k, 1] < 0 or ops[k, 1] + OPERATION_COLUMNS[code] > params.shape[1]:
            raise ValueError("compose: an operation's columns are not in params")
    if resample < RESAMPLE_NONE or resample > RESAMPLE_NEAREST:
        raise ValueError("compose: unknown filter")


@body
def check_output(out, first, last):
    """Raise ValueError if elements [first, last] are not all in `out`."""
    if first < 0 or last >= out.size:
        raise ValueError("compose: out is too small for out_strides")


@body
def spread_of(strides, out_h, out_w, channels):
    """Return the distance, in elements, from a sample's first element to its last."""
    return (out_h - 1) * strides[1] + (out_w - 1) * strides[2] + (channels - 1) * strides[3]


@body
def box_place(pixels, record, box, channels):
    """Return the first byte of a box and its pitch; raise ValueError if it lies outside `pixels`."""
    pitch = record[COLUMN_PITCH0]
    begin = record[COLUMN_OFFSET0] + box[0] * pitch + box[1] * channels
    end = begin + (box[2] - 1) * pitch + box[3] * channels
    if box[2] < 1 or box[3] < 1 or begin < 0 or pitch < 0 or end > pixels.size:
        raise ValueError("compose: a box lies outside its pixels")
    return begin, pitch


@body
def is_upright(box, geometry, out_h, out_w):
    """Return whether a box is neither resized nor moved nor mirrored."""
    moved = geometry[0] != 1 or geometry[1] != 0 or geometry[2] != 1 or geometry[3] != 0
    return box[2] == out_h and box[3] == out_w and not moved


@body
def compose_sample(
    pixels, begin, pitch, box, geometry, params, ops, fills, late_from, lut, identity, out, first,
    strides, out_h, out_w, resample, scratch,
):  # fmt: skip
    """Compute one sample; `begin` is the first byte of its box, `first` its first element in `out`."""
    channels, one = np.int64(lut.shape[0]), np.int64(1)
    early, late, late_fills = ops[:late_from], ops[late_from:], fills[late_from:]
    parts = carve(scratch, box[2], box[3], out_h, out_w, channels, resample)
    fill_axes(parts, box, geometry, channels, out_h, out_w, resample)
    for y in range(out_h):
        make_row(pixels, begin, pitch, box, channels, y, out_h, resample, parts)
        values = parts.values
        erase_row(values, one - 1, channels, one, y, out_w, channels, early, fills, params)
        at = first + y * strides[1]
        look_up(values, lut, identity, out, at, strides[2], strides[3])
        erase_row(out, at, strides[2], strides[3], y, out_w, channels, late, late_fills, params)


@entry
def compose_plain(
    decoded, stored, table, boxes, geometry, params, ops, fills, late_from, lut, out, out_strides,
    out_h, out_w, resample, scratch, lo, hi,
):  # fmt: skip
    """Compute samples [lo, hi): see `shell_cpu.compose`. Ignores kinds and codes that it does not handle."""
    channels = lut.shape[0]
    check_arguments(table, boxes, geometry, params, ops, fills, late_from, lut, resample, lo, hi)
    identity, spread = is_identity(lut), spread_of(out_strides, out_h, out_w, channels)
    interleaved = out_strides[1] == out_w * channels and out_strides[2] == channels and out_strides[3] == 1
    direct = interleaved and ops.shape[0] == 0
    for n in range(lo, hi):
        pixels = stored if table[n, COLUMN_KIND] & KIND_STORED else decoded
        box, first = boxes[n], n * out_strides[0]
        check_output(out, first, first + spread)
        begin, pitch = box_place(pixels, table[n], box, channels)
        if direct and is_upright(box, geometry[n], out_h, out_w):
            look_up_box(pixels, begin, pitch, lut, identity, out[first : first + spread + 1], out_h)
            continue
        compose_sample(
            pixels, begin, pitch, box, geometry[n], params[n], ops, fills, late_from, lut, identity, out,
            first, out_strides, out_h, out_w, resample, scratch,
        )  # fmt: skip
