"""Runs the CUDA kernels of `passes_cuda` in numba's simulator.

Called by test_passes_cuda.py in a process of its own: ``simulate_passes.py IN.npz OUT.npz``, with
NUMBA_ENABLE_CUDASIM=1 and NUMBA_DISABLE_JIT=1.
"""

import sys

import numpy as np
from numba import cuda

from ffcv_gpu.kernels import passes_cuda as kernels

given, results = np.load(sys.argv[1]), {}
source = given["images"]
count, height, width, channels = source.shape
shape = height, width, channels
images = source.reshape(-1)
THREADS = kernels.THREADS


def launch(function, *arguments, each=height * width * channels):
    parts = -(-each // THREADS)
    cuda.jit(function)[(count, parts), THREADS](*arguments)


out = np.zeros_like(images)
launch(kernels.sharpen, images, given["amounts"], out, *shape)
results["sharpen"] = out

between, out = np.zeros(images.size, np.float32), np.zeros_like(images)
weights = given["weights"]
launch(kernels.blur_columns, images, weights.reshape(-1), weights.shape[1], between, *shape)
launch(kernels.blur_rows, between, weights.reshape(-1), weights.shape[1], out, *shape)
results["blur"] = out

out = np.zeros_like(images)
matrices = given["matrices"].reshape(-1)
launch(kernels.warp, images, matrices, given["fill"], out, *shape, each=height * width)
results["warp"] = out

out = images.copy()
launch(kernels.remap, out, given["modes"], *shape, each=1)
results["remap"] = out

out = images.copy()
plane = given["keep"].reshape(-1)
launch(kernels.blend, out, given["chosen"], plane, plane, given["limits"], *shape)
results["blend"] = out

params = np.zeros(count * 3, np.float32)
launch(kernels.mean_grey, images, params, 3, 1, *shape, each=1)
results["mean_grey"] = params

padded = np.full(count * (height + 2) * (width + 3) * channels, 9, np.uint8)
size = height + 2, width + 3, channels
launch(kernels.pad, images, given["table"].reshape(-1), padded, *size, each=int(np.prod(size)))
results["pad"] = padded

np.savez(sys.argv[2], **{name: array.reshape(count, -1) for name, array in results.items()})
