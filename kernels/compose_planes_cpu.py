"""The fused loop for samples in YCbCr planes, with any operations."""

from __future__ import annotations

import numpy as np

from ffcv_gpu.kernels._numba import entry, loop
from ffcv_gpu.kernels.codes import COLUMN_KIND, COLUMN_OFFSET2, KIND_GREY, KIND_STORED, KIND_YCBCR
from ffcv_gpu.kernels.compose_coloured_cpu import finish_row
from ffcv_gpu.kernels.compose_cpu import check_arguments, check_output, spread_of
from ffcv_gpu.kernels.frame_cpu import part_size
from ffcv_gpu.kernels.output_cpu import is_identity
from ffcv_gpu.kernels.planes_cpu import carve_planes, check_planes, make_planes_row

__all__ = ["compose_planes"]


@loop
def compose_sample(
    pixels, record, box, geometry, params, ops, fills, late_from, lut, identity, out, first, strides,
    out_h, out_w, resample, scratch,
):  # fmt: skip
    """Compute one sample from the planes Y, Cb and Cr that `record`, its row of the table, points to."""
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
def compose_planes(
    decoded, stored, table, boxes, geometry, params, ops, fills, late_from, lut, out, out_strides,
    out_h, out_w, resample, scratch, lo, hi,
):  # fmt: skip
    """Compute samples [lo, hi) to three channels: see `shell_cpu.compose`. Leaves interleaved ones alone."""
    channels = lut.shape[0]
    check_arguments(table, boxes, geometry, params, ops, fills, late_from, lut, resample, lo, hi)
    if channels != 3:
        raise ValueError("compose: an image in planes has 3 channels, or 1")
    identity, spread = is_identity(lut), spread_of(out_strides, out_h, out_w, channels)
    for n in range(lo, hi):
        if not table[n, COLUMN_KIND] & KIND_YCBCR:
            continue
        pixels = stored if table[n, COLUMN_KIND] & KIND_STORED else decoded
        first = n * out_strides[0]
        check_output(out, first, first + spread)
        compose_sample(
            pixels, table[n], boxes[n], geometry[n], params[n], ops, fills, late_from, lut, identity, out,
            first, out_strides, out_h, out_w, resample, scratch,
        )  # fmt: skip
