"""Other libraries to compare with: one file each, installed in separate environments."""

from __future__ import annotations

from benchmarks.peers.base import Peer
from benchmarks.peers.dali import DALI
from benchmarks.peers.decoders import OPENCV, PILLOW
from benchmarks.peers.ffcv import FFCV, FFCV_VERSION
from benchmarks.peers.floor import SIMPLEJPEG, TURBOJPEG
from benchmarks.peers.libturbojpeg import LIBTURBOJPEG, NativeLibrary
from benchmarks.peers.nvimgcodec import NVIMGCODEC
from benchmarks.peers.spdl import SPDL
from benchmarks.peers.torch_opencv import TORCH_OPENCV
from benchmarks.peers.torch_pillow import TORCH_PILLOW
from benchmarks.peers.torchcodec import TORCHCODEC
from benchmarks.peers.webdataset import WEBDATASET

__all__ = ["FFCV", "FFCV_VERSION", "INSTALLABLE", "LIBTURBOJPEG", "PEERS", "TURBOJPEG", "Peer"]

_ALL = (FFCV, DALI, SPDL, TORCH_OPENCV, TORCH_PILLOW, WEBDATASET, TORCHCODEC, OPENCV, PILLOW, NVIMGCODEC,
        SIMPLEJPEG, TURBOJPEG)  # fmt: skip
PEERS = {peer.name: peer for peer in _ALL}
#: what ``setup-peer`` can install; the last is not a contender, but one of ours needs it
INSTALLABLE: dict[str, Peer | NativeLibrary] = {
    **{name: peer for name, peer in PEERS.items() if peer.steps},
    LIBTURBOJPEG.name: LIBTURBOJPEG,
}
