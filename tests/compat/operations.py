"""Operations as FFCV's documentation shows them, and a small dataset of known pixels to run them on."""

import random
from dataclasses import replace

import numpy as np

from ffcv_gpu.fields.decoders import SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.pipeline.allocation_query import AllocationQuery
from ffcv_gpu.pipeline.compiler import Compiler
from ffcv_gpu.pipeline.operation import Operation

N, SIDE = 22, 12
PIXELS = np.random.default_rng(3).integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)


def images_of(path, *steps, label=None, **options):
    pipelines = {"image": [SimpleRGBImageDecoder(), *steps], "label": label}
    return Loader(path, **{"batch_size": 8, "drop_last": False, "pipelines": pipelines, "seed": 1} | options)


def column(loader, place=0):
    return np.concatenate([np.asarray(batch[place]) for batch in loader])


class Corner(Operation):
    """The upper left quarter, into memory of a new shape."""

    def generate_code(self):
        parallel_range = Compiler.get_iterator()

        def corner(images, dst):
            for i in parallel_range(images.shape[0]):
                dst[i] = images[i, : images.shape[1] // 2, : images.shape[2] // 2]
            return dst

        corner.is_parallel = True
        return corner

    def declare_state_and_memory(self, previous_state):
        h, w, c = previous_state.shape
        new_shape = (h // 2, w // 2, c)
        return replace(previous_state, shape=new_shape), AllocationQuery(new_shape, previous_state.dtype)


class Invert(Operation):
    """In place, in two pieces of memory it does not need; as Python if `jit` is false."""

    def __init__(self, jit=True):
        self.jit = jit

    def generate_code(self):
        def invert(images, memory):
            first, second = memory
            if first.shape != (len(images), 3) or second.shape != (len(images),):
                raise ValueError("not the memory that was asked for")
            images[:] = 255 - images
            return images

        return invert

    def declare_state_and_memory(self, previous_state):
        queries = (AllocationQuery((3,), np.dtype("f4")), AllocationQuery((), np.dtype("i8")))
        return replace(previous_state, jit_mode=self.jit), queries


class AddIndex(Operation):
    """Each pixel plus its sample's row of the file."""

    def generate_code(self):
        def add(images, memory, indices):
            for i in range(len(indices)):
                memory[i] = images[i] + indices[i]
            return memory

        add.with_indices = True
        return add

    def declare_state_and_memory(self, previous_state):
        dtype = np.dtype("int64")
        return replace(previous_state, dtype=dtype), AllocationQuery(previous_state.shape, dtype)


class Noise(Operation):
    """Uniform noise by numba's generator."""

    def generate_code(self):
        def noise(images, dst):
            for i in range(len(images)):
                dst[i] = np.random.randint(0, 256)  # noqa: NPY002 (numba's)
            return dst

        return noise

    def declare_state_and_memory(self, previous_state):
        return previous_state, AllocationQuery(previous_state.shape, previous_state.dtype)


class PythonNoise(Noise):
    """As `Noise`, by the generator that numba has for Python's module `random`."""

    def generate_code(self):
        def noise(images, dst):
            for i in range(len(images)):
                dst[i] = random.randint(0, 255)
            return dst

        return noise


class Shared(Operation):
    """One number a batch in shared memory: added to images and to labels alike."""

    def generate_code(self):
        def add(batch, memory, shared):
            for i in range(len(batch)):
                memory[i] = batch[i] + shared[0, 0]
            return memory

        return add

    def declare_state_and_memory(self, previous_state):
        dtype = np.dtype("int64")
        return replace(previous_state, dtype=dtype), AllocationQuery(previous_state.shape, dtype)

    def declare_shared_memory(self, previous_state):
        return AllocationQuery((1,), np.dtype("int64"))

    def generate_code_for_shared_state(self):
        def draw(shared):
            shared[:] = np.random.randint(1, 1_000_000)  # noqa: NPY002 (numba's)

        return draw


def python_mode(declare):
    def declared(self, previous_state):
        state, query = declare(self, previous_state)
        return replace(state, jit_mode=False), query

    return declared
