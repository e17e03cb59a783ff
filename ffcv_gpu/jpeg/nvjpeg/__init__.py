"""JPEG on the GPU, by nvJPEG. Tested against a fake at the C boundary; run on one GPU so far, an H200.

`backend` is what the engine asks; a call is a `job` (routing, retries) that borrows a `slot` (what a call
in flight owns), which decodes by the `batch` or one image at a time (`single`); `handles` are made once.
"""

from ffcv_gpu.jpeg.nvjpeg.backend import NvjpegBackend, NvjpegTicket

__all__ = ["NvjpegBackend", "NvjpegTicket"]
