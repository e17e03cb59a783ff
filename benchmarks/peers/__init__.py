"""Other libraries to compare with, installed aside in environments of their own."""

from __future__ import annotations

from benchmarks.peers.base import Peer
from benchmarks.peers.known import FFCV, PEERS, TURBOJPEG
from benchmarks.peers.libturbojpeg import LIBTURBOJPEG, NativeLibrary

__all__ = ["FFCV", "INSTALLABLE", "LIBTURBOJPEG", "PEERS", "TURBOJPEG", "Peer"]

#: those that ``setup-peer`` knows how to install; the last is no contender but makes one of ours possible
INSTALLABLE: dict[str, Peer | NativeLibrary] = {
    **{name: peer for name, peer in PEERS.items() if peer.steps},
    LIBTURBOJPEG.name: LIBTURBOJPEG,
}
