"""Colour images, stored as raw pixels or as JPEG; incoming JPEGs are stored unchanged whenever possible."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from ffcv_gpu.draws import draw_id, uniform
from ffcv_gpu.errors import DecodeError, PipelineError, SampleError
from ffcv_gpu.fields.base import ARG_TYPE, EncodeNote, Field, Malloc, at_old_path
from ffcv_gpu.fields.incoming import Incoming, Pixels, image_of
from ffcv_gpu.fields.outgoing import SUBSAMPLINGS, Outgoing, Workspace
from ffcv_gpu.fields.target import Choice, OpenField, chooser
from ffcv_gpu.format import MAX_SIDE, RECORD_DTYPES, ImageMode, TypeId
from ffcv_gpu.jpeg.crop_index import load_crop_indexer
from ffcv_gpu.jpeg.rewrite import encode_jpeg as jpeg_bytes
from ffcv_gpu.jpeg.rewrite import load_compiled_resizer, resizer
from ffcv_gpu.limits import too_many_pixels

__all__ = ["IMAGE_MODES", "RGBImageField", "encode_jpeg", "resizer"]

IMAGE_MODES: Mapping[str, int] = {"jpg": int(ImageMode.JPEG), "raw": int(ImageMode.RAW)}
WRITE_MODES = (None, "raw", "jpg", "proportion", "smart", "auto")
EXIF_WAYS = ("ignore", "apply")
CHECKS = ("decode", "header")
_BLOCK = 1024
#: samples per process from which compiled shrinking repays its loading (0.6 s; it saves 0.6 ms per photo)
_WORTH_LOADING = 1000
#: bytes of raw pixels, about 147 x 147: below this, reading raw pixels is faster than decoding a JPEG and
#: takes little space. Our choice; FFCV has no such mode.
AUTO_THRESHOLD = 1 << 16


class RGBImageField(OpenField):
    """An RGB image of 3 x 8 bits.

    Accepts a PIL image, an array uint8 (height, width, 3), the bytes of an image file, or a path (str or
    `os.PathLike`). JPEG files, as bytes or paths, are stored unchanged wherever `write_mode`,
    `max_resolution` and the JPEG itself allow. Grey, palette, CMYK and transparent images become RGB, as with
    Pillow's ``convert("RGB")``; only TIFF files with transparency are multiplied by it, as OpenCV reads them.
    Files of 16 bits keep the upper 8. JPEGs of more than 178,956,970 pixels are refused, as possible
    decompression bombs, unless FFCV_GPU_MAX_PIXELS in the environment is larger; other files have OpenCV's
    limit, 2**30 pixels.

    Parameters
    ----------
    write_mode : {None, "raw", "jpg", "proportion", "smart", "auto"}
        None: pixels are stored raw (as JPEG if `jpeg_quality` is given), JPEGs unchanged. "raw", "jpg": all
        images are stored this way. "proportion": each image is JPEG with probability `compress_probability`,
        drawn from its index in the file. "smart": JPEG if the raw pixels take more than `smart_threshold`
        bytes; raw if no threshold is given. "auto": as `target` requires; without one like "smart", with a
        default threshold of 64 KiB.
    max_resolution : int, optional
        Images with a longer side are shrunk to it (both sides rounded down to whole pixels, OpenCV's
        INTER_AREA). A pair of equal numbers also works.
    smart_threshold : int, optional
        Size of the raw pixels in bytes; see `write_mode`.
    jpeg_quality : int, optional
        1 to 100. Default: 90 for pixels, 95 for JPEGs that must be re-encoded (which keep their chroma
        subsampling; pixels get 4:2:0).
    compress_probability : float, default 0.5
        See `write_mode`.
    exif : {"ignore", "apply"}, keyword only
        Whether to rotate images by their EXIF orientation while writing. Reading never does. TIFF files are
        always rotated: OpenCV leaves no choice.
    check : {"decode", "header"}, keyword only
        "decode": a JPEG is decoded once, strictly, before it is stored unchanged (1 ms for 110 kB).
        "header": only its headers and the presence of its end marker are checked.
    subsampling : {None, "4:2:0", "4:2:2", "4:4:4"}, keyword only
        Chroma subsampling of encoded JPEGs; None: see `jpeg_quality`. If given, incoming JPEGs with finer
        chroma are re-encoded.
    target : ffcv_gpu.doctor.Target, mapping or number, keyword only
        With "auto": how fast the file must load on the CPU. ``Target(images_per_second=3000, cores=2)``, the
        same as a dict, or only the images/s. Before it starts, the writer samples some images, measures on
        this machine how long they take to load as JPEG and raw, and chooses the largest size (up to
        `max_resolution`) that reaches the target and, at that size, the highest share of JPEGs, which gives
        the smallest file. The choice is recorded in the writer's report and in the file; resuming and
        appending with the same arguments keep it. Any object with `choose` and `as_json` also works: see
        `ffcv_gpu.fields.target.Chooser`.
    dct_scaling : bool, keyword only
        Decode a JPEG that is shrunk to half or less at a half, a quarter or an eighth of its size before
        INTER_AREA does the rest: 5 % faster for 500 px photos shrunk to 320, 12 % for 256, and more for
        larger ones. The pixels of these images differ (by 2 grey levels on average).

    crop_index : bool, keyword only
        Give JPEGs an index for crops, in a segment of their headers that decoders ignore; some 3 % more
        bytes. The Loader then decodes only what a crop needs, to the same pixels.

    Raises
    ------
    PipelineError
        If an argument is invalid; while writing, if the target cannot be reached.
    """

    type_id = TypeId.RGB_IMAGE
    pointers: ClassVar[tuple[str, ...]] = ("data_ptr",)
    default_decoder = "SimpleRGBImageDecoder"

    # Defaults for subclasses whose __init__ does not call ours, as FFCV users write them.
    write_mode: Any = None
    max_resolution: Any = None
    smart_threshold: Any = None
    jpeg_quality: Any = None
    proportion: Any = 0.5
    exif = "ignore"
    check = "decode"
    subsampling: str | None = None
    dct_scaling = False
    crop_index = False
    _index = 0
    _note: EncodeNote | None = None

    def __init__(
        self,
        write_mode: str | None = None,
        max_resolution: int | tuple[int, int] | None = None,
        smart_threshold: int | None = None,
        jpeg_quality: int | None = None,
        compress_probability: float | None = 0.5,
        *,
        exif: str = "ignore",
        check: str = "decode",
        subsampling: str | None = None,
        target: Any = None,
        dct_scaling: bool = False,
        crop_index: bool = False,
    ) -> None:
        self.write_mode = _one_of("write_mode", write_mode, WRITE_MODES)
        self.max_resolution = _number("max_resolution", _side(max_resolution), 1)
        self.smart_threshold = _number("smart_threshold", smart_threshold, 0)
        self.jpeg_quality = _number("jpeg_quality", jpeg_quality, 1, 100)
        self.proportion = _number("compress_probability", compress_probability, 0, 1, float)
        self.exif = _one_of("exif", exif, EXIF_WAYS)
        self.check = _one_of("check", check, CHECKS)
        self.subsampling = _one_of("subsampling", subsampling, tuple(SUBSAMPLINGS))
        self.dct_scaling = _one_of("dct_scaling", dct_scaling, (False, True))
        self.crop_index = _one_of("crop_index", crop_index, (False, True))
        if self.write_mode == "proportion" and self.proportion is None:
            raise PipelineError("RGBImageField: write_mode='proportion' needs a compress_probability")
        if target is not None and (self.write_mode != "auto" or self.smart_threshold is not None):
            raise PipelineError("RGBImageField: target= goes with write_mode='auto' and no smart_threshold")
        self.target = chooser(target)

    @functools.cached_property
    def _workspace(self) -> Workspace:
        return Workspace()

    @property
    def metadata_type(self) -> np.dtype[Any]:
        """Members mode, width, height, data_ptr; packed."""
        return RECORD_DTYPES[TypeId.RGB_IMAGE]

    @staticmethod
    def from_binary(binary: Any) -> Field:
        """Return an `RGBImageField`; its settings are in our section of the file, not in `binary`."""
        return RGBImageField()

    def to_binary(self) -> Any:
        """Return 1024 zeros, as FFCV does."""
        return np.zeros(1, dtype=ARG_TYPE)[0]

    def write_settings(self) -> Mapping[str, Any]:
        """Return the constructor's arguments."""
        settings = {
            "write_mode": self.write_mode,
            "max_resolution": self.max_resolution,
            "smart_threshold": self.smart_threshold,
            "jpeg_quality": self.jpeg_quality,
            "compress_probability": self.proportion,
            "exif": self.exif,
            "check": self.check,
        }
        # Only if given, so that files without them stay the same, byte for byte.
        if self.subsampling is not None:
            settings["subsampling"] = self.subsampling
        if self.dct_scaling:
            settings["dct_scaling"] = True
        if self.crop_index:
            settings["crop_index"] = True
        if self.target is not None:
            settings["target"] = dict(self.target.as_json())
        if self.choice is not None:
            settings["choice"] = self.choice.as_json()
        return settings

    # ---- what a target decides

    def chosen(self, choice: Choice) -> Self:
        """Return a copy of this field that stores images according to `choice`."""
        field = copy.copy(self)
        field.choice, field._workspace = choice, Workspace()
        return field

    def trial(self) -> Self:
        """Return a copy of this field that stores all images as JPEG, at the largest size allowed."""
        return self.chosen(Choice(1.0, self.max_resolution))

    @property
    def _limit(self) -> int | None:
        return self.max_resolution if self.choice is None else self.choice.max_resolution

    def expect(self, samples: int) -> None:
        """Load compiled code: for row indices; for shrinking, if images may be shrunk and there are many."""
        if self.crop_index:
            load_crop_indexer()
        if self._limit is not None and samples >= _WORTH_LOADING:
            load_compiled_resizer()

    def encode_sample(
        self, index: int, destination: npt.NDArray[Any], value: Any, malloc: Malloc
    ) -> EncodeNote | None:
        """Call `encode` for sample `index`, which keys "proportion"; return how the image was stored."""
        # Through `encode`, so that a subclass that overrides only `encode` is respected.
        self._index, self._note = index, None
        self.encode(destination, value, malloc)
        return self._note

    def encode(self, destination: npt.NDArray[Any], value: Any, malloc: Malloc) -> None:
        """Store one image; `SampleError` if it is not an image or cannot be stored."""
        try:
            image = image_of(value, turn=self.exif == "apply")
            note = self._store(image, destination, malloc)
        except DecodeError as error:
            raise SampleError(f"unreadable image: {error}; repair or skip this sample") from error
        self._note = replace(note, rotated=True) if image.orientation > 1 else note

    def restore(self, record: Any, payload: npt.NDArray[np.uint8] | None) -> Any:
        """Return the bytes of a JPEG, or pixels, uint8 (height, width, 3)."""
        assert payload is not None
        if record["mode"] == ImageMode.JPEG:
            return payload.tobytes()
        return payload.reshape(int(record["height"]), int(record["width"]), 3).copy()

    # ---- how it is stored

    def _store(self, image: Incoming, destination: npt.NDArray[Any], malloc: Malloc) -> EncodeNote:
        outgoing = self._outgoing(image)
        height, width = outgoing.sides
        if max(height, width) > MAX_SIDE:
            raise SampleError(
                f"{width} x {height} pixels; a side may have at most {MAX_SIDE}: give max_resolution"
            )
        destination["width"], destination["height"] = width, height
        if self._stored_raw(height * width * 3, is_jpeg=image.header is not None):
            destination["mode"] = ImageMode.RAW
            destination["data_ptr"], storage = malloc(height * width * 3)
            return outgoing.raw(storage)
        if words := too_many_pixels(height, width):
            raise SampleError(f"a JPEG of {words}, here and for the Loader; or give max_resolution")
        data, note = outgoing.jpeg()
        destination["mode"] = ImageMode.JPEG
        destination["data_ptr"], storage = malloc(len(data))
        storage[:] = np.frombuffer(data, np.uint8)
        return note

    def _outgoing(self, image: Incoming) -> Outgoing:
        return Outgoing(
            image,
            self._workspace,
            limit=self._limit,
            turns=self.exif == "apply",
            check=self.check,
            jpeg_quality=self.jpeg_quality,
            subsampling=self.subsampling,
            dct_scaling=self.dct_scaling,
            crop_index=self.crop_index,
        )

    def _stored_raw(self, raw_bytes: int, *, is_jpeg: bool) -> bool:
        if self.write_mode is None:
            return not is_jpeg and self.jpeg_quality is None
        if self.is_open:
            raise PipelineError("RGBImageField: its target must be settled by DatasetWriter or settled()")
        if self.write_mode == "proportion" or self.choice is not None:
            share = self.proportion if self.choice is None else self.choice.compress_probability
            return _drawn(self._index) >= share
        if self.write_mode in ("smart", "auto"):
            threshold = self.smart_threshold
            if threshold is None and self.write_mode == "auto":
                threshold = AUTO_THRESHOLD
            return threshold is None or raw_bytes <= threshold
        return bool(self.write_mode == "raw")


# ---- helpers


def _drawn(index: int) -> float:
    """Return the number drawn for sample `index`, in [0, 1), the same in every process."""
    return _drawn_block(index // _BLOCK)[index % _BLOCK]


@functools.lru_cache(maxsize=4)
def _drawn_block(number: int) -> list[float]:
    # One call for 1024 samples takes 0.1 ms, as long as a call for one.
    samples = np.arange(number * _BLOCK, (number + 1) * _BLOCK)
    values: list[float] = uniform(0, 0, samples, draw_id("RGBImageField", "proportion"), 1)[:, 0].tolist()
    return values


def _one_of(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    if value not in choices:
        raise PipelineError(f"RGBImageField: {name} must be one of {list(choices)}, not {value!r}")
    return value


def _number(name: str, value: Any, low: int, high: float = float("inf"), kind: type = int) -> Any:
    """Return `value` as `kind`, None as None; FFCV's scripts pass whole numbers as floats."""
    if value is None:
        return None
    numeric = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if numeric and low <= value <= high and value != float("inf") and kind(value) == value:
        return kind(value)
    bounds = f"at least {low}" if high == float("inf") else f"in [{low}, {high}]"
    what = "whole number" if kind is int else "number"
    raise PipelineError(f"RGBImageField: {name} must be a {what} {bounds}, not {value!r}")


def _side(max_resolution: Any) -> Any:
    """Return the number in a pair of equal numbers, the form in FFCV's documentation."""
    if isinstance(max_resolution, (tuple, list)) and len(set(max_resolution)) == 1:
        return max_resolution[0]
    return max_resolution


def encode_jpeg(numpy_image: Any, quality: int) -> Pixels:
    """Return an image, uint8 (height, width, 3), as a JPEG, uint8 (n,); for custom fields."""
    return np.frombuffer(jpeg_bytes(numpy_image, int(quality)), np.uint8)


__getattr__ = at_old_path(
    __name__,
    "CenterCropRGBImageDecoder",
    "PadRGBImageDecoder",
    "RandomResizedCropRGBImageDecoder",
    "ResizedCropRGBImageDecoder",
    "SimpleRGBImageDecoder",
    get_center_crop="ffcv_gpu.compat.crops",
    get_random_crop="ffcv_gpu.compat.crops",
)
