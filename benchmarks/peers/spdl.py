"""SPDL: a pipeline of threads over FFmpeg's decoders and filters.

As in its examples: each stage runs in the pipeline's threads, one per core; FFmpeg crops, scales and flips in
one filter graph; a batch is converted to one buffer. It needs all of FFmpeg's libraries (4 to 9) from the
system::

    apt install ffmpeg
"""

from __future__ import annotations

from benchmarks.peers.base import Peer

__all__ = ["SPDL"]

SPDL = Peer(
    name="spdl",
    script="spdl_worker.py",
    steps=(("spdl==0.8.0", "spdl-io==0.8.0", "numpy"),),
    probe="import spdl.io; spdl.io.decode_config()",
    hint="it needs FFmpeg's libraries: apt install ffmpeg",
    loader={
        "SPDL": {"container": "folder", "buffer_size": 3, "resample": "bilinear", "output": "uint8 NHWC"}
    },
    decoder={"SPDL": {"output": "RGB"}},
)
