"""FFCV's module path of `Graph`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.absent import DecoderNode, Graph, Node, RefNode, TransformNode

__all__ = ["DecoderNode", "Graph", "Node", "RefNode", "TransformNode"]
