"""Per-pixel arithmetic, and the loops that run it.

`resample`, `erase` and `pointwise` hold the arithmetic, as bodies that are inlined into whatever calls
them: the CPU's loops (`axis_cpu`, `rows_cpu`, `shell_cpu`), and CUDA kernels. `codes` holds the numbers
that kernels and their callers agree on and may be imported without numba; nothing else here may.
"""
