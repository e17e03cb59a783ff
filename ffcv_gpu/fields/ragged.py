"""Arrays of any length: a field, its decoder, and decoders of boxes and points that follow an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import PipelineError, SampleError
from ffcv_gpu.fields.base import Field, Malloc, OwnField
from ffcv_gpu.format import RECORD_DTYPES, TypeId
from ffcv_gpu.kernels.pass_codes import PASS_WARP
from ffcv_gpu.steps import ArrayStep, Decoder, IntArray, Ragged, Source, Step, ValueSpec, whole

__all__ = ["BoxDecoder", "KeypointDecoder", "RaggedDecoder", "RaggedField"]

FloatArray = npt.NDArray[np.float64]


class RaggedField(OwnField):
    """An array (n, *shape) whose length n differs from sample to sample; it may be 0.

    FFCV has no such field and does not open a file with one.

    Parameters
    ----------
    dtype : numpy dtype
        Of numbers or bools.
    shape : tuple of int, or int
        The sides behind the first: ``(4,)`` for boxes, ``(2,)`` for points, ``()`` for a list of numbers.

    Raises
    ------
    PipelineError
        If the dtype is none of numbers, or a side is less than 1.
    """

    pointers = ("ptr",)

    def __init__(self, dtype: npt.DTypeLike = "float32", shape: Sequence[int] | int = ()) -> None:
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.shape = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)
        if self.dtype.kind not in "biufc":
            raise PipelineError(f"RaggedField: dtype must be one of numbers, not {np.dtype(dtype)}")
        if min(self.shape, default=1) < 1:
            raise PipelineError(
                f"RaggedField: the sides behind the first must be 1 or more, not {self.shape}"
            )

    @property
    def metadata_type(self) -> np.dtype[Any]:
        """Members ``ptr`` and ``size`` (bytes), uint64."""
        return RECORD_DTYPES[TypeId.BYTES]

    @property
    def row_bytes(self) -> int:
        """Bytes of one element along the first side."""
        return self.dtype.itemsize * math.prod(self.shape)

    @staticmethod
    def from_binary(binary: Any) -> Field:
        """Return the field that uint8 (1024,) describes; `FormatError` if that describes none."""
        field: Field = RaggedField.described(binary)
        return field

    def write_settings(self) -> Mapping[str, Any]:
        """Return dtype and shape."""
        return {"dtype": self.dtype.str, "shape": list(self.shape)}

    def encode(self, destination: npt.NDArray[Any], value: Any, malloc: Malloc) -> None:
        """Store one array, CPU tensor or list; `SampleError` unless it is of this dtype and (any, *shape).

        An empty list, or array (0,) of any dtype, will do for n = 0.
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

    def _of_list(self, value: Sequence[Any]) -> npt.NDArray[Any]:
        """Return numbers that have no dtype yet in this field's; as they are if it cannot hold them."""
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
    """Read arrays of any length.

    Output: `Ragged`, a tuple (values, offsets): values (total, *shape) one sample behind the other, offsets
    int64 (N + 1,), sample k's being ``values[offsets[k]:offsets[k + 1]]``. ToTensor and ToDevice act on both.
    With `pad_to` one array (N, pad_to, *shape), the rest of each row `fill`.

    Parameters
    ----------
    pad_to : int, optional, keyword only
        At least the longest array of the file.
    fill : number, keyword only
        Choose one that is no value, such as -1 or nan: nothing else says how long a row was.

    Raises
    ------
    PipelineError
        When the Loader is made, if the field is none of ragged arrays, `pad_to` is too small, or the field's
        dtype has no `fill`.
    """

    #: the output whose crops the values follow
    follows: str | None = None
    needs_host = True

    def __init__(self, *, pad_to: int | None = None, fill: float = 0) -> None:
        self.pad_to = None if pad_to is None else whole(pad_to, f"{type(self).__name__}: pad_to", 1)
        self.fill = fill

    def first_spec(self, source: Source) -> ValueSpec:
        """Return (longest payload,) uint8, which the step behind makes arrays of."""
        self.check(source)
        return ValueSpec((max(source.max_bytes, 1),), "uint8")

    def check(self, source: Source) -> None:
        """Raise `PipelineError` unless the field is one that this decoder reads."""
        field = source.field
        if not isinstance(field, RaggedField):
            raise PipelineError(
                f"{type(self).__name__} decodes arrays of any length, but field {source.name!r} is a"
                f" {type(field).__name__}"
            )
        longest = source.max_bytes // field.row_bytes
        if self.pad_to is not None and longest > self.pad_to:
            raise PipelineError(
                f"{type(self).__name__}: field {source.name!r} has an array of {longest} rows;"
                f" pad_to={longest} would do"
            )
        if self.pad_to is not None and not _holds(field.dtype, self.fill):
            raise PipelineError(
                f"{type(self).__name__}: fill={self.fill!r} is no {field.dtype}, the dtype of {source.name!r}"
            )

    def as_decoder(self) -> tuple[Decoder, Step]:
        """Return this, and the step that makes arrays of the bytes."""
        return self, _Reading(self)

    def moved(self, values: Any, rows: IntArray, stages: Sequence[Any]) -> Any:
        """Return values (total, *shape) of samples `rows` (total,) as they are to be handed out."""
        return values


def _holds(dtype: np.dtype[Any], number: float) -> bool:
    """Whether a dtype has a number; floats have all, if not exactly."""
    if dtype.kind in "fc":
        return True
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return low <= number <= high and number == int(number)


class _Reading(ArrayStep):
    """Cuts a batch of byte rows into arrays."""

    why = "cuts the rows into arrays"

    def __init__(self, decoder: RaggedDecoder, source: Source | None = None) -> None:
        self._decoder, self._source = decoder, source

    @property
    def follows(self) -> str | None:
        """The output whose crops the values follow."""
        return self._decoder.follows

    def __repr__(self) -> str:
        return f"{self._decoder!r}, arrays"

    def for_output(self, source: Source, spec: ValueSpec, draw: int) -> Step:
        """Return the step that knows the field."""
        return _Reading(self._decoder, source)

    @property
    def _field(self) -> RaggedField:
        assert self._source is not None
        field: RaggedField = self._source.field
        return field

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return the shape of padded arrays; that of ragged ones is not known."""
        field, pad_to = self._field, self._decoder.pad_to
        shape = None if pad_to is None else (pad_to, *field.shape)
        return spec.with_(shape=shape, dtype=field.dtype.name)

    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Not without the plan."""
        raise PipelineError(f"{self._decoder!r} works in a Loader only")

    def apply_planned(self, batch: Any, spec: ValueSpec, plan: Any) -> Any:
        """Return `Ragged`, or padded arrays."""
        assert self._source is not None
        field, decoder = self._field, self._decoder
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
    """Base of the decoders whose values are places in an image, and go where its pixels go."""

    sides = 0

    def __init__(self, like: str, *, pad_to: int | None = None, fill: float = 0) -> None:
        super().__init__(pad_to=pad_to, fill=fill)
        self.like = self.follows = like

    def parameters(self) -> Mapping[str, Any]:
        """Return the constructor's arguments by name."""
        return {"like": self.like, "pad_to": self.pad_to, "fill": self.fill}

    def check(self, source: Source) -> None:
        """Raise `PipelineError` unless the field is one of floats, (n, sides)."""
        super().check(source)
        if source.field.shape != (self.sides,) or source.field.dtype.kind != "f":
            raise PipelineError(
                f"{type(self).__name__} reads floats of shape (n, {self.sides}), but field {source.name!r} is"
                f" {source.field!r}"
            )


class KeypointDecoder(_Follower):
    """Read points (n, 2) and move them as the pixels of an image output are moved.

    Points are (x, y) in pixels of the stored image, pixel i covering [i, i + 1); they come out in pixels of
    the output. Whatever the launches of output `like` do is followed: crop, padding, resize, mirror, shift,
    rotation. Points outside the crop stay in the batch, with places outside the image.

    Parameters
    ----------
    like : str
        Name of the image output.
    pad_to, fill : keyword only
        As of `RaggedDecoder`.

    Raises
    ------
    PipelineError
        When the Loader is made, if the field is none of floats (n, 2), or `like` no image output.
    """

    sides = 2

    def moved(self, values: Any, rows: IntArray, stages: Sequence[Any]) -> Any:
        """Return the points in the output's pixels."""
        x, y = follow(values[:, 0].astype(np.float64), values[:, 1].astype(np.float64), rows, stages)
        return np.stack([x, y], axis=1).astype(values.dtype)


class BoxDecoder(_Follower):
    """Read boxes (n, 4) and move them as the pixels of an image output are moved.

    Boxes are (x0, y0, x1, y1) in pixels of the stored image, pixel i covering [i, i + 1); they come out in
    pixels of the output, x0 <= x1 and y0 <= y1. Whatever the launches of output `like` do is followed: crop,
    padding, resize, mirror, shift, and rotation, where the box becomes the one around its corners. Every box
    stays in the batch, so that labels beside them keep their places; a clipped one of no area lies outside
    the crop.

    Parameters
    ----------
    like : str
        Name of the image output.
    clip : bool, default True, keyword only
        Cut boxes at the image's borders.
    pad_to, fill : keyword only
        As of `RaggedDecoder`.

    Raises
    ------
    PipelineError
        When the Loader is made, if the field is none of floats (n, 4), or `like` no image output.
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
        places = values.astype(np.float64)
        # All four corners: a box that was turned is the one around them.
        xs = places[:, [0, 2, 0, 2]].ravel()
        ys = places[:, [1, 1, 3, 3]].ravel()
        xs, ys = follow(xs, ys, np.repeat(rows, 4), stages, clip=self.clip)
        x, y = xs.reshape(-1, 4), ys.reshape(-1, 4)
        boxes: FloatArray = np.stack([x.min(axis=1), y.min(axis=1), x.max(axis=1), y.max(axis=1)], axis=1)
        return boxes.astype(values.dtype)


def follow(
    x: FloatArray, y: FloatArray, rows: IntArray, stages: Sequence[Any], *, clip: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Return where places (x, y) of the stored images go by the launches `stages` of samples `rows`.

    With `clip`, places outside a crop go to its border, and so do those that leave an output: a shift shows
    nothing of what was cut off.
    """
    for stage in stages:
        if hasattr(stage, "boxes"):
            x, y = through_crop(x, y, rows, stage, clip=clip)
        elif stage.kernel == PASS_WARP:
            x, y = through_warp(x, y, rows, stage)
        if clip:
            height, width = stage.frame
            x, y = np.clip(x, 0, width), np.clip(y, 0, height)
    return x, y


def through_crop(
    x: FloatArray, y: FloatArray, rows: IntArray, stage: Any, *, clip: bool
) -> tuple[FloatArray, FloatArray]:
    """Follow a crop, resize, mirror and shift.

    A crop's corner becomes 0 and its side the frame's. Pixel p of the output shows pixel
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
    """Follow a rotation or another linear map, of which the launch has the inverse."""
    xx, xy, x0, yx, yy, y0 = stage.params[rows].astype(np.float64).T
    height, width = stage.frame
    right, down = x - width / 2 - x0, y - height / 2 - y0
    size = xx * yy - xy * yx
    return (yy * right - xy * down) / size + width / 2, (xx * down - yx * right) / size + height / 2
