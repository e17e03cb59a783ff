"""What Python calls on a CPU: `compose` turns pixels into finished samples, `gather` copies payloads.

Serial loops over samples [lo, hi), without the GIL; the loader's threads divide a batch among them. Nothing
is allocated: temporary values lie in `scratch`.
"""

from __future__ import annotations

import numpy as np

from ffcv_gpu.kernels._numba import entry
from ffcv_gpu.kernels.codes import COLUMN_KIND, ERASE_OUTSIDE, KIND_YCBCR, scratch_size
from ffcv_gpu.kernels.compose_coloured_cpu import compose_coloured
from ffcv_gpu.kernels.compose_cpu import compose_plain
from ffcv_gpu.kernels.compose_planes_cpu import compose_planes
from ffcv_gpu.kernels.prefetch_cpu import prefetch

__all__ = ["compose", "gather", "scratch_size"]

#: how many payloads later is the one that is fetched into the cache meanwhile
AHEAD = 8


def compose(
    decoded, stored, table, boxes, geometry, params, ops, fills, late_from, lut, out, out_strides,
    out_h, out_w, resample, scratch, lo, hi,
):  # fmt: skip
    """Crop, resample, mirror, shift, erase, colour and look up samples [lo, hi), and write them to `out`.

    Per sample: the box is resampled to a frame of (out_h, out_w); `geometry` maps output pixels to frame
    pixels; values are rounded to uint8; operations before `late_from` overwrite rectangles or change colours,
    one after the other, rounded to uint8 each time; each value is replaced by `lut[channel, value]`; the
    other operations overwrite rectangles.

    Parameters
    ----------
    decoded, stored : uint8 (bytes,), C-contiguous, read-only
        The two memories that hold pixels, one byte per channel: interleaved, or planes Y, Cb, Cr. Pass both
        as views with ``writeable=False``, so that one compiled specialisation is enough.
    table : int64 (N, 8)
        Where each sample's pixels lie; columns as in `codes`.
    boxes : int32 (N, 4)
        y, x, height, width of the crop in source pixels.
    geometry : int32 (N, 4)
        sign_y, shift_y, sign_x, shift_x: output pixel (y, x) shows frame pixel
        (sign_y * y + shift_y, sign_x * x + shift_x), clamped to the frame.
    params : float32 (N, P)
    ops : int32 (K, 2)
        Code and first column in `params`; `codes` lists the columns of each.
    fills : uint32 (K, 4)
        Value per channel: grey level, or bits of the output dtype from `late_from` on.
    late_from : int
        Operations from this index on apply after the table.
    lut : uint8, uint16 or uint32 (C, 256)
        Bits of the output value for each value of each channel; its length is the number of channels.
    out : dtype of `lut`, 1-D, C-contiguous
        Only the elements of samples [lo, hi) are written.
    out_strides : int64 (4,)
        Elements from one sample, row, column and channel to the next.
    out_h, out_w : int
    resample : int
        RESAMPLE_NONE (box and output have one size), RESAMPLE_AREA (cv2.INTER_AREA, within 1 grey level),
        RESAMPLE_ANTIALIAS (Pillow's and torchvision's antialiased bilinear of the crop, within 1),
        RESAMPLE_NEAREST (Pillow's NEAREST).
    scratch : float32 (>= scratch_size(...),)
        Used only by this call.
    lo, hi : int

    Raises
    ------
    ValueError
        If arguments do not match, a box or `out_strides` is out of bounds, or `scratch` is too small; some
        samples are written.
    """
    arguments = (
        decoded, stored, table, boxes, geometry, params, ops, fills, late_from, lut, out, out_strides,
        out_h, out_w, resample, scratch, lo, hi,
    )  # fmt: skip
    planes = bool((table[lo:hi, COLUMN_KIND] & KIND_YCBCR).any()) and len(lut) != 1
    coloured = bool((ops[:, 0] > ERASE_OUTSIDE).any())
    (compose_coloured if coloured or planes else compose_plain)(*arguments)
    if planes:
        compose_planes(*arguments)


@entry
def gather(stored, offsets, lengths, out, lo, hi):
    """Copy payloads [lo, hi) to rows of equal length, padded with zeros.

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
        if n + AHEAD < hi:
            prefetch(stored, offsets[n + AHEAD], lengths[n + AHEAD])
        begin, length = offsets[n], lengths[n]
        if begin < 0 or length < 0 or begin + length > stored.size or length > out.shape[1]:
            raise ValueError("gather: a payload does not fit")
        payload, row = stored[begin : begin + length], out[n]
        for i in range(length):
            row[i] = payload[i]
        for i in range(length, row.size):
            row[i] = np.uint8(0)
