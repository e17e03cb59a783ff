"""The base classes of decoders and transforms, one per kind of step.

A step is a *description*: an immutable object that says what to do, prints itself and is compared by
identity (the same object in two pipelines shares its random draw). How the work is done is decided
elsewhere: `ffcv_gpu.pipeline` sorts steps into fused stages and a tail, `ffcv_gpu.plan` asks them for the
parameters of a batch, `ffcv_gpu.compose` launches the kernels.

The kinds, and what each promises:

=============  =====================================================================================
`Sampling`     which rectangle of the source is resampled to which size (crops, resizes)
`Mirror`       which samples are mirrored, left to right or upside down
`Shift`        by how much each sample is moved, and what fills the gap
`Erase`        which rectangle of each sample is overwritten
`Colour`       a function of the 8-bit values of one pixel, with parameters drawn per sample
`Lookup`       a function of one 8-bit value of one channel (normalise, convert)
`ImagePass`    needs more than the pixel itself: a separate launch, on finished 8-bit images
`Represent`    container, device or layout; no value changes
`ArrayStep`    anything else: works on the whole batch, after the fused launch
=============  =====================================================================================
"""

from __future__ import annotations

from ffcv_gpu.steps.checks import (
    Checked,
    channel_values,
    crop_range,
    dtype_name,
    fill_values,
    number,
    numbers,
    output_pair,
    resize_name,
    share,
    whole,
)
from ffcv_gpu.steps.kinds import (
    ArrayStep,
    Colour,
    Decoder,
    DrawingStep,
    Erase,
    ImagePass,
    Lookup,
    Mirror,
    Represent,
    Sampling,
    Shift,
    Step,
    printed,
)
from ffcv_gpu.steps.specs import BoxArray, FloatArray, IntArray, Ragged, Source, ValueSpec

__all__ = [
    "ArrayStep",
    "BoxArray",
    "Checked",
    "Colour",
    "Decoder",
    "DrawingStep",
    "Erase",
    "FloatArray",
    "ImagePass",
    "IntArray",
    "Lookup",
    "Mirror",
    "Ragged",
    "Represent",
    "Sampling",
    "Shift",
    "Source",
    "Step",
    "ValueSpec",
    "channel_values",
    "crop_range",
    "dtype_name",
    "fill_values",
    "number",
    "numbers",
    "output_pair",
    "printed",
    "resize_name",
    "share",
    "whole",
]
