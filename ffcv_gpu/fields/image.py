"""Images other than 3 x 8 bits: grey, transparent, 16-bit, float; and segmentation masks. Stored raw."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ffcv_gpu.device.wide import resized
from ffcv_gpu.errors import PipelineError, SampleError
from ffcv_gpu.fields.base import EncodeNote, Field, Malloc, OwnField, checked_dtype, read_file
from ffcv_gpu.format import MAX_SIDE, RECORD_DTYPES, ImageMode, TypeId
from ffcv_gpu.jpeg.rewrite import shrunk_sides
from ffcv_gpu.steps import whole

__all__ = ["ImageField", "MaskField"]

DTYPES = ("uint8", "uint16", "float32")
MAX_CHANNELS = 4
#: size of a PNG up to the end of its first chunk, in bytes, and two colour types
PNG_HEAD, PNG_GREY, PNG_PALETTE = 33, 0, 3
#: PIL modes whose array is the image unchanged
PIL_MODES = ("L", "LA", "RGB", "RGBA", "I;16", "F")

Pixels = npt.NDArray[Any]


class ImageField(OwnField):
    """An image with 1 to 4 channels of uint8, uint16 or float32, stored raw and never converted.

    Accepts an array (height, width) or (height, width, channels), a PIL image, the bytes of an image file, or
    a path (str or `os.PathLike`). OpenCV reads files, colours as RGB or RGBA. A batch is (N, height, width,
    channels) of `dtype`.

    The decoders are those of `RGBImageField`. uint8 images go through the fused launch like RGB images, on a
    GPU those with 1, 3 or 4 channels. uint16 and float32 images are cropped, resampled (``resize="area"``:
    OpenCV's INTER_AREA) and mirrored on the CPU, and uploaded if the pipeline uses a GPU; steps that change
    values work on the finished batch.

    FFCV has no such field and cannot open a file with one; use `RGBImageField` for 3 x 8 bits.

    Parameters
    ----------
    channels : int, default 1
        1 to 4.
    dtype : {"uint8", "uint16", "float32"}
    max_resolution : int, optional
        Images with a longer side are shrunk to it, as with `RGBImageField`.

    Raises
    ------
    PipelineError
        If an argument is out of range, or for 3 channels of uint8.
    """

    pointers: ClassVar[tuple[str, ...]] = ("data_ptr",)
    default_decoder = "SimpleRGBImageDecoder"
    #: True: values are class numbers, which must not be interpolated: sampled by the nearest pixel
    nearest: ClassVar[bool] = False
    modes: ClassVar[tuple[str, ...]] = PIL_MODES

    def __init__(self, channels: int = 1, dtype: Any = "uint8", max_resolution: int | None = None) -> None:
        who = type(self).__name__
        if isinstance(channels, bool) or channels not in range(1, MAX_CHANNELS + 1):
            raise PipelineError(f"{who}: channels must be 1 to {MAX_CHANNELS}, not {channels!r}")
        self.channels, self.dtype = int(channels), str(checked_dtype(dtype, who))
        if self.dtype not in DTYPES:
            raise PipelineError(f"{who}: dtype must be one of {', '.join(DTYPES)}, not {self.dtype}")
        if channels == 3 and self.dtype == "uint8":
            raise PipelineError(f"{who}: use RGBImageField for 3 x 8 bits; FFCV can read it too")
        self.max_resolution = (
            None if max_resolution is None else whole(max_resolution, f"{who}: max_resolution", 1)
        )

    @property
    def metadata_type(self) -> np.dtype[Any]:
        """Members mode, width, height, data_ptr; packed, as for `RGBImageField`."""
        return RECORD_DTYPES[TypeId.RGB_IMAGE]

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel."""
        return self.channels * np.dtype(self.dtype).itemsize

    @staticmethod
    def from_binary(binary: Any) -> Field:
        """Return the field that `binary`, uint8 (1024,), describes; `FormatError` if it is invalid."""
        field: Field = ImageField.described(binary)
        return field

    def write_settings(self) -> Mapping[str, Any]:
        """Return the constructor's arguments."""
        return {"channels": self.channels, "dtype": self.dtype, "max_resolution": self.max_resolution}

    def encode_sample(
        self, index: int, destination: npt.NDArray[Any], value: Any, malloc: Malloc
    ) -> EncodeNote | None:
        """Call `encode`; report the image as raw."""
        self.encode(destination, value, malloc)
        return EncodeNote("raw")

    def encode(self, destination: npt.NDArray[Any], value: Any, malloc: Malloc) -> None:
        """Store one image; `SampleError` unless it has this field's dtype and channels."""
        pixels = self._checked(self._pixels(value))
        height, width = shrunk_sides(pixels.shape[0], pixels.shape[1], self.max_resolution)
        if max(height, width) > MAX_SIDE:
            raise SampleError(
                f"{width} x {height} pixels; a side may have at most {MAX_SIDE}: give max_resolution"
            )
        if (height, width) != pixels.shape[:2]:
            native = np.ascontiguousarray(pixels, self.dtype)
            pixels = resized(native, height, width, nearest=self.nearest)
        destination["mode"], destination["width"], destination["height"] = ImageMode.RAW, width, height
        destination["data_ptr"], storage = malloc(height * width * self.pixel_bytes)
        little = np.dtype(self.dtype).newbyteorder("<")
        storage.view(little).reshape(height, width, self.channels)[...] = pixels

    def restore(self, record: Any, payload: npt.NDArray[np.uint8] | None) -> Any:
        """Return the pixels, (height, width, channels)."""
        assert payload is not None
        sides = int(record["height"]), int(record["width"])
        return np.frombuffer(payload.tobytes(), self.dtype).reshape(*sides, self.channels).copy()

    def _pixels(self, value: Any) -> Pixels:
        if isinstance(value, np.ndarray):
            return value
        if isinstance(value, (str, os.PathLike)):
            return decoded(read_file(value))
        if isinstance(value, (bytes, bytearray, memoryview)):
            return decoded(bytes(value))
        pil = sys.modules.get("PIL.Image")
        if pil is None or not isinstance(value, pil.Image):
            raise SampleError(
                f"{type(value).__name__} is not an image; give an array, a PIL image, the bytes of an image"
                f" file or its path{self._tensor_hint(value)}"
            )
        if value.mode not in self.modes:
            raise SampleError(
                f"a PIL image of mode {value.mode} is not supported; use one of {', '.join(self.modes)}"
            )
        try:
            return np.asarray(value)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
            raise SampleError(f"unreadable image: Pillow: {error}; repair or skip this sample") from error

    def _tensor_hint(self, value: Any) -> str:
        """Return how to turn a torch tensor, channels first, into such an image; "" for anything else."""
        if not hasattr(value, "detach"):
            return ""
        of, call = "tensor", "tensor"
        if self.dtype == "uint8" and getattr(value.dtype, "is_floating_point", False):
            of, call = "tensor in 0..1", "(255 * tensor).round().byte()"
        elif str(value.dtype) != f"torch.{self.dtype}":
            call = f"tensor.to(torch.{self.dtype})"
        turned = ".permute(1, 2, 0)" if value.ndim == 3 else ""
        return f"; for a {of}, {call}{turned}.numpy()"

    def _checked(self, pixels: Pixels) -> Pixels:
        """Return (height, width, channels); `SampleError` unless dtype and channels are this field's."""
        shaped = pixels[:, :, None] if pixels.ndim == 2 else pixels
        native = shaped.dtype.newbyteorder("=")
        if native != self.dtype or shaped.ndim != 3 or shaped.shape[2] != self.channels or 0 in shaped.shape:
            raise SampleError(
                f"an image of dtype {pixels.dtype} and shape {pixels.shape}, expected {self.dtype} and"
                f" (height, width, {self.channels}); convert it in the dataset, or change the field: {self!r}"
            )
        return shaped


class MaskField(ImageField):
    """A segmentation mask: one whole number per pixel, the class; resampled by the nearest pixel only.

    A mask is cropped and mirrored with its image if both pipelines contain the *same step objects*::

        crop, flip = RandomResizedCropRGBImageDecoder((224, 224)), RandomHorizontalFlip()
        {"image": [crop, flip, ToTensor(), ToTorchImage()], "mask": [crop, flip, ToTensor()]}

    Pixels from outside the image may get their own value in the mask, to be ignored by the loss: give both
    pipelines a `Rotate` or `RandomTranslate` with the same ``seed=``, the mask's with ``fill=255``.

    Accepts what `ImageField` accepts, with one channel; also PIL images and PNG files with a palette (mode P,
    as in Pascal VOC: the indices, not the colours; files need Pillow), PIL images of mode 1, and bool arrays.
    PNG files with 1, 2 or 4 bits per pixel give the stored numbers, not the grey levels they represent. A
    batch is (N, height, width, 1) of `dtype`. Sampled at the centres of its pixels, as by Pillow's NEAREST,
    which differs only where two pixels are equally near (cv2.INTER_NEAREST shifts a mask against its image).

    Parameters
    ----------
    dtype : {"uint8", "uint16"}
        uint8 masks go through the fused launch.
    max_resolution : int, optional
        The same as the image's, so that both have the same size.

    Raises
    ------
    PipelineError
        If an argument is out of range.
    """

    nearest = True
    modes = (*PIL_MODES, "P", "1")

    def __init__(self, dtype: Any = "uint8", max_resolution: int | None = None) -> None:
        if (found := str(checked_dtype(dtype, "MaskField"))) not in ("uint8", "uint16"):
            raise PipelineError(
                f"MaskField: a mask holds uint8 or uint16 classes, not {found}; ImageField holds float32"
            )
        super().__init__(1, dtype, max_resolution)

    @staticmethod
    def from_binary(binary: Any) -> Field:
        """Return the field that `binary`, uint8 (1024,), describes; `FormatError` if it is invalid."""
        field: Field = MaskField.described(binary)
        return field

    def write_settings(self) -> Mapping[str, Any]:
        """Return the constructor's arguments."""
        return {"dtype": self.dtype, "max_resolution": self.max_resolution}

    def _pixels(self, value: Any) -> Pixels:
        data = read_file(value) if isinstance(value, (str, os.PathLike)) else value
        if isinstance(data, (bytes, bytearray, memoryview)) and is_png(data):
            return png_numbers(bytes(data))
        pixels = super()._pixels(data)
        if pixels.dtype != np.bool_:
            return pixels
        # Pillow's True is a byte of 255.
        numbers: Pixels = (pixels.view(np.uint8) != 0).astype(np.uint8)
        return numbers


def is_png(data: bytes | bytearray | memoryview) -> bool:
    """True if a file starts like a PNG, with a complete first chunk."""
    return len(data) >= PNG_HEAD and bytes(data[:16]) == b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def png_numbers(data: bytes) -> Pixels:
    """Return the numbers stored in a PNG: palette indices, or grey levels before scaling to 8 bits.

    Bit depth and colour type: PNG specification (third edition), 11.2.1. Decoders scale grey levels of fewer
    bits so that the largest becomes 255 (13.12).
    """
    depth, colour_type = data[24], data[25]
    if colour_type == PNG_PALETTE:
        return palette_numbers(data)
    pixels = decoded(data)
    if colour_type == PNG_GREY and depth < 8 and pixels.ndim == 2:
        pixels = pixels // np.uint8(255 // (2**depth - 1))
    return pixels


def palette_numbers(data: bytes) -> Pixels:
    """Return the palette indices of a PNG, read by Pillow: OpenCV gives only the colours."""
    try:
        from PIL import Image
    except ImportError as error:
        raise SampleError(
            "reading the indices of a PNG with a palette needs Pillow: pip install pillow"
        ) from error
    try:
        return np.asarray(Image.open(io.BytesIO(data)))
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        raise SampleError(f"unreadable image: Pillow: {error}; repair or skip this sample") from error


def decoded(data: bytes) -> Pixels:
    """Return the pixels of an image file without conversion; three or four channels as RGB or RGBA."""
    import cv2

    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error as error:
        raise SampleError(f"unreadable image: OpenCV: {error}; repair or skip this sample") from error
    if found is None:
        raise SampleError(f"{len(data)} bytes starting with {data[:8]!r} are not an image that OpenCV reads")
    pixels: Pixels = np.asarray(found)
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        pixels = pixels[:, :, [2, 1, 0, *range(3, pixels.shape[2])]]
    return pixels
