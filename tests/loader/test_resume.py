"""``state_dict`` at every batch, and the rest of the epoch with other batch sizes, ranks and workers."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.loader.traversal import TraversalOrder
from ffcv_gpu.sampling import epoch_order
from ffcv_gpu.transforms import RandomHorizontalFlip, Squeeze, ToTensor
from tests.small_file import N, Small, damaged, epoch, write_small

ORDERS = [OrderOption.SEQUENTIAL, OrderOption.RANDOM, OrderOption.QUASI_RANDOM]


def pipelines(size=16):
    image = [RandomResizedCropRGBImageDecoder((size, size)), RandomHorizontalFlip(), ToTensor()]
    return {"image": image, "label": [IntDecoder(), ToTensor(), Squeeze(1)], "vector": None}


def loader(path, batch_size=4, labels_only=False, **options):
    made = {"image": None, "vector": None} if labels_only else pipelines()
    settings = {"num_workers": 1, "seed": 5, "drop_last": False, "pipelines": made}
    return Loader(path, batch_size, **{**settings, **options})


def labels(batches):
    return [value for batch in batches for value in batch[-1].flatten().tolist()]


def whole(path, order, number):
    pages = Loader(path, 1, pipelines={"image": None}).dataset.beton.sample_pages()
    return epoch_order(order, np.arange(N), seed=5, epoch=number, sample_pages=pages).tolist()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("drop_last", [True, False])
def test_at_every_batch_the_rest_is_what_it_would_have_been(small, order, drop_last):
    options = {"order": order, "drop_last": drop_last}
    uncut = loader(small, **options)
    plain = [[column.clone() for column in batch] for _ in range(2) for batch in uncut]
    each = len(plain) // 2
    for taken in range(2 * each + 1):
        first = loader(small, **options)
        iterators = [iter(first)]
        for number in range(taken):
            if number == each:
                iterators.append(iter(first))
            next(iterators[-1])
        state = json.loads(json.dumps(first.state_dict()))
        first.close()
        second = loader(small, num_workers=2, batches_ahead=1 + taken % 3, **options)
        second.load_state_dict(state)
        assert second.state_dict() == state
        if taken == 2 * each:
            assert (state["epoch"], state["done"]) == (2, 0)
            continue
        assert state["epoch"] == taken // each
        assert len(second) == each  # whole epochs, also before one that is resumed
        rest = iter(second)
        assert len(rest) == each - taken % each and len(second) == each
        got = list(rest)
        if state["epoch"] == 0:
            got += list(second)
        assert len(got) == 2 * each - taken
        for batch, expected in zip(got, plain[taken:], strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(batch, expected, strict=True))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("batch_sizes", [(1, 1, 1), (2, 3, 1), (3, 1, 2)])
def test_with_other_ranks_and_batch_sizes_each_sample_is_shown_once(small, order, batch_sizes):
    """1 rank, then 2, then 4: what all have shown is the order, whatever was interrupted where."""
    expected = whole(small, order, 0)
    for stop in (1, 2):
        shown, state = [], None
        for world_size, batch_size in zip((1, 2, 4), batch_sizes, strict=True):
            last = world_size == 4
            shares, states, lengths = [], [], set()
            for rank in range(world_size):
                made = loader(
                    small, batch_size, labels_only=True, order=order, rank=rank, world_size=world_size
                )
                if state is not None:
                    made.load_state_dict(state)
                running = iter(made)
                lengths.add(len(running))
                shares.append(labels(running if last else [next(running) for _ in range(stop)]))
                states.append(made.state_dict())
                made.close()
            assert len(lengths) == 1 and len({len(share) for share in shares}) == 1
            assert all({**one, "ranks": 0} == {**states[0], "ranks": 0} for one in states)
            state = states[0]
            shown += [share[k] for k in range(len(shares[0])) for share in shares]
        assert (state["epoch"], state["done"]) == (1, 0)
        assert shown[:N] == expected and len(shown) - N < 4


def test_pixels_do_not_depend_on_where_an_epoch_was_cut(small):
    plain = epoch(loader(small, order=OrderOption.RANDOM))
    first = loader(small, 4, order=OrderOption.RANDOM)
    running = iter(first)
    head = [[part.numpy().copy() for part in next(running)] for _ in range(2)]
    shares = []
    for rank in range(2):
        second = loader(small, 3, order=OrderOption.RANDOM, rank=rank, world_size=2)
        second.load_state_dict(first.state_dict())
        shares.append(epoch(second))
    for number, column in enumerate(plain):
        dealt = [share[number][k] for k in range(len(shares[0][0])) for share in shares]
        got = np.concatenate([*(part[number] for part in head), np.stack(dealt)])
        assert np.array_equal(got[:N], column)


def test_only_batches_that_were_handed_out_are_done(small):
    made = loader(small, 2, batches_ahead=4, labels_only=True)
    assert (made.state_dict()["epoch"], made.state_dict()["done"]) == (0, 0)
    running = iter(made)
    assert made.state_dict()["done"] == 0
    for number in range(1, 4):
        next(running)
        assert made.state_dict()["done"] == 2 * number
    del running  # left early: what was shown stays shown, until the next epoch begins
    assert made.state_dict()["done"] == 6
    iter(made)
    assert (made.state_dict()["epoch"], made.state_dict()["done"]) == (1, 0)


def test_set_epoch(small):
    made = loader(small, labels_only=True, order=OrderOption.RANDOM)
    for number in (7, 2, 2):
        made.set_epoch(number)
        assert made.state_dict()["epoch"] == number
        assert labels(made) == whole(small, OrderOption.RANDOM, number)
    running = iter(made)
    next(running)
    state = made.state_dict()
    made.load_state_dict(state)
    made.set_epoch(state["epoch"])  # as training loops do: the place stays
    assert labels(made) == whole(small, OrderOption.RANDOM, 3)[4:]
    made.load_state_dict(state)
    made.set_epoch(4)
    assert labels(made) == whole(small, OrderOption.RANDOM, 4)
    for value in (-1, 0.5):
        with pytest.raises(PipelineError, match="set_epoch"):
            made.set_epoch(value)


def test_an_assigned_epoch_is_that_epoch_from_its_start(small):
    """As `set_epoch`: FFCV's scripts assign `next_epoch`. No sample of another epoch is left out."""
    first = loader(small, labels_only=True, order=OrderOption.RANDOM)
    running = iter(first)
    next(running)
    state = first.state_dict()
    running.close()
    assert state["done"] > 0
    for number in (0, 4):
        made = loader(small, labels_only=True, order=OrderOption.RANDOM)
        made.load_state_dict(state)
        made.next_epoch = number
        done = state["done"] if number == 0 else 0
        assert (made.state_dict()["epoch"], made.state_dict()["done"]) == (number, done)
        assert labels(made) == whole(small, OrderOption.RANDOM, number)[done:]
        made.next_epoch = 7
        assert made.state_dict()["epoch"] == 7


def test_the_seed_comes_back_unless_another_was_asked_for(small):
    first = loader(small, labels_only=True, order=OrderOption.RANDOM, seed=None)
    next(iter(first))
    second = loader(small, labels_only=True, order=OrderOption.RANDOM, seed=None)
    second.load_state_dict(first.state_dict())
    assert second.seed == first.seed
    assert labels(second) == np.random.default_rng(first.seed).permutation(N)[4:].tolist()
    explicit = loader(small, labels_only=True, order=OrderOption.RANDOM, seed=5)
    with pytest.raises(PipelineError, match=rf"saved with seed {first.seed}, and .* seed=5; pass seed="):
        explicit.load_state_dict(first.state_dict())


@pytest.mark.parametrize("assigned", [{"indices": range(9)}, {"seed": 8}], ids=repr)
@pytest.mark.parametrize("how", ["left early", "loaded"])
def test_with_other_rows_or_another_seed_the_next_epoch_is_whole(small, assigned, how):
    """A place in one order, counted in another, repeats some samples and leaves out others."""
    made = loader(small, labels_only=True, order=OrderOption.RANDOM, seed=None)
    made.seed = 3
    running = iter(made)
    for _ in range(3):
        next(running)
    running.close()
    if how == "loaded":
        made.load_state_dict(made.state_dict())
    epoch_now = made.next_epoch
    for name, same in (("indices", range(N)), ("seed", 3)):
        setattr(made, name, same)  # the same as before: the place stays
    assert (made.state_dict()["epoch"], made.state_dict()["done"]) == (0, 12)
    ((name, value),) = assigned.items()
    setattr(made, name, value)
    state = made.state_dict()
    assert (state["epoch"], state["done"]) == (epoch_now, 0)
    again = loader(small, labels_only=True, order=OrderOption.RANDOM, indices=made.indices, seed=None)
    again.load_state_dict(state)
    shown = labels(made)
    assert sorted(shown) == sorted(made.indices) and labels(again) == shown


def test_another_file_order_or_choice_of_rows_is_refused_in_one_sentence(small, tmp_path):
    state = loader(small, labels_only=True).state_dict()
    copy = tmp_path / "moved.beton"
    shutil.copy(small, copy)
    loader(copy, labels_only=True).load_state_dict(state)  # the same file elsewhere is the same
    refused = {
        "another order": loader(small, labels_only=True, order=OrderOption.RANDOM),
        "other indices": loader(small, labels_only=True, indices=range(N - 1)),
    }
    for words, made in refused.items():
        with pytest.raises(PipelineError, match=rf"load_state_dict: the state was saved with {words} \("):
            made.load_state_dict(state)
    with pytest.raises(PipelineError, match="saved with another file"):
        loader(small, labels_only=True).load_state_dict({**state, "dataset": "0"})
    for wrong in ({}, {**state, "version": 99}, None):
        with pytest.raises(PipelineError, match="not a state of Loader"):
            loader(small, labels_only=True).load_state_dict(wrong)


@pytest.mark.parametrize("wrong", [{"epoch": -1}, {"done": "2"}, {"seed": None}], ids=repr)
def test_a_state_of_no_numbers_is_refused_and_changes_nothing(small, wrong):
    made = loader(small, labels_only=True)
    state = made.state_dict()
    with pytest.raises(
        PipelineError, match=f"load_state_dict: invalid state: {next(iter(wrong))} must be a whole"
    ):
        made.load_state_dict({**state, **wrong})
    assert made.state_dict() == state


def test_the_fingerprint_tells_files_apart_by_their_labels_alone(small, tmp_path, make_photo):
    other = tmp_path / "other.beton"

    class Relabelled(Small):
        def __getitem__(self, i):
            image, label, vector = super().__getitem__(i)
            return image, label + (i == 3), vector

    write_small(other, make_photo, Relabelled)
    with pytest.raises(PipelineError, match="saved with another file"):
        loader(other, labels_only=True).load_state_dict(loader(small, labels_only=True).state_dict())


def test_a_state_is_small_and_plain(small):
    state = loader(small).state_dict()
    assert len(json.dumps(state)) < 2000 and json.loads(json.dumps(state)) == state
    assert "RandomResizedCropRGBImageDecoder" in state["pipelines"]["image"]


def test_a_resumed_epoch_with_another_pipeline_is_warned_of(small, caplog):
    first = loader(small)
    next(iter(first))
    state = first.state_dict()
    with caplog.at_level(logging.WARNING):
        same, other = loader(small), loader(small, pipelines=pipelines(12))
        for made in (same, other):
            made.load_state_dict(state)
        next(iter(same))
        assert not caplog.records
        assert next(iter(other))[0].shape[1] == 12
    (record,) = caplog.records
    assert "epoch 0 is resumed with another pipeline for 'image'" in record.getMessage()


class Backwards(TraversalOrder):
    def sample_order(self, epoch):
        return self.indices[::-1][self.loader.rank :: self.loader.world_size]


def test_an_order_of_one_s_own_is_resumed_by_as_many_ranks(small):
    for rank in range(2):
        ranks = {"order": Backwards, "rank": rank, "world_size": 2, "labels_only": True}
        first = loader(small, 3, **ranks)
        next(iter(first))
        second = loader(small, 2, **ranks)
        second.load_state_dict(first.state_dict())
        assert labels(second) == list(range(N))[::-1][rank::2][3:]
        with pytest.raises(PipelineError, match=r"saved by 2 ranks .* cannot be split again among 1"):
            loader(small, order=Backwards, labels_only=True).load_state_dict(first.state_dict())


class Shorter(TraversalOrder):
    def __init__(self, loader, number):
        super().__init__(loader)
        self.number = number

    def sample_order(self, epoch):
        return self.indices[: self.number]


def test_an_order_that_has_become_too_short_to_be_resumed_says_so(small):
    first = loader(small, order=Shorter, order_kwargs={"number": 20}, labels_only=True)
    running = iter(first)
    for _ in range(3):
        next(running)
    for number, left in ((12, 0), (15, 3)):
        second = loader(small, order=Shorter, order_kwargs={"number": number}, labels_only=True)
        second.load_state_dict(first.state_dict())
        assert len(labels(second)) == left
    second = loader(small, order=Shorter, order_kwargs={"number": 11}, labels_only=True)
    second.load_state_dict(first.state_dict())
    with pytest.raises(PipelineError, match=r"resumed after 12 samples: .*Shorter.* now returns 11"):
        iter(second)


def test_resumed_epochs_skip_the_same_samples(small, tmp_path):
    bad = damaged(small, tmp_path, (4, "image"), (11, "image"))
    options = {"order": OrderOption.RANDOM, "on_error": "skip"}
    expected = epoch(loader(bad, **options))[-1].tolist()
    for taken in range(1, 6):
        first = loader(bad, **options)
        running = iter(first)
        shown = labels(next(running) for _ in range(taken))
        second = loader(bad, **options)
        second.load_state_dict(first.state_dict())
        assert shown + labels(second) == expected
