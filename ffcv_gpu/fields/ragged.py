"""Variable-length arrays: a field, its decoder, and decoders of boxes and points that follow an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import PipelineError, SampleError
from ffcv_gpu.fields.base import Field, Malloc, OwnField, checked_dtype, checked_shape, wrong_field
from ffcv_gpu.format import RECORD_DTYPES, TypeId
from ffcv_gpu.kernels.pass_codes import PASS_WARP
from ffcv_gpu.steps import ArrayStep, Decoder, IntArray, Ragged, Source, Step, ValueSpec, whole

__all__ = ["BoxDecoder", "KeypointDecoder", "RaggedDecoder", "RaggedField"]

FloatArray = npt.NDArray[np.float64]


class RaggedField(OwnField):
    """An array (n, *shape) whose length n differs from sample to sample; it may be 0.

    Boxes and points are in pixels of the image as it is stored: where the image's field shrinks it
    (`max_resolution`) or turns it (``exif="apply"``), the dataset must convert them.

    FFCV has no such field and cannot open a file with one.

    Parameters
    ----------
    dtype : numpy dtype
        Of numbers or bools.
    shape : tuple of int, or int
        The dimensions after the first: ``(4,)`` for boxes, ``(2,)`` for points, ``()`` for a list of numbers.

    Raises
    ------
    PipelineError
        If the dtype is not one of numbers or bools, or a dimension is less than 1.
    """

    pointers = ("ptr",)

    def __init__(self, dtype: npt.DTypeLike = "float32", shape: Sequence[int] | int = ()) -> None:
        self.dtype = checked_dtype(dtype, "RaggedField").newbyteorder("<")
        self.shape = checked_shape(shape, "RaggedField")
        if self.dtype.kind not in "biufc":
            raise PipelineError(f"RaggedField: dtype must be numbers or bools, not {self.dtype}")
        if min(self.shape, default=1) < 1:
            raise PipelineError(
                f"RaggedField: the dimensions after the first must be at least 1, not {self.shape}"
            )

    @property
    def metadata_type(self) -> np.dtype[Any]:
        """Members ``ptr`` and ``size`` (bytes), uint64."""
        return RECORD_DTYPES[TypeId.BYTES]

    @property
    def row_bytes(self) -> int:
        """Bytes of one element along the first axis."""
        return self.dtype.itemsize * math.prod(self.shape)

    @staticmethod
    def from_binary(binary: Any) -> Field:
        """Return the field that `binary`, uint8 (1024,), describes; `FormatError` if it is invalid."""
        field: Field = RaggedField.described(binary)
        return field

    def write_settings(self) -> Mapping[str, Any]:
        """Return dtype and shape."""
        return {"dtype": self.dtype.str, "shape": list(self.shape)}

    def encode(self, destination: npt.NDArray[Any], value: Any, malloc: Malloc) -> None:
        """Store one array, CPU tensor or list; `SampleError` unless it has this dtype and shape (n, *shape).

        For n = 0, an empty list or an array (0,) of any dtype also works.
        """
        array = self._of_list(value) if isinstance(value, (list, tuple)) else np.asarray(value)
        if array.shape == (0,):
            array = np.empty((0, *self.shape), self.dtype)
        if array.dtype.newbyteorder("<") != self.dtype or array.shape[1:] != self.shape or not array.ndim:
            raise SampleError(
                f"an array of dtype {array.dtype} and shape {array.shape}, expected {self.dtype} and shape"
                f" {('n', *self.shape)}; convert it in the dataset (astype, reshape) or change the field"
            )
        destination["ptr"], storage = malloc(array.nbytes)
        destination["size"] = array.nbytes
        storage.view(self.dtype).reshape(array.shape)[...] = array

    def restore(self, record: Any, payload: npt.NDArray[np.uint8] | None) -> Any:
        """Return the array."""
        assert payload is not None
        return np.frombuffer(payload.tobytes(), self.dtype).reshape(-1, *self.shape).copy()

    def _of_list(self, value: Sequence[Any]) -> npt.NDArray[Any]:
        """Return a list as an array of this field's dtype, or of numpy's choice if that loses values."""
        array = np.asarray(value)
        floats = self.dtype.kind in "fc"
        if array.dtype.kind not in ("biuf" if floats else "biu"):
            return array
        converted = array.astype(self.dtype)
        return converted if floats or np.array_equal(converted, array) else array

    def get_decoder_class(self) -> Any:
        """Return `RaggedDecoder`."""
        return RaggedDecoder


class RaggedDecoder(Decoder):
    """Read variable-length arrays.

    Output: `Ragged`, a tuple (values, offsets): values (total, *shape), the samples concatenated, and offsets
    int64 (N + 1,); sample k is ``values[offsets[k]:offsets[k + 1]]``. ToTensor and ToDevice act on both,
    Convert and NormalizeImage on the values; a torch module gets the `Ragged`; other steps are refused. With
    `pad_to`: one array (N, pad_to, *shape), each row padded with `fill`.

    Parameters
    ----------
    pad_to : int, optional, keyword only
        At least the length of the longest array in the file.
    fill : number, default 0, keyword only
        Choose one that does not occur, such as -1 or nan: nothing else marks where a row ends.

    Raises
    ------
    PipelineError
        When the Loader is created, if the field is not a `RaggedField`, `pad_to` is too small, or the field's
        dtype cannot represent `fill`.
    """

    #: the output whose crops the values follow
    follows: str | None = None
    needs_host = True

    def __init__(self, *, pad_to: int | None = None, fill: float = 0) -> None:
        self.pad_to = None if pad_to is None else whole(pad_to, f"{type(self).__name__}: pad_to", 1)
        self.fill = fill

    def first_spec(self, source: Source) -> ValueSpec:
        """Return (longest payload,) uint8, which the next step turns into arrays."""
        self.check(source)
        return ValueSpec((max(source.max_bytes, 1),), "uint8")

    def check(self, source: Source) -> None:
        """Raise `PipelineError` unless this decoder can read the field."""
        field = source.field
        if not isinstance(field, RaggedField):
            raise wrong_field(self, "variable-length arrays", source)
        longest = source.max_bytes // field.row_bytes
        if self.pad_to is not None and longest > self.pad_to:
            raise PipelineError(
                f"{type(self).__name__}: field {source.name!r} has an array of {longest} rows;"
                f" pad_to must be at least {longest}"
            )
        if self.pad_to is not None and not _holds(field.dtype, self.fill):
            raise PipelineError(
                f"{type(self).__name__}: fill={self.fill!r} does not fit {field.dtype}, the dtype of"
                f" {source.name!r}"
            )

    def as_decoder(self) -> tuple[Decoder, Step]:
        """Return this decoder, and the step that turns the bytes into arrays."""
        return self, _Reading(self)

    def moved(self, values: Any, rows: IntArray, stages: Sequence[Any]) -> Any:
        """Return the final values (total, *shape); `rows` (total,) says which sample each belongs to."""
        return values


def _holds(dtype: np.dtype[Any], number: float) -> bool:
    """Whether a dtype can represent a number; floats can represent all, if not exactly."""
    if dtype.kind in "fc":
        return True
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return low <= number <= high and number == int(number)


class _Reading(ArrayStep):
    """Splits a batch of byte rows into arrays."""

    why = "splits the rows into arrays"

    def __init__(self, decoder: RaggedDecoder, source: Source | None = None) -> None:
        self.reads_for, self._source = decoder, source

    @property
    def follows(self) -> str | None:
        """The output whose crops the values follow."""
        return self.reads_for.follows

    def __repr__(self) -> str:
        return f"{self.reads_for!r}, arrays"

    def for_output(self, source: Source, spec: ValueSpec, draw: int) -> Step:
        """Return a step that knows the field."""
        return _Reading(self.reads_for, source)

    @property
    def _field(self) -> RaggedField:
        assert self._source is not None
        field: RaggedField = self._source.field
        return field

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return the spec; its shape is known only for padded arrays."""
        field, pad_to = self._field, self.reads_for.pad_to
        shape = None if pad_to is None else (pad_to, *field.shape)
        return spec.with_(shape=shape, dtype=field.dtype.name, ragged=pad_to is None)

    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Raise: the step needs the plan; `apply_planned` does the work."""
        raise PipelineError(f"{self.reads_for!r} only works in a Loader")

    def apply_planned(self, batch: Any, spec: ValueSpec, plan: Any) -> Any:
        """Return `Ragged`, or padded arrays."""
        assert self._source is not None
        field, decoder = self._field, self.reads_for
        sizes = self._source.records["size"][plan.sample_ids].astype(np.int64)
        taken = np.arange(batch.shape[1]) < sizes[:, None]
        values = batch[taken].view(field.dtype).reshape(-1, *field.shape)
        counts = sizes // field.row_bytes
        stages = plan.stages[decoder.follows] if decoder.follows is not None else ()
        rows = np.repeat(np.arange(len(counts)), counts)
        values = decoder.moved(values, rows, stages)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        if decoder.pad_to is None:
            return Ragged(values, offsets)
        padded = np.full((len(counts), decoder.pad_to, *field.shape), decoder.fill, field.dtype)
        padded[rows, np.arange(len(rows)) - offsets[rows]] = values
        return padded


class _Follower(RaggedDecoder):
    """Base of the decoders whose values are positions in an image and move with its pixels."""

    sides = 0

    def __init__(self, like: str, *, pad_to: int | None = None, fill: float = 0) -> None:
        super().__init__(pad_to=pad_to, fill=fill)
        self.like = self.follows = like

    def parameters(self) -> Mapping[str, Any]:
        """Return the constructor's arguments by name."""
        return {"like": self.like, "pad_to": self.pad_to, "fill": self.fill}

    def check(self, source: Source) -> None:
        """Raise `PipelineError` unless the field holds floats of shape (n, sides)."""
        super().check(source)
        if source.field.shape != (self.sides,) or source.field.dtype.kind != "f":
            raise PipelineError(
                f"{type(self).__name__} reads floats of shape (n, {self.sides}), but field {source.name!r} is"
                f" {source.field!r}"
            )


class KeypointDecoder(_Follower):
    """Read points (n, 2) and move them with the pixels of an image output.

    Points are (x, y) in pixels of the stored image, where pixel i covers [i, i + 1); they are returned in
    pixels of the output. They follow all launches of output `like`: crop, padding, resize, mirror, shift,
    rotation. Points outside the crop stay in the batch, with coordinates outside the image.

    Parameters
    ----------
    like : str
        Name of the image output.
    pad_to, fill : keyword only
        As for `RaggedDecoder`.

    Raises
    ------
    PipelineError
        When the Loader is created, if the field does not hold floats (n, 2) or `like` is no image output.
    """

    sides = 2

    def moved(self, values: Any, rows: IntArray, stages: Sequence[Any]) -> Any:
        """Return the points in the output's pixels."""
        x, y = follow(values[:, 0].astype(np.float64), values[:, 1].astype(np.float64), rows, stages)
        return np.stack([x, y], axis=1).astype(values.dtype)


class BoxDecoder(_Follower):
    """Read boxes (n, 4) and move them with the pixels of an image output.

    Boxes are (x0, y0, x1, y1) in pixels of the stored image, where pixel i covers [i, i + 1); they are
    returned in pixels of the output, with x0 <= x1 and y0 <= y1. They follow all launches of output `like`:
    crop, padding, resize, mirror, shift, and rotation, where a box becomes the bounding box of its rotated
    corners. Every box stays in the batch, so that its label keeps its index; a clipped box with no area lies
    outside the crop.

    Parameters
    ----------
    like : str
        Name of the image output.
    clip : bool, default True, keyword only
        Clip boxes to the image.
    pad_to, fill : keyword only
        As for `RaggedDecoder`.

    Raises
    ------
    PipelineError
        When the Loader is created, if the field does not hold floats (n, 4) or `like` is no image output.
    """

    sides = 4

    def __init__(self, like: str, *, clip: bool = True, pad_to: int | None = None, fill: float = 0) -> None:
        super().__init__(like, pad_to=pad_to, fill=fill)
        self.clip = bool(clip)

    def parameters(self) -> Mapping[str, Any]:
        """Return the constructor's arguments by name."""
        return {**super().parameters(), "clip": self.clip}

    def moved(self, values: Any, rows: IntArray, stages: Sequence[Any]) -> Any:
        """Return the boxes in the output's pixels."""
        boxes = values.astype(np.float64)
        moved = follow_boxes(boxes, rows, stages)
        if self.clip:
            # Launch by launch, because what one cuts off does not come back. Both bounds hold: a turned box
            # fills only a part of its bounding box, which the next rotation would enlarge.
            for stage in stages:
                boxes = follow_boxes(boxes, rows, (stage,), clip=True)
            moved = np.clip(moved, np.tile(boxes[:, :2], 2), np.tile(boxes[:, 2:], 2))
        return moved.astype(values.dtype)


def follow_boxes(
    boxes: FloatArray, rows: IntArray, stages: Sequence[Any], *, clip: bool = False
) -> FloatArray:
    """Return the bounding boxes (total, 4) of where the launches `stages` move the corners of `boxes`."""
    xs, ys = boxes[:, [0, 2, 0, 2]].ravel(), boxes[:, [1, 1, 3, 3]].ravel()
    xs, ys = follow(xs, ys, np.repeat(rows, 4), stages, clip=clip)
    x, y = xs.reshape(-1, 4), ys.reshape(-1, 4)
    bounds: FloatArray = np.stack([x.min(axis=1), y.min(axis=1), x.max(axis=1), y.max(axis=1)], axis=1)
    return bounds


def follow(
    x: FloatArray, y: FloatArray, rows: IntArray, stages: Sequence[Any], *, clip: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Return where the launches `stages` of samples `rows` move the points (x, y) of the stored images.

    With `clip`, points outside a crop move to its border, and so do those that leave an output: a shift does
    not show what was cropped away, nor a second shift what the first one moved out of the image.
    """
    for stage in stages:
        if hasattr(stage, "boxes"):
            x, y = through_crop(x, y, rows, stage, clip=clip)
        elif stage.kernel == PASS_WARP:
            x, y = through_warp(x, y, rows, stage)
        if clip:
            height, width = stage.frame
            if getattr(stage, "shown", None) is not None:
                y0, x0, y1, x1 = stage.shown[rows].T
                x, y = np.clip(x, x0, x1), np.clip(y, y0, y1)
            x, y = np.clip(x, 0, width), np.clip(y, 0, height)
    return x, y


def through_crop(
    x: FloatArray, y: FloatArray, rows: IntArray, stage: Any, *, clip: bool
) -> tuple[FloatArray, FloatArray]:
    """Follow a crop, resize, mirror and shift.

    A crop's corner maps to 0 and its sides to the frame's. Pixel p of the output shows pixel
    ``sign * p + shift`` of the frame, and its centre is at p + 1/2.
    """
    top, left, tall, wide = stage.boxes[rows].astype(np.float64).T
    sign_y, shift_y, sign_x, shift_x = stage.geometry[rows].astype(np.float64).T
    height, width = stage.frame
    x, y = (x - left) * (width / wide), (y - top) * (height / tall)
    if clip:
        x, y = np.clip(x, 0, width), np.clip(y, 0, height)
    return sign_x * (x - 0.5 - shift_x) + 0.5, sign_y * (y - 0.5 - shift_y) + 0.5


def through_warp(x: FloatArray, y: FloatArray, rows: IntArray, stage: Any) -> tuple[FloatArray, FloatArray]:
    """Follow a rotation or another linear map; the launch's parameters are its inverse."""
    xx, xy, x0, yx, yy, y0 = stage.params[rows].astype(np.float64).T
    height, width = stage.frame
    right, down = x - width / 2 - x0, y - height / 2 - y0
    size = xx * yy - xy * yx
    return (yy * right - xy * down) / size + width / 2, (xx * down - yx * right) / size + height / 2
