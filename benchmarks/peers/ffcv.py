"""FFCV 1.0.2: compiled on installation against the headers of OpenCV and libjpeg-turbo.

On Debian and Ubuntu first::

    apt install pkg-config g++ libturbojpeg0-dev libopencv-dev

then ``python -m benchmarks setup-peer ffcv`` (compiling takes seconds, downloading torch longer).
``--ffcv-python`` or FFCV_GPU_FFCV_PYTHON names an existing environment. The ``__version__`` of the 1.0.2
package is 0.0.3rc1; results record the version that pip knows.
"""

from __future__ import annotations

from benchmarks.peers.base import Peer

__all__ = ["FFCV", "FFCV_VERSION"]

DEBIAN = "pkg-config g++ libturbojpeg0-dev libopencv-dev"

# Undeclared dependencies of its setup.py and modules, installed first; build isolation would hide them.
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
    # It always decodes with the fast DCT.
    loader={"FFCV": {"output": "uint8"}},
)
