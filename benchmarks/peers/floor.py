"""Bare decoders: the limit of what a loader can reach.

libjpeg-turbo as bundled with simplejpeg, and libturbojpeg 3 if the system has it (or FFCV_GPU_TURBOJPEG names
its file): whole images decoded in threads into allocated memory. ``python -m benchmarks gpu`` measures bare
nvJPEG.
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
    hint="libturbojpeg 3 or newer: from the system or conda, or FFCV_GPU_TURBOJPEG names its file",
    loader={"bare libturbojpeg 3, whole images, no crop": {"container": "folder", "dct": "accurate"}},
    decoder={"bare libturbojpeg 3": {"dct": "accurate"}},
)
