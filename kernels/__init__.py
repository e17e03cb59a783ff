"""Per-pixel arithmetic, and the loops that run it.

`resample`, `chroma`, `erase`, `color` and `pointwise` hold the arithmetic, as bodies that are inlined into
their callers: the CPU loops (``*_cpu``) and the CUDA kernels (``*_cuda``). Python calls `shell_cpu` and
`shell_cuda`; `alone` shows both on plain array images, without a dataset. Only `alone`, `codes`, `pass_codes`
(the numbers that kernels and callers agree on), `block` and `pass_block` (all data of one launch in one range
of bytes) can be imported without numba.
"""
