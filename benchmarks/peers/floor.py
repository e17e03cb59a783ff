"""The floor: decoders with nothing around them.

libjpeg-turbo as simplejpeg brings it, and as libturbojpeg 3 where the system has one (or the environment
variable FFCV_GPU_TURBOJPEG names its file): every image is decoded whole, in threads, into memory that is
there already. What a loader does more comes on top. Bare nvJPEG is measured by ``python -m benchmarks gpu``.
"""

from __future__ import annotations

from benchmarks.peers.base import Peer

__all__ = ["SIMPLEJPEG", "TURBOJPEG"]

SIMPLEJPEG = Peer(
    name="simplejpeg",
    script="simplejpeg_worker.py",
    own=True,
    loader={"bare simplejpeg, whole images, no crop": {"container": "folder", "dct": "accurate"}},
    decoder={"bare simplejpeg": {"dct": "accurate"}},
)
TURBOJPEG = Peer(
    name="turbojpeg",
    script="turbojpeg_worker.py",
    own=True,
    probe="from ffcv_gpu.native.turbojpeg3 import required; required()",
    hint="libturbojpeg 3 or newer: of the system or conda, or its file named by FFCV_GPU_TURBOJPEG",
    loader={"bare libturbojpeg 3, whole images, no crop": {"container": "folder", "dct": "accurate"}},
    decoder={"bare libturbojpeg 3": {"dct": "accurate"}},
)
