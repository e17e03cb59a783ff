"""JPEG decoding on the GPU by nvJPEG. Tested against a fake C library; run on one GPU so far, an H200.

`backend` is the interface. Each call is a `job` (routing, retries) that borrows a `slot` (the resources of a
call in flight), and decodes in a `batch` or one image at a time (`single`). `handles` are created once.
"""

from ffcv_gpu.jpeg.nvjpeg.backend import NvjpegBackend, NvjpegTicket

__all__ = ["NvjpegBackend", "NvjpegTicket"]
