"""A user's own operations, written as FFCV's documentation shows, compared with plain numpy."""

import traceback
from dataclasses import replace

import numpy as np
import pytest
import torch

from ffcv_gpu.compat.state import State
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import BytesField, IntField, RGBImageField
from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.pipeline.allocation_query import AllocationQuery
from ffcv_gpu.pipeline.compiler import Compiler
from ffcv_gpu.pipeline.operation import Operation
from ffcv_gpu.transforms import (
    Convert,
    Cutout,
    GaussianBlur,
    NormalizeImage,
    RandomContrast,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomTranslate,
    Squeeze,
    ToTensor,
    ToTorchImage,
)
from ffcv_gpu.writer import DatasetWriter

N, SIDE = 22, 12
PIXELS = np.random.default_rng(3).integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("operations") / "small.beton"
    fields = {"image": RGBImageField(), "label": IntField()}
    samples = [(PIXELS[i], i * 10) for i in range(N)]
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(samples)
    return path


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


def test_memory_of_a_new_shape(path):
    loader = images_of(path, Corner())
    assert np.array_equal(column(loader), PIXELS[:, : SIDE // 2, : SIDE // 2])
    torch_images = column(images_of(path, Corner(), ToTensor(), ToTorchImage(), Convert(torch.float32)))
    assert np.array_equal(torch_images, PIXELS[:, :6, :6].transpose(0, 3, 1, 2).astype(np.float32))


@pytest.mark.parametrize("jit", [True, False])
def test_in_place_with_two_memories_compiled_and_not(path, jit):
    loader = images_of(path, Invert(jit), Corner())
    assert np.array_equal(column(loader), 255 - PIXELS[:, :6, :6])
    how = "compiled by numba" if jit else "uncompiled Python"
    assert how in loader.explain() and loader.explain().count(how) == 2  # Corner inherits the mode
    # the pixels of the file are not what was inverted
    assert np.array_equal(column(images_of(path)), PIXELS)


def test_other_outputs_do_not_see_work_in_place(path):
    decoder = SimpleRGBImageDecoder()
    pipelines = {"image": [decoder, Invert()], "label": None, "plain": PipelineSpec("image", decoder)}
    loader = Loader(path, 8, pipelines=pipelines, drop_last=False)
    assert np.array_equal(column(loader), 255 - PIXELS) and np.array_equal(column(loader, 1), PIXELS)


def test_switched_off_compilation_gives_the_same(path, monkeypatch):
    expected = column(images_of(path, AddIndex()))
    monkeypatch.setattr(Compiler, "is_enabled", Compiler.is_enabled)
    Compiler.set_enabled(False)
    loader = images_of(path, AddIndex())
    assert "uncompiled" in loader.explain() and np.array_equal(column(loader), expected)


@pytest.mark.parametrize("indices", [None, [21, 3, 3, 0, 7, 9, 12, 20, 1]])
def test_indices_are_rows_of_the_file(path, indices):
    rows = np.arange(N) if indices is None else np.array(indices)
    loader = images_of(path, AddIndex(), indices=indices)
    assert np.array_equal(column(loader), PIXELS[rows].astype(int) + rows[:, None, None, None])
    shuffled = images_of(path, AddIndex(), indices=indices, order=OrderOption.RANDOM, label=[IntDecoder()])
    images, labels = zip(*shuffled, strict=True)
    rows = np.concatenate(labels)[:, 0] // 10
    assert np.array_equal(np.concatenate(images), PIXELS[rows].astype(int) + rows[:, None, None, None])


def test_random_numbers_repeat_with_the_seed_and_change_with_epoch_and_batch(path):
    first, again = (images_of(path, Noise(), num_workers=workers) for workers in (1, 3))
    epochs = [[column(loader) for _ in range(2)] for loader in (first, again)]
    assert np.array_equal(epochs[0], epochs[1])
    one, two = epochs[0]
    assert not np.array_equal(one, two) and not np.array_equal(one[:8], one[8:16])
    assert not np.array_equal(one, column(images_of(path, Noise(), seed=2)))


def test_two_objects_draw_differently_and_one_object_in_two_pipelines_alike(path):
    decoder, noise = SimpleRGBImageDecoder(), Noise()
    pipelines = {
        "image": [decoder, noise],
        "label": None,
        "same": PipelineSpec("image", decoder, [noise]),
        "other": PipelineSpec("image", decoder, [Noise()]),
        "behind": PipelineSpec(noise, transforms=[ToTensor()]),
    }
    image, same, other, behind = next(iter(Loader(path, 8, pipelines=pipelines, seed=4)))
    assert np.array_equal(image, same) and np.array_equal(image, behind) and not np.array_equal(image, other)


@pytest.mark.parametrize("jit", [True, False])
def test_shared_state_is_one_for_the_batch_and_for_both_pipelines(path, jit, monkeypatch):
    if not jit:
        monkeypatch.setattr(Shared, "generate_code_for_shared_state", lambda self: counting)
        monkeypatch.setattr(Shared, "declare_state_and_memory", python_mode(Shared.declare_state_and_memory))
    shared = Shared()
    loader = images_of(path, shared, label=[IntDecoder(), shared])
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


def python_mode(declare):
    def declared(self, previous_state):
        state, query = declare(self, previous_state)
        return replace(state, jit_mode=False), query

    return declared


def test_kept_batches_stay_what_they_were(path):
    loader = images_of(path, AddIndex())
    kept = [batch[0] for _ in range(4) for batch in loader]
    assert np.array_equal(np.concatenate(kept), np.concatenate([column(images_of(path, AddIndex()))] * 4))


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


def test_behind_to_tensor(path):
    got = column(images_of(path, ToTensor(), ToTorchImage(), Convert(torch.float32), OnTensors()))
    assert np.array_equal(got, PIXELS.transpose(0, 3, 1, 2).astype(np.float32) * 2)


def test_labels_and_epochs_of_other_sizes(path):
    decoder = RandomResizedCropRGBImageDecoder((12, 12), (1, 1), (1, 1))
    pipelines = {"image": [decoder, Corner()], "label": [IntDecoder(), AddIndex(), ToTensor(), Squeeze()]}
    loader = Loader(path, 8, pipelines=pipelines)
    images, labels = next(iter(loader))
    assert labels.tolist() == [11 * i for i in range(8)] and images.shape == (8, 6, 6, 3)
    decoder.output_size = (16, 20)
    assert next(iter(loader))[0].shape == (8, 8, 10, 3)


def test_code_is_made_once_or_at_each_epoch_with_recompile(path):
    class Counted(Corner):
        asked = 0

        def generate_code(self):
            Counted.asked += 1
            return super().generate_code()

    loader = images_of(path, Counted())
    before = Counted.asked
    column(loader), column(loader), loader.explain()
    assert Counted.asked == before == 1
    again = images_of(path, Counted(), recompile=True)
    column(again), column(again)
    assert Counted.asked == before + 3


class Wider(Invert):
    """Returns int64, which numba makes of it, and says nothing of it."""

    def generate_code(self):
        return lambda images, memory: 255 - images


class Lies(Corner):
    """Returns larger images than it says."""

    declare_state_and_memory = python_mode(Corner.declare_state_and_memory)

    def generate_code(self):
        return lambda images, memory: images


def test_image_steps_go_on_behind_an_operation(path):
    """As in FFCV. Two inversions cancel; steps that do nothing stand in their places, for equal draws."""
    flip, shift, cut = RandomHorizontalFlip(), RandomTranslate(2, (9, 8, 7)), Cutout(2, (1, 2, 3))
    none = [RandomHorizontalFlip(0.0), RandomHorizontalFlip(0.0)]
    mine = images_of(path, Wider(), flip, Invert(False), shift, cut)
    expected = column(images_of(path, none[0], flip, none[1], shift, cut))
    assert np.array_equal(column(mine), expected)
    assert mine.explain().count("on the finished batch, in one thread: fused launch 1") == 3

    steps = [RandomResizedCrop((0.5, 1), (0.75, 4 / 3), 10), RandomContrast(0.8), GaussianBlur(1.0, 3)]
    steps += [NormalizeImage(np.full(3, 127.0), np.full(3, 60.0), np.float16), ToTensor(), ToTorchImage()]
    got = column(images_of(path, Invert(False), Invert(False), *steps))
    expected = column(images_of(path, *none, *steps))
    assert got.dtype == np.float16 and got.shape == (N, 3, 10, 10) and np.array_equal(got, expected)


def test_batches_made_behind_an_operation_stay_what_they_were(path):
    loader = images_of(path, Invert(False), Cutout(2))
    kept = [batch[0] for _ in range(2) for batch in loader]
    again = images_of(path, Invert(False), Cutout(2))
    assert np.array_equal(np.concatenate(kept), np.concatenate([column(again), column(again)]))


def test_an_operation_that_gives_other_images_than_it_says_is_found_out(path):
    with pytest.raises(PipelineError, match=r"gave shape \(8, 12, 12, 3\).*not numpy \(N, 6, 6, 3\)"):
        column(images_of(path, Lies(), RandomHorizontalFlip()))


class Uncompilable(Corner):
    def generate_code(self):
        def call(images, dst):
            return some_name_that_is_nowhere(images)  # noqa: F821

        return call


class Asserts(Corner):
    def declare_state_and_memory(self, previous_state):
        return replace(previous_state, jit_mode=True), None


class Raises(Corner):
    def declare_state_and_memory(self, previous_state):
        raise KeyError("on purpose")


class FailsLater(Invert):
    def generate_code(self):
        def fail(images, memory):
            raise OverflowError("on purpose")

        return fail


class NoQuery(Corner):
    def declare_state_and_memory(self, previous_state):
        return previous_state, (12, 12)


class Counted(Corner):
    """FFCV-SSL's: told the number of the batch."""

    def generate_code(self):
        def count(images, memory, counter):
            return memory

        count.with_counter = True
        return count


class ForeignOperation:
    """As a class of the real FFCV looks."""

    def generate_code(self):
        return None


class OldFlip(RandomHorizontalFlip):
    def generate_code(self):
        return None


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([Uncompilable()], "Uncompilable.*numba.*some_name_that_is_nowhere.*jit_mode=False"),
        ([ToTensor(), Asserts()], r"Asserts.*cannot stand here.*before ToTensor\(\)"),
        ([NoQuery()], "NoQuery.*AllocationQuery"),
        ([Counted()], "Counted.*with_counter.*the same in every epoch.*with_indices"),
        ([Corner(), ToTensor(), RandomHorizontalFlip()], r"RandomHorizontalFlip.*move it before Corner\(\)"),
        ([ForeignOperation()], "ForeignOperation.*ffcv_gpu.pipeline.operation.Operation"),
        ([OldFlip()], "OldFlip.*ffcv_gpu.pipeline.operation.Operation"),
        ([Corner], r"Corner is a class; write Corner\(...\)"),
    ],
)
def test_mistakes_are_refused_when_the_loader_is_made(path, steps, words):
    with pytest.raises(PipelineError, match=f"pipeline 'image'.*{words}") as caught:
        images_of(path, *steps)
    shown = "".join(traceback.format_exception(caught.value))
    assert "numba.core" not in shown and "nopython" not in shown


def test_an_operations_own_exceptions_name_it_and_the_pipeline(path):
    with pytest.raises(KeyError, match="on purpose") as caught:
        images_of(path, Raises())
    notes = " ".join(caught.value.__notes__)
    assert "Raises()" in notes and "'image'" in notes
    for jit in (True, False):
        with pytest.raises(OverflowError, match="on purpose") as caught:
            column(images_of(path, FailsLater(jit)))
        assert any("'image'" in n and "FailsLater" in n and "batch 0" in n for n in caught.value.__notes__)


def test_explain_says_what_it_costs_and_what_to_write_instead(path):
    text = images_of(path, Corner()).explain()
    line = next(line for line in text.splitlines() if "Corner()" in line)
    assert "slow" in line and "one CPU thread" in line and "torch.nn.Module" in line and "forward" in line


def test_state_asserts_as_ffcv_does():
    assert State(True, torch.device("cpu"), None, np.dtype("u1")).shape is None
    with pytest.raises(AssertionError, match="GPU"):
        State(True, torch.device("cuda:0"), None, np.dtype("u1"))
    with pytest.raises(AssertionError, match="tensor dtype"):
        State(True, torch.device("cpu"), None, torch.uint8)


class ReversedField(BytesField):
    """A custom field, and a decoder of its own that reads payloads by pointer."""

    @staticmethod
    def from_binary(binary):
        return ReversedField()

    def get_decoder_class(self):
        return ReversedDecoder


class ReversedDecoder(Operation):
    def generate_code(self):
        mem_read = self.memory_read

        def decode(indices, dst, metadata, storage_state):
            for i in range(len(indices)):
                record = metadata[indices[i]]
                payload = mem_read(record["ptr"], storage_state)
                for k in range(len(payload)):
                    dst[i, k] = payload[len(payload) - 1 - k]
            return dst

        return decode

    def declare_state_and_memory(self, previous_state):
        longest = int(self.metadata["size"].max())
        assert (
            previous_state.jit_mode and previous_state.shape is None and isinstance(self.field, ReversedField)
        )
        state = replace(previous_state, shape=(longest,), dtype=np.dtype("u1"))
        return state, AllocationQuery((longest,), np.dtype("u1"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("custom") / "texts.beton"
    samples = [(b"abcdefghij"[: i % 7], i) for i in range(N)]
    fields = {"text": ReversedField(), "label": IntField()}
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(samples)
    return path


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("head", [[], [ReversedDecoder()]])
def test_a_custom_fields_own_decoder(texts, os_cache, head):
    pipelines = {"text": [*head, ToTensor()], "label": [IntDecoder()]}
    loader = Loader(texts, 5, os_cache=os_cache, order=OrderOption.RANDOM, seed=0, drop_last=False,
                    pipelines=pipelines if head else None, custom_fields={"text": ReversedField})  # fmt: skip
    seen = 0
    for batch, labels in loader:
        for row, label in zip(np.asarray(batch), np.asarray(labels)[:, 0], strict=True):
            expected = b"abcdefghij"[: label % 7][::-1].ljust(6, b"\0")
            assert row.tobytes() == expected
            seen += 1
    assert seen == N
