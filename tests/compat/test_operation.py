"""A user's own operations, written as FFCV's documentation shows, compared with plain numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ffcv_gpu.compat.state import State
from ffcv_gpu.fields import NDArrayField
from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.pipeline.allocation_query import AllocationQuery
from ffcv_gpu.pipeline.compiler import Compiler
from ffcv_gpu.pipeline.operation import Operation
from ffcv_gpu.steps import Step
from ffcv_gpu.transforms import (
    Convert,
    Squeeze,
    ToTensor,
    ToTorchImage,
)
from ffcv_gpu.writer import DatasetWriter
from tests.compat.operations import (
    PIXELS,
    SIDE,
    AddIndex,
    Corner,
    Invert,
    N,
    Noise,
    PythonNoise,
    Shared,
    column,
    images_of,
    python_mode,
)


class Same(Operation):
    def generate_code(self):
        return lambda batch, memory: batch

    def declare_state_and_memory(self, previous_state):
        return replace(previous_state, jit_mode=False), None


def test_memory_of_a_new_shape(known):
    loader = images_of(known, Corner())
    assert np.array_equal(column(loader), PIXELS[:, : SIDE // 2, : SIDE // 2])
    torch_images = column(images_of(known, Corner(), ToTensor(), ToTorchImage(), Convert(torch.float32)))
    assert np.array_equal(torch_images, PIXELS[:, :6, :6].transpose(0, 3, 1, 2).astype(np.float32))


@pytest.mark.parametrize("jit", [True, False])
def test_in_place_with_two_memories_compiled_and_not(known, jit):
    loader = images_of(known, Invert(jit), Corner())
    assert np.array_equal(column(loader), 255 - PIXELS[:, :6, :6])
    how = "compiled by numba" if jit else "uncompiled Python"
    assert how in loader.explain() and loader.explain().count(how) == 2  # Corner inherits the mode
    # the pixels of the file are not what was inverted
    assert np.array_equal(column(images_of(known)), PIXELS)


def test_other_outputs_do_not_see_work_in_place(known):
    decoder = SimpleRGBImageDecoder()
    pipelines = {"image": [decoder, Invert()], "label": None, "plain": PipelineSpec("image", decoder)}
    loader = Loader(known, 8, pipelines=pipelines, drop_last=False)
    assert np.array_equal(column(loader), 255 - PIXELS) and np.array_equal(column(loader, 1), PIXELS)


def test_switched_off_compilation_gives_the_same(known, monkeypatch):
    expected = column(images_of(known, AddIndex()))
    monkeypatch.setattr(Compiler, "is_enabled", Compiler.is_enabled)
    Compiler.set_enabled(False)
    loader = images_of(known, AddIndex())
    assert "uncompiled" in loader.explain() and np.array_equal(column(loader), expected)


@pytest.mark.parametrize("indices", [None, [21, 3, 3, 0, 7, 9, 12, 20, 1]])
def test_indices_are_rows_of_the_file(known, indices):
    rows = np.arange(N) if indices is None else np.array(indices)
    loader = images_of(known, AddIndex(), indices=indices)
    assert np.array_equal(column(loader), PIXELS[rows].astype(int) + rows[:, None, None, None])
    shuffled = images_of(known, AddIndex(), indices=indices, order=OrderOption.RANDOM, label=[IntDecoder()])
    images, labels = zip(*shuffled, strict=True)
    rows = np.concatenate(labels)[:, 0] // 10
    assert np.array_equal(np.concatenate(images), PIXELS[rows].astype(int) + rows[:, None, None, None])


@pytest.mark.parametrize("noise", [Noise, PythonNoise])
def test_random_numbers_repeat_with_the_seed_and_change_with_epoch_and_batch(known, noise):
    first, again = (images_of(known, noise(), num_workers=workers) for workers in (1, 3))
    epochs = [[column(loader) for _ in range(2)] for loader in (first, again)]
    assert np.array_equal(epochs[0], epochs[1])
    one, two = epochs[0]
    assert not np.array_equal(one, two) and not np.array_equal(one[:8], one[8:16])
    assert not np.array_equal(one, column(images_of(known, noise(), seed=2)))


def test_two_objects_draw_differently_and_one_object_in_two_pipelines_alike(known):
    decoder, noise = SimpleRGBImageDecoder(), Noise()
    pipelines = {
        "image": [decoder, noise],
        "label": None,
        "same": PipelineSpec("image", decoder, [noise]),
        "other": PipelineSpec("image", decoder, [Noise()]),
        "behind": PipelineSpec(noise, transforms=[ToTensor()]),
    }
    image, same, other, behind = next(iter(Loader(known, 8, pipelines=pipelines, seed=4)))
    assert np.array_equal(image, same) and np.array_equal(image, behind) and not np.array_equal(image, other)


@pytest.mark.parametrize("jit", [True, False])
def test_shared_state_is_one_for_the_batch_and_for_both_pipelines(known, jit, monkeypatch):
    if not jit:
        monkeypatch.setattr(Shared, "generate_code_for_shared_state", lambda self: counting)
        monkeypatch.setattr(Shared, "declare_state_and_memory", python_mode(Shared.declare_state_and_memory))
    shared = Shared()
    loader = images_of(known, shared, label=[IntDecoder(), shared])
    added = []
    for number, (images, labels) in enumerate(loader):
        rows = np.arange(number * 8, number * 8 + len(images))
        by = images[0, 0, 0, 0] - int(PIXELS[rows[0], 0, 0, 0])
        assert np.array_equal(images, PIXELS[rows].astype(int) + by)
        assert np.array_equal(labels[:, 0], rows * 10 + by) and by != 0
        added.append(by)
    assert len(set(added)) == (len(added) if jit else 1)


def counting(shared):
    shared[:] = 17


def test_kept_batches_stay_what_they_were(known):
    loader = images_of(known, AddIndex())
    kept = [batch[0] for _ in range(4) for batch in loader]
    assert np.array_equal(np.concatenate(kept), np.concatenate([column(images_of(known, AddIndex()))] * 4))


class OnTensors(Operation):
    """On tensors, with a tensor for memory."""

    def generate_code(self):
        def double(tensor, memory):
            memory.copy_(tensor).mul_(2)
            return memory

        return double

    def declare_state_and_memory(self, previous_state):
        assert previous_state.device == torch.device("cpu") and not previous_state.jit_mode
        assert previous_state.dtype == torch.float32
        return previous_state, AllocationQuery(previous_state.shape, torch.float32, previous_state.device)


def test_behind_to_tensor(known):
    got = column(images_of(known, ToTensor(), ToTorchImage(), Convert(torch.float32), OnTensors()))
    assert np.array_equal(got, PIXELS.transpose(0, 3, 1, 2).astype(np.float32) * 2)


def test_attributes_are_the_operations_own(known):
    seeds = 3, "three", (1, 2), np.random.default_rng(0)
    steps = [Invert() for _ in seeds]
    for step, seed in zip(steps, seeds, strict=True):
        step.seed, step.parts, step.parameters = seed, 4, [1.0]
    np.testing.assert_array_equal(column(images_of(known, *steps)), PIXELS)


def test_texts_pass_through_several_operations(tmp_path):
    texts = np.array([[b"a", b"bcd"], [b"", b"efghi"]], "S5")
    writer = DatasetWriter(tmp_path / "a.beton", {"text": NDArrayField("S5", (2,))}, num_workers=1)
    writer.from_indexed_dataset([(row,) for row in texts])
    ((found,),) = Loader(tmp_path / "a.beton", 2, pipelines={"text": [Same(), Same()]})
    np.testing.assert_array_equal(found, texts)


def test_equal_seeds_do_not_make_operations_draw_alike(known):
    one, other = Noise(), Noise()
    one.seed = other.seed = 1
    assert (column(images_of(known, one)) != column(images_of(known, Invert(), other))).any()


def test_labels_and_epochs_of_other_sizes(known):
    decoder = RandomResizedCropRGBImageDecoder((12, 12), (1, 1), (1, 1))
    pipelines = {"image": [decoder, Corner()], "label": [IntDecoder(), AddIndex(), ToTensor(), Squeeze()]}
    loader = Loader(known, 8, pipelines=pipelines)
    images, labels = next(iter(loader))
    assert labels.tolist() == [11 * i for i in range(8)] and images.shape == (8, 6, 6, 3)
    decoder.output_size = (16, 20)
    assert next(iter(loader))[0].shape == (8, 8, 10, 3)


def test_code_is_made_once_or_at_each_epoch_with_recompile(known):
    class Counted(Corner):
        asked = 0

        def generate_code(self):
            Counted.asked += 1
            return super().generate_code()

    loader = images_of(known, Counted())
    before = Counted.asked
    column(loader), column(loader), loader.explain()
    assert Counted.asked == before == 1
    again = images_of(known, Counted(), recompile=True)
    column(again), column(again)
    assert Counted.asked == before + 3


def test_a_loaders_code_stays_until_a_pipeline_changes_or_with_recompile(known):
    decoder = RandomResizedCropRGBImageDecoder((12, 12), (1, 1), (1, 1))
    loader = Loader(known, 8, pipelines={"image": [decoder, Corner()]})
    column(loader)
    code = loader.code
    column(loader)
    assert loader.code is code
    decoder.output_size = (16, 20)
    column(loader)
    assert loader.code is not code and loader.code["image"].spec.shape == (8, 10, 3)
    again = images_of(known, Corner(), recompile=True)
    code = again.code
    column(again)
    assert again.code is not code


def test_explain_says_what_it_costs_and_what_to_write_instead(known):
    text = images_of(known, Corner()).explain()
    line = next(line for line in text.splitlines() if "Corner()" in line)
    assert "slow" in line and "one CPU thread" in line and "torch.nn.Module" in line and "forward" in line


def test_state_asserts_as_ffcv_does():
    assert State(True, torch.device("cpu"), None, np.dtype("u1")).shape is None
    with pytest.raises(AssertionError, match="GPU"):
        State(True, torch.device("cuda:0"), None, np.dtype("u1"))
    with pytest.raises(AssertionError, match="tensor dtype"):
        State(True, torch.device("cpu"), None, torch.uint8)


def test_every_step_counts_as_an_operation_and_nothing_else_does():
    """As in FFCV. Avalanche wraps as a torch module what is none."""
    for step in (ToTensor(), Squeeze(1), IntDecoder(), Corner()):
        assert isinstance(step, Step) and isinstance(step, Operation)
        assert issubclass(type(step), Operation) and isinstance(step, Corner) == (type(step) is Corner)
    assert not isinstance(torch.nn.Identity(), Operation) and not isinstance(NDArrayField, Operation)


def test_a_declared_shape_that_is_none_is_an_unknown_one(known):
    """Avalanche's SmartModuleWrapper declares "as_previous"; FFCV does not look at it."""

    class Whole(Corner):
        def generate_code(self):
            return lambda images, dst: images

        def declare_state_and_memory(self, previous_state):
            return replace(previous_state, jit_mode=False, shape="as_previous"), None

    images = column(images_of(known, Whole()))
    assert np.array_equal(images, column(images_of(known)))
