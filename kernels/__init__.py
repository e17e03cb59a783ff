"""Per-pixel arithmetic, and the loops that run it.

`resample`, `chroma`, `erase`, `color` and `pointwise` hold the arithmetic, as bodies that are inlined into
whatever calls them: the CPU's loops (``*_cpu``) and the CUDA kernels (``*_cuda``). Python calls `shell_cpu`
and `shell_cuda`; `alone` shows both on images that are arrays, without a dataset. `codes` (numbers that
kernels and callers agree on) and `block` (all of one launch in one range of bytes) may be imported without
numba; nothing else here may.
"""
