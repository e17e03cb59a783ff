"""The call: checks what it is given, decodes where it shall, returns what is wanted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.decode.arguments import Job, check_choices, device_of
from ffcv_gpu.decode.cpu import host_backend, on_cpu, trim_pool
from ffcv_gpu.decode.gpu import leave_gpus, on_gpu
from ffcv_gpu.device import gpu_device

__all__ = ["decode_jpegs", "trim_memory"]


def decode_jpegs(
    encoded: Sequence[Any],
    *,
    device: Any = "auto",
    rois: Any = None,
    output: str = "torch",
    on_error: str = "return",
    num_workers: int = -1,
    jpeg_backend: str | None = None,
    dct: str = "accurate",
    paranoid: bool = False,
) -> tuple[list[Any], npt.NDArray[np.int8]]:
    """Decode JPEGs to RGB, all in one batch.

    Parameters
    ----------
    encoded : sequence of bytes-like
        Files in memory: bytes, memoryview, uint8 array (n,) or CPU tensor. Read during the call only; on the
        CPU where they lie. For a GPU they are copied to pinned memory, which is kept for later calls, as the
        decoder is (see `trim_memory`).
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
        Threads on the CPU, the calling one among them; less than 1: one per CPU this process may use. For a
        GPU they copy the files, one thread for each 8 MiB at most, while its engines decode the files before.
    jpeg_backend : None, "nvjpeg", "turbo" or "turbo3"
        None: nvJPEG on a GPU, else simplejpeg's libjpeg-turbo. "turbo3" is a libturbojpeg 3 (see `Loader`)
        that decodes no more of an image than its rectangle needs. The pixels are the same, but it misses
        much of the damage that a whole decode notices, and so must be asked for. "turbo" and "turbo3" are
        on the CPU only, also with ``device="auto"``.
    dct : {"accurate", "fast"}
        Arithmetic on the CPU, see `Loader`.
    paranoid : bool
        See `Loader`.

    Returns
    -------
    images : list
        ``images[i]`` is uint8 (height, width, 3), on the device, or None where ``status[i]`` is not 0. EXIF
        rotation is not applied; grey images have three equal channels. They can be used at once on the
        stream that is current in the calling thread.

        On the CPU an image's memory is its own as long as anything refers to it: an array, a view, a
        tensor. (Images below 1 MiB lie several in a block of at most 4 MiB, which is theirs until the last
        of them is dropped; with `rois` each has its own.) What is free is kept for later calls, up to 1 GiB
        in a process (of more, what has lain longest goes), until `trim_memory` gives it back. On a GPU the
        images are views of one block of memory, which is free again when the last of them is dropped; with
        `rois` each has its own.
    status : int8 (N,)
        `DecodeStatus`, 0 is good.

    Raises
    ------
    DecodeError
        With ``on_error="raise"``: names the first bad image, its size in bytes and what is wrong.
    BackendUnavailable
        If the device, nvJPEG or libturbojpeg 3 was asked for and cannot be used.
    PipelineError
        If an argument makes no sense, a rectangle outside its image among them.

    Examples
    --------
    >>> images, status = decode_jpegs([open("a.jpg", "rb").read()], device="cpu")   # doctest: +SKIP
    """
    check_choices(output=output, on_error=on_error, jpeg_backend=jpeg_backend)
    where = device_of(device, output, jpeg_backend)
    job = Job(encoded)
    boxes = None if rois is None else job.checked_rois(rois)
    if not job.items:
        return [], np.zeros(0, np.int8)
    images: list[Any]
    workers = num_workers if num_workers >= 1 else len(os.sched_getaffinity(0))
    if where == "cpu":
        images, outcome = on_cpu(job, boxes, host_backend(jpeg_backend or "turbo", dct), workers)
    else:
        images, outcome = on_gpu(job, boxes, gpu_device(where), workers, paranoid, dct)
    if on_error == "raise":
        job.refuse_bad(outcome, where)
    return _converted(images, output, where), outcome.status


def trim_memory() -> None:
    """Give back what `decode_jpegs` keeps for later calls.

    That is memory that no image uses any more, and pinned memory for GPUs that no loader uses. What nvJPEG
    has taken of a GPU stays.
    """
    trim_pool()
    leave_gpus()


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
