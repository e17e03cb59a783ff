"""Other libraries to compare with: one file each, installed aside in an environment of its own."""

from __future__ import annotations

from benchmarks.peers.base import Peer
from benchmarks.peers.ffcv import FFCV
from benchmarks.peers.libturbojpeg import LIBTURBOJPEG, NativeLibrary

__all__ = ["FFCV", "LIBRARIES", "LIBTURBOJPEG", "PEERS", "NativeLibrary", "Peer"]

PEERS = {peer.name: peer for peer in (FFCV,)}
#: what is no contender but makes one of ours possible
LIBRARIES = {library.name: library for library in (LIBTURBOJPEG,)}
