"""Loaders of others that make an iterator of their own in ``__iter__``, such as Avalanche's."""

import threading
import time
from queue import Queue

import numpy as np
import pytest
from torch.utils.data import BatchSampler, DistributedSampler, SequentialSampler

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.loader.epoch_iterator import EpochIterator
from ffcv_gpu.reader import Reader
from ffcv_gpu.transforms import RandomHorizontalFlip
from ffcv_gpu.types import get_handlers, get_metadata_type
from ffcv_gpu.utils import decode_null_terminated_string
from tests.compat.operations import PIXELS, N


class Counting(Loader):
    """FFCV's own ``__iter__``, with another iterator in it."""

    iterator = EpochIterator

    def __iter__(self):
        order = self.next_traversal_order()
        self.next_epoch += 1
        if self.code is None or self.recompile:
            self.generate_code()
        return self.iterator(self, order[: len(self) * self.batch_size])


def loader_of(known, kind, **options):
    pipelines = {"image": [SimpleRGBImageDecoder(), RandomHorizontalFlip()], "label": [IntDecoder()]}
    options = {"order": OrderOption.RANDOM, "seed": 3} | options
    return kind(known, 8, num_workers=2, pipelines=pipelines, **options)


@pytest.mark.parametrize("drop_last", [True, False])
def test_the_batches_are_those_of_the_loader(known, drop_last):
    ours, others = (loader_of(known, kind, drop_last=drop_last) for kind in (Loader, Counting))
    for _ in range(2):
        for mine, theirs in zip(ours, others, strict=True):
            assert all(np.array_equal(*pair) for pair in zip(mine, theirs, strict=True))
    assert ours.state_dict() == others.state_dict()


class AfterBatch(EpochIterator):
    """What a GPU transform does to a finished batch, written into ``__next__``."""

    def __next__(self):
        result = self.output_queue.get()
        if result is None:
            self.close()
            raise StopIteration
        slot, (images, labels) = result
        assert self.cuda_streams[slot] is self.current_stream
        return 255 - images, labels


class Indexed(EpochIterator):
    """Notes which rows each batch was made of."""

    def __init__(self, loader, order):
        self.rows = Queue()
        super().__init__(loader, order)

    def run_pipeline(self, b_ix, batch_indices, batch_slot, cuda_event):
        self.rows.put(batch_indices)
        return super().run_pipeline(b_ix, batch_indices, batch_slot, cuda_event)


def test_what_subclasses_override(known):
    loader = loader_of(known, Counting)
    loader.iterator = Indexed
    epoch = iter(loader)
    for images, labels in epoch:
        rows = epoch.rows.get_nowait()
        assert labels[:, 0].tolist() == (rows * 10).tolist() and images.shape == (8, 12, 12, 3)
    plain, inverted = loader_of(known, Counting), loader_of(known, Counting)
    inverted.iterator = AfterBatch
    for (image, _), (other, _) in zip(plain, inverted, strict=True):
        assert np.array_equal(255 - image, other)


class OfBatches(EpochIterator):
    """Takes batches of any size; sets all attributes itself, as Avalanche's does."""

    def __init__(self, loader, batches):
        threading.Thread.__init__(self, daemon=True)
        self.loader, self.current_batch_slot, self.closed = loader, 0, False
        self.iter_ixes, self.output_queue = iter(batches), Queue(loader.batches_ahead)
        self.terminate_event = threading.Event()
        self.memory_context = loader.memory_manager.schedule_epoch(batches)
        self.memory_allocations = loader.graph.allocate_memory(max(map(len, batches)), 5)
        self.start()


@pytest.mark.parametrize(
    "batches", [[[1, 2, 3], [N - 1], [5, 5]], list(BatchSampler(SequentialSampler(range(N)), 5, False))]
)
def test_batches_of_a_batch_sampler(known, batches):
    loader = loader_of(known, Loader)
    made = list(OfBatches(loader, batches))
    assert [batch[1][:, 0].tolist() for batch in made] == [[10 * row for row in rows] for rows in batches]
    for images, rows in zip((batch[0] for batch in made), batches, strict=True):
        same = (images == PIXELS[rows]).all((1, 2, 3)) | (images == PIXELS[rows][:, :, ::-1]).all((1, 2, 3))
        assert same.all()


def test_an_error_comes_out_and_an_epoch_that_is_left_ends(known):
    loader = loader_of(known, Loader)
    with pytest.raises(PipelineError, match="a batch: 99 is not a row of the file"):
        next(OfBatches(loader, [[1], [99]]))
    epoch = EpochIterator(loader, range(N))
    next(epoch)
    epoch.close()
    deadline = time.monotonic() + 30
    while epoch.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not epoch.is_alive() and list(epoch) == []


class Stuck(EpochIterator):
    def run_pipeline(self, b_ix, batch_indices, batch_slot, cuda_event):
        self.terminate_event.wait(30)
        return super().run_pipeline(b_ix, batch_indices, batch_slot, cuda_event)


class Waiting(Counting):
    iterator = Stuck


def test_closing_ends_a_wait_in_another_thread(known):
    running, ended = iter(loader_of(known, Waiting)), []
    waiting = threading.Thread(target=lambda: ended.append(list(running)), daemon=True)
    waiting.start()
    while not running.output_queue.not_empty._waiters:
        time.sleep(0.01)
    running.close()
    waiting.join(20)
    assert ended == [[]]
    running.join(20)


def test_a_sampler_put_into_a_built_in_order_says_what_a_rank_is_given(known):
    """As scripts do that train on other rows in each epoch."""
    loader = loader_of(known, Loader, order=OrderOption.SEQUENTIAL, rank=1, world_size=2, drop_last=False)
    loader.indices = rows = np.array([20, 3, 4, 11])
    loader.traversal_order.sampler = DistributedSampler(rows, 2, 0, shuffle=False)
    assert len(loader) == 1
    assert [labels[:, 0].tolist() for _, labels in loader] == [[200, 40]]  # rank 0's: the sampler says so


def test_the_functions_that_read_a_header(known):
    reader = Reader(known)
    names = [decode_null_terminated_string(record["name"]) for record in reader.field_descriptors]
    assert names == reader.field_names
    handlers = get_handlers(reader.field_descriptors)
    assert [type(handler).__name__ for handler in handlers] == ["RGBImageField", "IntField"]
    assert get_metadata_type(handlers) == reader.metadata_type
