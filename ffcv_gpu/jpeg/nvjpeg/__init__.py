"""JPEG on the GPU, by nvJPEG. Rehearsed against a fake at the C boundary, not yet run on a GPU.

`backend` is what the engine asks; a call is a `job` (routing, retries) that borrows a `slot` (what a call
in flight owns), which decodes by the `batch` or one image at a time (`single`); `handles` are made once.
"""

from ffcv_gpu.jpeg.nvjpeg.backend import NvjpegBackend, NvjpegTicket

__all__ = ["NvjpegBackend", "NvjpegTicket"]
