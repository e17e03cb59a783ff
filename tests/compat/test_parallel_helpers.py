"""Operations that call a function which the user compiled by numba with parallel=True."""

import os
import subprocess
import sys
import textwrap

import pytest

from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.writer import DatasetWriter

PROGRAM = textwrap.dedent(
    """
    import sys

    import numpy as np
    from numba import njit, prange

    from ffcv_gpu.fields.decoders import SimpleRGBImageDecoder
    from ffcv_gpu.loader import Loader
    from ffcv_gpu.pipeline.allocation_query import AllocationQuery
    from ffcv_gpu.pipeline.operation import Operation


    @njit(parallel=True)
    def inverted(image, out):
        for y in prange(image.shape[0]):
            total = 0.0
            for k in range(20_000):
                total += np.sin(image[y, 0, 0] + k)
            out[y] = 255 - image[y]
            if total > 1e9:
                out[y] = 0


    class Invert(Operation):
        def generate_code(self):
            def invert(images, dst):
                for i in range(len(images)):
                    inverted(images[i], dst[i])
                return dst

            return invert

        def declare_state_and_memory(self, state):
            return state, AllocationQuery(state.shape, state.dtype)


    def batches(*steps):
        pipelines = {"image": [SimpleRGBImageDecoder(), *steps]}
        loader = Loader(sys.argv[1], 2, num_workers=4, pipelines=pipelines)
        return loader, np.concatenate([images for images, in loader])


    loader, images = batches(Invert())
    assert np.array_equal(images, 255 - batches()[1])
    print("batch after batch" in loader.explain())
    """
)


@pytest.mark.long
@pytest.mark.parametrize(("layer", "in_turns"), [("workqueue", "True"), ("default", "False")])  # 15 s each
def test_it_works_batch_after_batch_where_numba_would_abort(tmp_path, make_photo, layer, in_turns):
    path = tmp_path / "photos.beton"
    photos = [(make_photo(32, 32, i),) for i in range(24)]
    fields = {"image": RGBImageField(write_mode="jpg")}
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(photos)
    if layer == "default" and not numbas_default_is_thread_safe():
        pytest.skip("numba has neither TBB nor OpenMP here")
    done = run(PROGRAM, layer, str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [in_turns]


def numbas_default_is_thread_safe():
    program = "from numba import njit, prange, threading_layer\n" + textwrap.dedent(
        """
        @njit(parallel=True)
        def count(n):
            total = 0
            for _ in prange(n):
                total += 1
            return total

        count(9)
        print(threading_layer())
        """
    )
    return run(program, "default").stdout.strip() != "workqueue"


def run(program, layer, *arguments):
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
