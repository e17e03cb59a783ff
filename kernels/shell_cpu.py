"""What Python calls on a CPU: `compose` makes finished samples out of pixels, `gather` copies payloads.

Serial loops over samples [lo, hi), without the GIL; the loader's threads share a batch between them.
Nothing is allocated: what a sample needs on the way lies in `scratch`.
"""

from __future__ import annotations

import numpy as np

from ffcv_gpu.kernels._numba import body, entry, loop
from ffcv_gpu.kernels.codes import (
    AFFINE,
    COLUMN_KIND,
    COLUMN_OFFSET0,
    COLUMN_OFFSET2,
    COLUMN_PITCH0,
    ERASE_INSIDE,
    ERASE_OUTSIDE,
    KIND_GREY,
    KIND_STORED,
    KIND_YCBCR,
    OPERATION_COLUMNS,
    RESAMPLE_NEAREST,
    RESAMPLE_NONE,
    scratch_size,
)
from ffcv_gpu.kernels.color_cpu import change_row
from ffcv_gpu.kernels.frame_cpu import carve, fill_axes, make_row, part_size
from ffcv_gpu.kernels.output_cpu import erase_row, is_identity, look_up
from ffcv_gpu.kernels.planes_cpu import carve_planes, check_planes, make_planes_row

__all__ = ["compose", "gather", "scratch_size"]


@body
def check_arguments(rows, ops, fills, params, late_from, lut, resample, lo, hi):
    """Raise ValueError if the arguments do not fit each other; `rows` is what the smallest of them has."""
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
def check_memory(pixels, begin, pitch, box, channels, out, first, last):
    """Raise ValueError if a sample would be read or written outside the memory given."""
    check_output(out, first, last)
    end = begin + (box[2] - 1) * pitch + box[3] * channels
    if box[2] < 1 or box[3] < 1 or begin < 0 or pitch < 0 or end > pixels.size:
        raise ValueError("compose: a box lies outside its pixels")


@body
def finish_row(
    values, params, ops, fills, late_from, lut, identity, out, at, strides, y, out_w
):  # fmt: skip
    """Take one row of resampled values to the output: operations, table, operations."""
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
    """Make one sample; `begin` is the first byte of its box, `first` its first element of `out`."""
    channels = np.int64(lut.shape[0])
    parts = carve(scratch, box[2], box[3], out_h, out_w, channels, resample)
    fill_axes(parts, box, geometry, channels, out_h, out_w, resample)
    for y in range(out_h):
        make_row(pixels, begin, pitch, box, channels, y, out_h, resample, parts)
        at = first + y * strides[1]
        finish_row(parts.values, params, ops, fills, late_from, lut, identity, out, at, strides, y, out_w)


@loop
def compose_planes(
    pixels, record, box, geometry, params, ops, fills, late_from, lut, identity, out, first, strides,
    out_h, out_w, resample, scratch,
):  # fmt: skip
    """Make one sample out of the planes Y, Cb and Cr that `record`, its row of the table, points to."""
    check_planes(pixels, record, box, out_h, out_w)
    line_end = part_size(3 * box[3])
    rows_end = line_end + 3 * part_size(out_w)
    values_end = rows_end + part_size(out_w)
    if values_end > scratch.size:
        raise ValueError("compose: scratch is too small; ask scratch_size()")
    line, rows = scratch[:line_end], scratch[line_end:rows_end]
    values = scratch[rows_end:values_end].view(np.uint8)[: 3 * out_w]
    luma, chroma = carve_planes(scratch[values_end:], record, box, geometry, out_h, out_w, resample)
    red_begin, grey = record[COLUMN_OFFSET2], record[COLUMN_KIND] & KIND_GREY != 0
    for y in range(out_h):
        make_planes_row(pixels, luma, chroma, red_begin, grey, y, out_h, line, rows, values)
        at = first + y * strides[1]
        finish_row(values, params, ops, fills, late_from, lut, identity, out, at, strides, y, out_w)


@entry
def compose(
    decoded, stored, table, boxes, geometry, params, ops, fills, late_from, lut, out, out_strides,
    out_h, out_w, resample, scratch, lo, hi,
):  # fmt: skip
    """Crop, resample, mirror, shift, erase, colour and look up samples [lo, hi), and write them to `out`.

    Per sample: the box is resampled to a frame of (out_h, out_w); the output shows the frame where
    `geometry` says; values are rounded to uint8; operations before `late_from` overwrite rectangles or
    change colours, one after the other, to uint8 again; each value is replaced by `lut[channel, value]`; the
    other operations overwrite rectangles.

    Parameters
    ----------
    decoded, stored : uint8 (bytes,), C-contiguous, read-only
        The two memories that hold pixels, a byte per channel: interleaved, or planes Y, Cb, Cr. One
        specialisation serves if both are views with ``writeable=False``.
    table : int64 (N, 8)
        Where each sample's pixels lie; columns as in `codes`.
    boxes : int32 (N, 4)
        y, x, height, width of the crop in source pixels.
    geometry : int32 (N, 4)
        sign_y, shift_y, sign_x, shift_x: output pixel (y, x) shows frame pixel
        (sign_y * y + shift_y, sign_x * x + shift_x), clamped to the frame.
    params : float32 (N, P)
    ops : int32 (K, 2)
        Code and first column in `params`; `codes` says which columns each takes.
    fills : uint32 (K, 4)
        Value per channel: grey level, or from `late_from` on the bits of the output dtype.
    late_from : int
        Operations from this index on act after the table.
    lut : uint8, uint16 or uint32 (C, 256)
        Bits of the output value for each value of each channel; its length is the number of channels.
    out : dtype of `lut`, 1-D, C-contiguous
        Only the elements of samples [lo, hi) are written.
    out_strides : int64 (4,)
        Elements from one sample, row, column and channel to the next.
    out_h, out_w : int
    resample : int
        RESAMPLE_NONE (box and output are of one size), RESAMPLE_AREA (cv2.INTER_AREA, within 1 grey level),
        RESAMPLE_ANTIALIAS (Pillow's and torchvision's antialiased bilinear of the crop, within 1),
        RESAMPLE_NEAREST (cv2.INTER_NEAREST).
    scratch : float32 (>= scratch_size(...),)
        Used by this call alone.
    lo, hi : int

    Raises
    ------
    ValueError
        If an argument does not fit the others, or a box, `out_strides` or `scratch` the memory given;
        samples before it are written.
    """
    channels = lut.shape[0]
    rows = min(min(table.shape[0], boxes.shape[0]), min(geometry.shape[0], params.shape[0]))
    check_arguments(rows, ops, fills, params, late_from, lut, resample, lo, hi)
    identity = is_identity(lut)
    last_y, last_x = (out_h - 1) * out_strides[1], (out_w - 1) * out_strides[2]
    spread = last_y + last_x + (channels - 1) * out_strides[3]
    for n in range(lo, hi):
        pixels = stored if table[n, COLUMN_KIND] & KIND_STORED else decoded
        box = boxes[n]
        if table[n, COLUMN_KIND] & KIND_YCBCR and channels != 1:
            if channels != 3:
                raise ValueError("compose: an image in planes has 3 channels, or 1")
            check_output(out, n * out_strides[0], n * out_strides[0] + spread)
            compose_planes(
                pixels, table[n], box, geometry[n], params[n], ops, fills, late_from, lut, identity, out,
                n * out_strides[0], out_strides, out_h, out_w, resample, scratch,
            )  # fmt: skip
            continue
        pitch = table[n, COLUMN_PITCH0]
        begin = table[n, COLUMN_OFFSET0] + box[0] * pitch + box[1] * channels
        first = n * out_strides[0]
        check_memory(pixels, begin, pitch, box, channels, out, first, first + spread)
        compose_sample(
            pixels, begin, pitch, box, geometry[n], params[n], ops, fills, late_from, lut, identity, out,
            first, out_strides, out_h, out_w, resample, scratch,
        )  # fmt: skip


@entry
def gather(stored, offsets, lengths, out, lo, hi):
    """Copy payloads [lo, hi) to rows of equal length; what is left of a row is zeroed.

    Parameters
    ----------
    stored : uint8 (bytes,), C-contiguous, read-only
    offsets, lengths : int64 (N,)
        Bytes of `stored`.
    out : uint8 (N, width)

    Raises
    ------
    ValueError
        If a payload lies outside `stored` or is longer than a row; rows before it are written.
    """
    for n in range(lo, hi):
        begin, length = offsets[n], lengths[n]
        if begin < 0 or length < 0 or begin + length > stored.size or length > out.shape[1]:
            raise ValueError("gather: a payload does not fit")
        payload, row = stored[begin : begin + length], out[n]
        for i in range(length):
            row[i] = payload[i]
        for i in range(length, row.size):
            row[i] = np.uint8(0)
