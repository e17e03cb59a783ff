"""JPEG decoding alone: a list of encoded images in, a list of pixels out, no dataset file needed."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.device import GpuDevice, default_gpu, gpu_device, require_device
from ffcv_gpu.device.gpu import Arena
from ffcv_gpu.errors import BackendUnavailable, DecodeError, PipelineError
from ffcv_gpu.jpeg.base import ByteArray, Decoded, DecodeStatus, Encoded
from ffcv_gpu.jpeg.scan import NO_FACTS, scan_jpegs
from ffcv_gpu.jpeg.turbo import TurboBackend
from ffcv_gpu.native import nvjpeg_library
from ffcv_gpu.steps import IntArray

__all__ = ["DecodeStatus", "decode_jpegs"]

logger = logging.getLogger(__name__)

OUTPUTS = ("torch", "cupy", "numpy")
#: start of each image in the memory that all share, bytes: what the GPU's own allocator aligns to
ALIGNMENT = 256
#: images of one call of nvJPEG: few settings, so that few states are made
SMALL_BATCH, BATCH = 64, 256


def decode_jpegs(
    encoded: Sequence[Any],
    *,
    device: Any = "auto",
    rois: Any = None,
    output: str = "torch",
    on_error: str = "return",
    num_workers: int = -1,
    dct: str = "accurate",
    paranoid: bool = False,
) -> tuple[list[Any], npt.NDArray[np.int8]]:
    """Decode JPEGs to RGB, all in one batch.

    Parameters
    ----------
    encoded : sequence of bytes-like
        Files in memory: bytes, memoryview, uint8 array (n,) or CPU tensor. Read during the call only.
    device : "auto", "cpu", or a GPU
        "auto": this process's GPU (LOCAL_RANK, else the first) if it can be used, else the CPU, with a
        warning. As `ToDevice`: 0, "cuda:1", a torch.device.
    rois : int (N, 4), optional
        Rectangles to keep: y, x, height, width in pixels of each image.
    output : {"torch", "cupy", "numpy"}
        What the images are. "numpy" is host memory, on whatever device they are decoded; "cupy" needs a GPU.
    on_error : {"return", "raise"}
        What happens to an image that cannot be decoded: its place holds None, or `DecodeError`.
    num_workers : int
        Threads on the CPU; less than 1: one per CPU this process may use.
    dct : {"accurate", "fast"}
        Arithmetic on the CPU, see `Loader`.
    paranoid : bool
        See `Loader`.

    Returns
    -------
    images : list
        ``images[i]`` is uint8 (height, width, 3), on the device, or None where ``status[i]`` is not 0. EXIF
        rotation is not applied; grey images have three equal channels. The images are views of one block of
        memory, which is free again when the last of them is dropped; with `rois` each has its own. They
        can be used at once on the stream that is current in the calling thread.
    status : int8 (N,)
        `DecodeStatus`, 0 is good.

    Raises
    ------
    DecodeError
        With ``on_error="raise"``: names the first bad image, its size in bytes and what is wrong.
    BackendUnavailable
        If the device, or nvJPEG, was asked for and cannot be used.
    PipelineError
        If an argument makes no sense, a rectangle outside its image among them.

    Examples
    --------
    >>> images, status = decode_jpegs([open("a.jpg", "rb").read()], device="cpu")   # doctest: +SKIP
    """
    if output not in OUTPUTS:
        raise PipelineError(f"decode_jpegs: output must be one of {', '.join(OUTPUTS)}, not {output!r}")
    if on_error not in ("return", "raise"):
        raise PipelineError(f"decode_jpegs: on_error must be 'return' or 'raise', not {on_error!r}")
    where = _device(device, output)
    job = _Job([_bytes(item, i) for i, item in enumerate(encoded)])
    boxes = None if rois is None else job.checked_rois(rois)
    if not job.lengths.size:
        return [], np.zeros(0, np.int8)
    if where == "cpu":
        pixels, outcome = _on_cpu(job, num_workers, dct)
    else:
        gpu = gpu_device(where)
        with gpu.owner.entered():
            pixels, outcome = _on_gpu(job, gpu, paranoid, dct)
    if on_error == "raise":
        job.refuse_bad(outcome, where)
    images = job.images(pixels, outcome, boxes)
    return _converted(images, output, where), outcome.status


def _device(device: Any, output: str) -> str:
    """Return the name of the device to decode on; checks that the output can be made there."""
    from ffcv_gpu.transforms.ops import device_name

    if device == "auto":
        name = default_gpu()
        try:
            require_device(name)
            nvjpeg_library.library()
        except BackendUnavailable as error:
            logger.warning("decode_jpegs(device='auto'): decoding on the CPU, because %s", error)
            name = "cpu"
    else:
        name = device_name(device)
        require_device(name)
    if output == "cupy" and name == "cpu":
        raise PipelineError("decode_jpegs: output='cupy' is on a GPU; pass device=0, or output='numpy'")
    return name


def _bytes(item: Any, index: int) -> ByteArray:
    """Return one encoded image as uint8 (n,); copies nothing."""
    if hasattr(item, "detach"):  # a torch tensor
        item = item.numpy()
    try:
        array = item if isinstance(item, np.ndarray) else np.frombuffer(item, np.uint8)
    except (TypeError, ValueError) as error:
        raise PipelineError(
            f"decode_jpegs: item {index} must be bytes or a uint8 array, not {type(item).__name__}"
        ) from error
    if array.dtype != np.uint8 or array.ndim != 1:
        raise PipelineError(
            f"decode_jpegs: item {index} must be bytes or a uint8 array (n,), not {array.dtype}{array.shape}"
        )
    return array


class _Job:
    """The images of one call: where they lie, encoded and decoded."""

    def __init__(self, items: list[ByteArray]) -> None:
        self.items = items
        self.lengths = np.array([item.size for item in items], np.int64)
        self.offsets = np.cumsum(self.lengths) - self.lengths
        # Headers are read where the bytes are, before anything is copied: sizes decide what memory to get.
        self.stored = np.concatenate(items) if items else np.zeros(0, np.uint8)
        self.found = scan_jpegs(self.stored, self.offsets, self.lengths)
        self.heights, self.widths = self.found.heights, self.found.widths
        sizes = -(-3 * self.heights * self.widths // ALIGNMENT) * ALIGNMENT
        self.starts: IntArray = np.cumsum(sizes) - sizes
        self.size_bytes = int(sizes.sum())

    def encoded(self, stored: ByteArray, which: IntArray) -> Encoded:
        """Return some images as a backend takes them; `stored` holds all of them."""
        facts = self.found.facts.copy()
        facts[self.found.precisions != 8] = np.array(NO_FACTS, facts.dtype)
        columns = (self.offsets, self.lengths, self.heights, self.widths, facts)
        return Encoded(stored, *(column[which] for column in columns))

    def readable(self) -> IntArray:
        """Return which images have a header that makes sense."""
        return np.flatnonzero(self.found.status == DecodeStatus.GOOD)

    def outcome(self, which: IntArray, decoded: Decoded) -> Decoded:
        """Return the outcome of all images, given that of the readable ones."""
        status, reasons = self.found.status.copy(), dict(self.found.reasons)
        status[which] = decoded.status
        reasons.update((int(which[i]), words) for i, words in decoded.reasons.items())
        return Decoded(status, reasons)

    def checked_rois(self, rois: Any) -> IntArray:
        """Return the rectangles as int64 (N, 4); those of unreadable images are not looked at."""
        boxes = np.asarray(rois)
        if boxes.shape != (len(self.items), 4) or boxes.dtype.kind not in "iu":
            raise PipelineError(
                f"decode_jpegs: rois must be integers of shape ({len(self.items)}, 4): y, x, height, width; "
                f"not {boxes.dtype}{boxes.shape}"
            )
        boxes = boxes.astype(np.int64)
        outside = (boxes[:, :2] < 0).any(axis=1) | (boxes[:, 2:] < 1).any(axis=1)
        outside |= boxes[:, 0] + boxes[:, 2] > self.heights
        outside |= boxes[:, 1] + boxes[:, 3] > self.widths
        outside &= self.found.status == DecodeStatus.GOOD
        if outside.any():
            i = int(outside.argmax())
            raise PipelineError(
                f"decode_jpegs: rois[{i}] = {boxes[i].tolist()} (y, x, height, width) does not lie in image "
                f"{i}, which is {self.widths[i]} x {self.heights[i]} pixels"
            )
        return boxes

    def refuse_bad(self, outcome: Decoded, where: str) -> None:
        """Raise `DecodeError` for the first image that is not good."""
        bad = np.flatnonzero(outcome.status)
        if bad.size:
            i = int(bad[0])
            raise DecodeError(
                f"decode_jpegs: image {i} ({self.lengths[i]} bytes) cannot be decoded on {where}: "
                f"{outcome.reasons.get(i, 'no reason given')} ({bad.size} of {len(self.items)} are bad)"
            )

    def images(self, pixels: Any, outcome: Decoded, boxes: IntArray | None) -> list[Any]:
        """Return each image as a view of `pixels`, uint8 (size_bytes,) of any kind; None for a bad one."""
        made: list[Any] = []
        columns = (outcome.status, self.starts, self.heights, self.widths)
        for i, (status, start, height, width) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            image = None
            if status == DecodeStatus.GOOD:
                image = pixels[start : start + 3 * height * width].reshape(height, width, 3)
                if boxes is not None:
                    y, x, rows, columns_ = boxes[i].tolist()
                    image = image[y : y + rows, x : x + columns_]
                    image = image.clone() if hasattr(image, "clone") else image.copy()
            made.append(image)
        return made


def _on_cpu(job: _Job, num_workers: int, dct: str) -> tuple[ByteArray, Decoded]:
    """Decode in threads of this call."""
    workers = num_workers if num_workers >= 1 else len(os.sched_getaffinity(0))
    backend, pixels, which = TurboBackend(dct), np.empty(job.size_bytes, np.uint8), job.readable()

    def decode(part: IntArray) -> Decoded:
        return backend.submit(job.encoded(job.stored, part), pixels, job.starts[part]).wait()

    parts = [part for part in np.array_split(which, 4 * workers) if part.size]
    with ThreadPoolExecutor(workers) as threads:
        outcomes = list(threads.map(decode, parts))
    status = np.concatenate([outcome.status for outcome in outcomes]) if outcomes else np.zeros(0, np.int8)
    reasons: dict[int, str] = {}
    first = 0
    for outcome in outcomes:
        reasons.update((first + i, words) for i, words in outcome.reasons.items())
        first += outcome.status.size
    return pixels, job.outcome(which, Decoded(status, reasons))


def _on_gpu(job: _Job, gpu: GpuDevice, paranoid: bool, dct: str) -> tuple[Any, Decoded]:
    """Decode on a GPU; returns when the pixels are there."""
    from ffcv_gpu.jpeg.nvjpeg.sharing import shared_backend

    which = job.readable()
    if not which.size:
        return np.zeros(0, np.uint8), job.outcome(which, Decoded(np.zeros(0, np.int8)))
    most = SMALL_BATCH if which.size <= SMALL_BATCH else BATCH
    backend = shared_backend(gpu, batch_size=most, paranoid=paranoid, dct=dct)
    slot = gpu.borrow(lambda: False)
    assert slot is not None, "nobody gave up"
    try:
        slot.grow(job.stored.size, 0)
        slot.pinned[: job.stored.size] = job.stored
        with gpu.owner.working_on(gpu.stream):
            pixels = gpu.empty((job.size_bytes,), "uint8")
        # What was in this memory before may still be read in the order of the stream; the decoder waits for
        # the event on the host, because an engine would not wait for the stream.
        arena = Arena(pixels, gpu.launches.views(pixels), job.size_bytes, gpu.new_event())
        gpu.stream.record(arena.used)
        ticket = backend.submit(job.encoded(slot.pinned, which), arena, job.starts[which])
        outcome = job.outcome(which, ticket.wait())
    finally:
        gpu.give_back(slot)
    ready = gpu.new_event()
    gpu.stream.record(ready)
    gpu.owner.hand_over([pixels], ready)
    return pixels, outcome


def _converted(images: list[Any], output: str, where: str) -> list[Any]:
    """Return the images as what the caller wants."""
    if where == "cpu":
        if output == "numpy":
            return images
        import torch

        return [None if image is None else torch.from_numpy(image) for image in images]
    if output == "numpy":
        return [None if image is None else _downloaded(image) for image in images]
    wanted, module = ("torch", "torch.utils.dlpack") if output == "torch" else ("cupy", "cupy")
    return [image if image is None else _as(image, wanted, module) for image in images]


def _downloaded(image: Any) -> npt.NDArray[np.uint8]:
    return image.cpu().numpy() if hasattr(image, "cpu") else image.get()  # type: ignore[no-any-return]


def _as(image: Any, wanted: str, module: str) -> Any:
    """Return a GPU image as torch's or CuPy's, sharing its memory (DLPack)."""
    import importlib

    if type(image).__module__.split(".")[0] == wanted:
        return image
    return importlib.import_module(module).from_dlpack(image)
