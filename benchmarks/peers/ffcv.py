"""FFCV 1.0.2, the ancestor: compiled on installation against OpenCV's and libjpeg-turbo's headers.

On Debian and Ubuntu first::

    apt install pkg-config g++ libturbojpeg0-dev libopencv-dev

then ``python -m benchmarks setup-peer ffcv`` (its compiler run takes seconds, its download of torch longer).
A ready environment is named by ``--ffcv-python`` or FFCV_GPU_FFCV_PYTHON. The 1.0.2 package prints 0.0.3rc1
as its ``__version__``; results carry the version that pip knows.
"""

from __future__ import annotations

from benchmarks.peers.base import Peer

__all__ = ["FFCV", "FFCV_VERSION"]

DEBIAN = "pkg-config g++ libturbojpeg0-dev libopencv-dev"

# What its setup.py and its modules import without saying so comes first; isolation would hide it again.
REQUIREMENTS = (
    "torch", "numba", "opencv-python-headless", "pillow", "tqdm", "psutil", "pandas", "fastargs",
    "terminaltables", "pytorch_pfn_extras", "setuptools", "wheel",
)  # fmt: skip

FFCV_VERSION = "1.0.2"

FFCV = Peer(
    name="ffcv",
    script="ffcv_worker.py",
    steps=(REQUIREMENTS, ("--no-build-isolation", f"ffcv=={FFCV_VERSION}")),
    needs={"libturbojpeg": DEBIAN, "opencv4": DEBIAN},
    # It decodes with the fast DCT, and cannot otherwise.
    loader={"FFCV": {"output": "uint8"}},
)
