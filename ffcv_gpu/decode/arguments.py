"""The checks of `decode_jpegs`' arguments."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.device import default_gpu, require_device
from ffcv_gpu.errors import BackendUnavailable, DecodeError, PipelineError
from ffcv_gpu.jpeg.base import HOST_BACKENDS, ByteArray, Decoded, DecodeStatus, Fault
from ffcv_gpu.jpeg.scan import Headers, Scanned
from ffcv_gpu.native import nvjpeg_library
from ffcv_gpu.steps import IntArray

__all__ = ["Job", "check_choices", "device_of"]

logger = logging.getLogger(__name__)
#: reasons to decode on the CPU that this process has warned of
_said: set[str] = set()

CHOICES = {
    "output": ("torch", "cupy", "numpy"),
    "on_error": ("return", "raise"),
    "jpeg_backend": (None, *HOST_BACKENDS, "nvjpeg"),
    "dct": ("accurate", "fast"),
}


def check_choices(**given: Any) -> None:
    """Raise `PipelineError` if an argument is not among its `CHOICES`, or PyTorch is needed but missing."""
    for name, value in given.items():
        if value not in CHOICES[name]:
            *first, last = map(repr, CHOICES[name])
            raise PipelineError(f"decode_jpegs: {name} must be {', '.join(first)} or {last}, not {value!r}")
    if given.get("output") == "torch" and find_spec("torch") is None:
        raise PipelineError(
            "decode_jpegs: output='torch' needs PyTorch, which is not installed; "
            "pip install 'ffcv-gpu[torch]', or pass output='numpy' ('cupy' on a GPU)"
        )


def device_of(device: Any, output: str, backend: str | None) -> str:
    """Return the name of the device to decode on; checks that it supports the backend and the output."""
    if device == "auto":
        name = "cpu" if backend in HOST_BACKENDS else _best_device(backend)
    elif device == "cpu":
        name = "cpu"
    else:
        from ffcv_gpu.transforms.ops import device_name

        name = device_name(device)
        require_device(name)
    if output == "cupy" and name == "cpu":
        raise PipelineError("decode_jpegs: output='cupy' needs a GPU; pass device=0, or output='numpy'")
    if backend in HOST_BACKENDS and name != "cpu":
        raise PipelineError(
            f"decode_jpegs: jpeg_backend={backend!r} decodes on the CPU, not on {name}; pass device='cpu'"
        )
    if backend == "nvjpeg" and name == "cpu":
        raise PipelineError("decode_jpegs: jpeg_backend='nvjpeg' decodes on a GPU; pass device=0")
    return name


def _best_device(backend: str | None) -> str:
    """Return this process's GPU if it can decode; else the CPU, with a warning the first time."""
    name = default_gpu()
    try:
        require_device(name)
        nvjpeg_library.library()
    except BackendUnavailable as error:
        if backend is not None:
            raise
        if str(error) not in _said:  # once: there may be a call for each batch
            _said.add(str(error))
            logger.warning("decode_jpegs(device='auto'): decoding on the CPU, because %s", error)
        return "cpu"
    return name


def _bytes(item: Any, index: int) -> ByteArray:
    """Return one encoded image as uint8 (n,), C-contiguous; copies only if it must."""
    if type(item) is bytes:
        return np.frombuffer(item, np.uint8)
    try:
        array = _array(item)
    except (TypeError, ValueError, RuntimeError) as error:
        fix = ""
        if isinstance(item, int | np.integer):  # of bytes, or of an array
            fix = "; give a list, [encoded]"
        elif isinstance(item, str | os.PathLike):
            fix = "; give the file's bytes, Path(...).read_bytes()"
        elif hasattr(item, "read"):  # a file, which can be detached like a tensor
            fix = "; give the file's bytes, .read()"
        elif hasattr(item, "detach"):
            fix = f" that numpy cannot read ({error}); give a CPU tensor"
        raise PipelineError(
            f"decode_jpegs: item {index} must be bytes or a uint8 array, not {type(item).__name__}{fix}"
        ) from error
    if array.dtype != np.uint8 or array.ndim != 1:
        raise PipelineError(
            f"decode_jpegs: item {index} must be bytes or a uint8 array (n,), not {array.dtype}{array.shape}"
        )
    return np.ascontiguousarray(array)


def _array(item: Any) -> npt.NDArray[Any]:
    """Return an item other than bytes as an array; copies only a memoryview with gaps."""
    if isinstance(item, np.ndarray):
        return item
    if isinstance(item, np.integer):
        raise TypeError("a number, although it has one byte of memory")
    if hasattr(item, "detach") and hasattr(item, "numpy"):  # a torch tensor
        array: npt.NDArray[Any] = item.numpy()
        return array
    if isinstance(item, memoryview) and not item.c_contiguous:
        item = bytes(item)
    return np.frombuffer(item, np.uint8)


class Job:
    """The images of one call and the contents of their headers. The bytes are not copied."""

    def __init__(self, encoded: Iterable[Any]) -> None:
        if not hasattr(encoded, "__iter__") and not hasattr(encoded, "__getitem__"):
            raise PipelineError(f"decode_jpegs: encoded must be a list, not {type(encoded).__name__}")
        self.items = [_bytes(item, i) for i, item in enumerate(encoded)]
        self.headers = Headers(self.items)

    @cached_property
    def found(self) -> Scanned:
        """The contents of all headers."""
        return self.headers.all()

    def readable(self) -> IntArray:
        """Return the indices of the images with a valid header."""
        return np.flatnonzero(self.found.status == DecodeStatus.GOOD)

    def unreadable(self) -> dict[int, Fault]:
        """Return what is wrong with the headers of the other images."""
        return {i: (DecodeStatus.BAD_JPEG, words) for i, words in self.found.reasons.items()}

    def outcome(self, faults: Mapping[int, Fault]) -> Decoded:
        """Return the outcome of all images, given the faults of the bad ones."""
        status = np.zeros(len(self.items), np.int8)
        for i, (what, _) in faults.items():
            status[i] = what
        return Decoded(status, {i: words for i, (_, words) in faults.items()})

    def checked_rois(self, rois: Any) -> IntArray:
        """Return the rectangles as int64 (N, 4); those of unreadable images are not checked."""
        wanted = f"rois must be integers of shape ({len(self.items)}, 4): y, x, height, width"
        try:
            boxes = np.asarray(rois)
        except (TypeError, ValueError, RuntimeError) as error:  # of several lengths, or on a GPU
            raise PipelineError(f"decode_jpegs: {wanted}; numpy cannot read these ({error})") from error
        if not self.items and boxes.shape == (0,):  # an empty list has no second axis
            return np.zeros((0, 4), np.int64)
        if boxes.shape != (len(self.items), 4) or boxes.dtype.kind not in "iu":
            raise PipelineError(f"decode_jpegs: {wanted}, not {boxes.dtype}{boxes.shape}")
        boxes = boxes.astype(np.int64)
        corners, sides = boxes[:, :2], boxes[:, 2:]
        # Subtracted from the image's sides, which are small: a sum of any two numbers may overflow.
        room = np.stack([self.found.heights, self.found.widths], axis=1) - corners
        outside = ((corners < 0) | (sides < 1) | (sides > room)).any(axis=1)
        outside &= self.found.status == DecodeStatus.GOOD
        if outside.any():
            i = int(outside.argmax())
            raise PipelineError(
                f"decode_jpegs: rois[{i}] = {boxes[i].tolist()} (y, x, height, width) is not inside image "
                f"{i}, which is {self.found.widths[i]} x {self.found.heights[i]} pixels"
            )
        return boxes

    def refuse_bad(self, outcome: Decoded, where: str) -> None:
        """Raise `DecodeError` for the first image that is not good."""
        bad = np.flatnonzero(outcome.status)
        if bad.size:
            i = int(bad[0])
            raise DecodeError(
                f"decode_jpegs: image {i} ({self.items[i].size} bytes) cannot be decoded on {where}: "
                f"{outcome.reasons.get(i, 'no reason given')} ({bad.size} of {len(self.items)} are bad)"
            )
