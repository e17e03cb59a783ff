"""Other libraries to compare with: one file each, installed aside in an environment of its own."""

from __future__ import annotations

from benchmarks.peers.base import Peer
from benchmarks.peers.ffcv import FFCV

__all__ = ["FFCV", "PEERS", "Peer"]

PEERS = {peer.name: peer for peer in (FFCV,)}
