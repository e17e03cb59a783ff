"""`decode_jpegs`: checks its arguments, decodes on the chosen device, converts the output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.cpus import usable_cpus
from ffcv_gpu.decode.arguments import Job, check_choices, device_of
from ffcv_gpu.decode.cpu import host_backend, on_cpu, trim_pool
from ffcv_gpu.decode.gpu import leave_gpus, on_gpu
from ffcv_gpu.device import gpu_device
from ffcv_gpu.steps.checks import whole

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
    """Decode a batch of JPEGs to RGB.

    Parameters
    ----------
    encoded : sequence of bytes-like
        JPEG files in memory: bytes, memoryview, uint8 array (n,) or CPU tensor, read only during the call.
        On the CPU they are decoded without a copy. For a GPU they are copied to pinned memory, which is
        kept for later calls, as is the decoder (see `trim_memory`).
    device : "auto", "cpu", or a GPU
        "auto": this process's GPU (torch's current device, else that of LOCAL_RANK) if it is usable, else
        the CPU, with one warning. A GPU is given as in `ToDevice`: 0, "cuda:1", a torch.device.
    rois : int (N, 4), optional
        The rectangle to keep of each image: y, x, height, width in pixels. On the CPU, little more than it is
        decoded of JPEGs with an index for crops (``RGBImageField(crop_index=True)``) that are as they were
        written, to the same pixels and status.
    output : {"torch", "cupy", "numpy"}
        Type of the images. "numpy" returns host memory even if a GPU decodes; "cupy" needs a GPU. CuPy arrays
        share memory with torch, where it is installed, if its current stream is CuPy's; else they are copied.
    on_error : {"return", "raise"}
        "return": None takes the place of an image that cannot be decoded. "raise": raise `DecodeError`. An
        image of more than 178,956,970 pixels, Pillow's limit, is not decoded, unless FFCV_GPU_MAX_PIXELS in
        the environment is larger.
    num_workers : int
        Number of CPU threads, including the calling one; less than 1: one per CPU this process may use. For
        a GPU, the threads copy files while the GPU's engines decode earlier ones; there is at most one
        additional thread per 8 MiB.
    jpeg_backend : None, "nvjpeg", "turbo", "turbo2" or "turbo3"
        None: nvJPEG on a GPU, else "turbo", simplejpeg's libjpeg-turbo. "turbo2" is the machine's
        libturbojpeg. "turbo3" is a libturbojpeg 3 (see `Loader`) that decodes only the part of an image that
        its rectangle needs. The pixels are the same, but it misses much of the damage that decoding the
        whole image reveals, so it is used only on request. These three run on the CPU only, also with
        ``device="auto"``.
    dct : {"accurate", "fast"}
        DCT arithmetic on the CPU; see `Loader`.
    paranoid : bool
        Check for images that nvJPEG skips without an error; see `Loader`.

    Returns
    -------
    images : list
        ``images[i]`` is uint8 (height, width, 3), on the device (on the host for "numpy"), or None where
        ``status[i]`` is not 0. EXIF rotation is not applied; grey images have three equal channels. The
        images can be used at once on the calling thread's current stream.

        On the CPU, an image's memory is not reused while an array, view or tensor refers to it. (Images
        below 1 MiB share blocks of at most 4 MiB, each freed with its last image; with `rois`, each image
        has memory of its own.) Free memory is kept for later calls, up to 1 GiB per process (beyond that,
        the memory unused for longest is released), until `trim_memory` releases it. On a GPU, the images
        are views of one block of memory, which is freed with the last of them; with `rois`, each image has
        memory of its own.
    status : int8 (N,)
        A `DecodeStatus` per image; 0 is good.

    Raises
    ------
    DecodeError
        With ``on_error="raise"``: names the first bad image, its size in bytes and what is wrong.
    BackendUnavailable
        If the device, nvJPEG or libturbojpeg was requested and cannot be used.
    PipelineError
        If an argument is invalid; this includes a rectangle that is not inside its image.
    MemoryError
        If memory runs out, also in libjpeg; a GPU's memory: `OutOfGpuMemory`, or `NvjpegError` in nvJPEG.

    Examples
    --------
    >>> images, status = decode_jpegs([open("a.jpg", "rb").read()], device="cpu")   # doctest: +SKIP
    """
    check_choices(output=output, on_error=on_error, jpeg_backend=jpeg_backend, dct=dct)
    wanted = whole(num_workers, "decode_jpegs: num_workers", -math.inf)
    where = device_of(device, output, jpeg_backend)
    job = Job(encoded)
    boxes = None if rois is None else job.checked_rois(rois)
    if not job.items:
        return [], np.zeros(0, np.int8)
    images: list[Any]
    workers = wanted if wanted >= 1 else usable_cpus()
    if where == "cpu":
        images, outcome = on_cpu(job, boxes, host_backend(jpeg_backend or "turbo", dct), workers)
    else:
        images, outcome = on_gpu(job, boxes, gpu_device(where), workers, paranoid, dct)
    if on_error == "raise":
        job.refuse_bad(outcome, where)
    return _converted(images, output, where), outcome.status


def trim_memory() -> None:
    """Release the memory that `decode_jpegs` keeps for later calls.

    This is host memory that no image uses any more, and the pinned memory of GPUs that no loader uses.
    nvJPEG keeps the GPU memory it has allocated.
    """
    trim_pool()
    leave_gpus()


def _converted(images: list[Any], output: str, where: str) -> list[Any]:
    """Return the images converted to the type `output`."""
    if where == "cpu":
        if output == "numpy":
            return images
        import torch

        return [None if image is None else torch.from_numpy(image) for image in images]
    if output == "numpy":
        return [None if image is None else _downloaded(image) for image in images]
    if output == "cupy":
        return _as_cupy(images, int(where.partition(":")[2]))
    return [None if image is None else _as(image, "torch", "torch.utils.dlpack") for image in images]


def _as_cupy(images: list[Any], gpu: int) -> list[Any]:
    """Return GPU images as CuPy arrays, which can be dropped while CuPy's current stream still reads them.

    They share torch's memory only if that stream is torch's current one: torch would not wait for another
    before it reuses the memory.
    """
    import cupy

    arrays = [None if image is None else _as(image, "cupy", "cupy") for image in images]
    owner = next((image for image in images if image is not None), None)
    reader = cupy.cuda.get_current_stream(gpu)
    if hasattr(owner, "record_stream"):  # torch's
        import torch

        if reader.ptr != torch.cuda.current_stream(gpu).cuda_stream:
            arrays = [array if array is None else array.copy() for array in arrays]
            reader.synchronize()  # then torch may have its own back
    return arrays


def _downloaded(image: Any) -> npt.NDArray[np.uint8]:
    return image.cpu().numpy() if hasattr(image, "cpu") else image.get()  # type: ignore[no-any-return]


def _as(image: Any, wanted: str, module: str) -> Any:
    """Return a GPU image as a torch tensor or CuPy array that shares its memory (DLPack)."""
    import importlib

    if type(image).__module__.split(".")[0] == wanted:
        return image
    return importlib.import_module(module).from_dlpack(image)
