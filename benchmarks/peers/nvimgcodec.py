"""nvImageCodec's CPU decoder. It does not start without a GPU."""

from __future__ import annotations

from benchmarks.peers.base import Peer

__all__ = ["NVIMGCODEC"]

NVIMGCODEC = Peer(
    name="nvimgcodec",
    script="nvimgcodec_worker.py",
    steps=(("nvidia-nvimgcodec-cu13==0.9.0.20", "numpy"),),
    probe="from nvidia.nvimgcodec import *; Decoder(backends=[Backend(BackendKind.CPU_ONLY)])",
    hint="it needs a GPU, even for its CPU decoder",
    decoder={"nvImageCodec (CPU)": {"output": "RGB"}},
)
