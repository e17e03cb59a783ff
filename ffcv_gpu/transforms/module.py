"""ModuleWrapper: any callable on tensors, usually a torch.nn.Module, as a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.steps import ArrayStep, ValueSpec

__all__ = ["ModuleWrapper"]

_TO_TENSOR = frozenset({"PILToTensor", "ToImage", "ToTensor"})


class ModuleWrapper(ArrayStep):
    """Run a torch module on the finished batch, without gradients.

    Batches: a tensor (N, ...) as the pipeline leaves it; the output may have any shape and dtype. The Loader
    wraps modules in pipeline lists itself. A module runs in the loader's thread, on the batch's device, and
    draws random numbers from torch's own generator, which the loader's `seed` does not affect. It is called
    once per batch: torchvision's random transforms draw once for all of its images. On a GPU it runs on the
    loader's stream, after all that your current stream was given before ``iter(loader)``.

    Parameters
    ----------
    module : torch.nn.Module
        Called with the batch; returns the new batch.

    Raises
    ------
    PipelineError
        When the Loader is created, if torch is missing or the batch is not a tensor at that point. While
        iterating, if the module returns None. Exceptions of the module itself propagate to the training loop,
        with a note that names the module and the batch.
    """

    why = "a torch module, called with the finished batch"
    takes_ragged = True

    def __init__(self, module: Callable[[Any], Any]) -> None:
        if not callable(module):
            raise PipelineError(f"{module!r} is neither a step of ffcv_gpu nor a torch module")
        self.module = module

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return a spec with unknown shape and dtype; `PipelineError` on numpy batches."""
        if spec.container != "tensor":
            kind = type(self.module)
            name = getattr(self.module, "__qualname__", f"{kind.__module__}.{kind.__qualname__}")
            if _makes_tensors(self.module):
                raise PipelineError(f"{name} takes single PIL images; put ffcv_gpu's ToTensor() in its place")
            raise PipelineError(
                f"{name} works on tensors; put ffcv_gpu's ToTensor() before it in the pipeline"
            )
        return spec.with_(shape=None, dtype=None, ragged=False)

    def apply(self, batch: Any, spec: ValueSpec) -> Any:
        """Return ``module(batch)``."""
        import torch

        with torch.no_grad():
            result = self.module(batch)
        if result is None:
            raise PipelineError(f"{self!r} returned None; it must return the new batch")
        return result


def _makes_tensors(module: Any) -> bool:
    """Return True for torchvision's transforms from PIL images and arrays to tensors."""
    kind = type(module)
    return kind.__module__.startswith("torchvision.") and kind.__name__ in _TO_TENSOR
