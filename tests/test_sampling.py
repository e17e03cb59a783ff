"""sampling.py: numpy's permutation, torch's way of dealing, every id once, pages bounded, environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.sampling import (
    OrderOption,
    batches,
    deal,
    distributed_env,
    epoch_order,
    num_batches,
    quasi_random,
)

Ids = npt.NDArray[np.int64]


def even_pages(samples: int, per_page: int) -> Ids:
    return np.arange(samples) // per_page + 3  # the first pages hold the metadata


# ---- the orders


def test_members_are_ffcvs() -> None:
    assert [(o.name, o.value) for o in OrderOption] == [
        ("SEQUENTIAL", 1),
        ("RANDOM", 2),
        ("QUASI_RANDOM", 3),
    ]


@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 1000), count=st.integers(0, 50))
def test_random_is_numpys_permutation(seed: int, epoch: int, count: int) -> None:
    indices = np.arange(count) * 7 + 1
    expected = np.random.default_rng(seed + epoch).permutation(indices)
    assert (epoch_order(OrderOption.RANDOM, indices, seed=seed, epoch=epoch) == expected).all()


def test_sequential_is_a_copy_of_the_indices() -> None:
    indices = np.array([5, 2, 9])
    order = epoch_order(OrderOption.SEQUENTIAL, indices, seed=0, epoch=4)
    assert order.tolist() == [5, 2, 9]
    order[0] = 0
    assert indices[0] == 5
    assert epoch_order(OrderOption.SEQUENTIAL, [5, 2], seed=0, epoch=0).dtype == np.int64


@given(
    order=st.sampled_from(OrderOption),
    ids=st.sets(st.integers(0, 199), max_size=60),
    world_size=st.integers(1, 9),
    epoch=st.integers(0, 5),
    pool_pages=st.integers(1, 12),
    data=st.data(),
)
def test_every_id_once_across_ranks(
    order: OrderOption, ids: set[int], world_size: int, epoch: int, pool_pages: int, data: st.DataObject
) -> None:
    pages = np.array(data.draw(st.lists(st.integers(-1, 9), min_size=200, max_size=200)))
    pages[sorted(ids)[:1]] = 4  # quasi-random needs one payload
    indices = np.array(sorted(ids), dtype=np.int64)

    whole = epoch_order(order, indices, seed=3, epoch=epoch, sample_pages=pages, pool_pages=pool_pages)
    ranks = [deal(whole, rank, world_size) for rank in range(world_size)]
    assert sorted(whole) == sorted(ids)
    assert {len(rank) for rank in ranks} == {-(-len(ids) // world_size)}
    dealt = np.stack(ranks, axis=1).ravel()  # the ranks' samples in the order in which all show them
    assert (dealt[: len(ids)] == whole).all()
    assert (dealt[len(ids) :] == np.resize(whole, dealt.size)[len(ids) :]).all()


@pytest.mark.parametrize("order", [OrderOption.RANDOM, OrderOption.QUASI_RANDOM])
def test_an_epoch_depends_on_seed_and_epoch_alone(order: OrderOption) -> None:
    indices, pages = np.arange(500), even_pages(500, 9)

    def of(seed: int, epoch: int) -> list[int]:
        return epoch_order(order, indices, seed=seed, epoch=epoch, sample_pages=pages, pool_pages=8).tolist()

    fresh = of(1, 5)
    for epoch in range(5):
        of(1, epoch)
    assert of(1, 5) == fresh
    assert len({tuple(of(1, epoch)) for epoch in range(20)}) == 20
    assert of(2, 5) != fresh
    assert indices.tolist() == list(range(500))
    assert (pages == even_pages(500, 9)).all()


@pytest.mark.parametrize("bad", [{"seed": -1}, {"epoch": -1}, {"order": 2}])
def test_bad_arguments_raise(bad: dict[str, int]) -> None:
    good = {"order": OrderOption.RANDOM, "indices": [0, 1], "seed": 0, "epoch": 0}
    with pytest.raises(PipelineError, match=next(iter(bad))):
        epoch_order(**{**good, **bad})  # type: ignore[arg-type]


@pytest.mark.parametrize("indices", [[0.5, 1.0], [[0, 1]], ["a"]])
def test_indices_must_be_whole_numbers(indices: list[object]) -> None:
    with pytest.raises(PipelineError, match="indices"):
        epoch_order(OrderOption.SEQUENTIAL, indices, seed=0, epoch=0)


# ---- quasi-random


def most_open_pages(order: Ids, pages: Ids) -> int:
    """Most pages between their first and their last sample at any moment of the order."""
    shown = pages[order]
    _, first = np.unique(shown, return_index=True)
    _, last = np.unique(shown[::-1], return_index=True)
    opened = np.bincount(first, minlength=len(shown))
    closed = np.bincount(len(shown) - last, minlength=len(shown) + 1)
    return int((np.cumsum(opened) - np.cumsum(closed)[:-1]).max())


@pytest.mark.parametrize("pool_pages", [1, 2, 8, 64])
@pytest.mark.parametrize("per_page", [1, 20])
def test_open_pages_are_bounded_and_used(pool_pages: int, per_page: int) -> None:
    pages = even_pages(200 * per_page, per_page)
    for epoch in range(3):
        order = quasi_random(np.arange(len(pages)), pages, 1, epoch, pool_pages=pool_pages)
        most = most_open_pages(order, pages)
        assert most <= pool_pages
        assert most > 0.6 * pool_pages or per_page == 1


@given(
    pages=st.lists(st.integers(0, 30), min_size=1, max_size=200),
    pool_pages=st.integers(1, 10),
    epoch=st.integers(0, 9),
)
def test_open_pages_are_bounded_on_uneven_pages(pages: list[int], pool_pages: int, epoch: int) -> None:
    of_sample = np.array(pages)
    order = quasi_random(np.arange(len(pages)), of_sample, 5, epoch, pool_pages=pool_pages)
    assert most_open_pages(order, of_sample) <= pool_pages
    assert sorted(order) == list(range(len(pages)))


def test_a_pool_of_one_reads_page_after_page() -> None:
    pages = even_pages(60, 6)
    order = quasi_random(np.arange(60), pages, 0, 0, pool_pages=1)
    rows = pages[order].reshape(10, 6)
    assert (rows == rows[:, :1]).all()
    assert (rows[:, 0] != np.sort(rows[:, 0])).any()
    assert (order.reshape(10, 6) != np.sort(order.reshape(10, 6), axis=1)).any()


def test_a_batch_mixes_the_pool() -> None:
    pages = even_pages(200 * 50, 50)
    order = quasi_random(np.arange(len(pages)), pages, 0, 0, pool_pages=40)
    for batch in batches(order, 250, drop_last=True):
        assert len(np.unique(pages[batch])) >= 25


def test_a_file_smaller_than_the_pool_is_shuffled_evenly() -> None:
    stats = pytest.importorskip("scipy.stats")
    pages = even_pages(4000, 100)
    order = quasi_random(np.arange(4000), pages, 0, 0, pool_pages=64)
    positions = np.argsort(order) / 4000
    p_values = [stats.kstest(positions[pages == page], "uniform").pvalue for page in np.unique(pages)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_pages_are_shuffled() -> None:
    pages = even_pages(2000, 2)
    order = quasi_random(np.arange(2000), pages, 0, 0, pool_pages=4)
    assert abs(np.corrcoef(pages[order], np.arange(2000))[0, 1]) < 0.1


def test_only_the_pages_of_the_indices_count() -> None:
    pages = even_pages(1000, 10)
    indices = np.arange(0, 1000, 30)  # a sample of every third page
    order = quasi_random(indices, pages, 0, 0, pool_pages=4)
    assert sorted(order) == indices.tolist()


@pytest.mark.parametrize("pages", [None, np.full(5, -1)])
def test_files_without_pages_raise(pages: Ids | None) -> None:
    with pytest.raises(ValueError, match=r"QUASI_RANDOM.*OrderOption\.RANDOM"):
        epoch_order(OrderOption.QUASI_RANDOM, np.arange(5), seed=0, epoch=0, sample_pages=pages)


def test_a_pool_of_nothing_raises() -> None:
    with pytest.raises(PipelineError, match="pool_pages"):
        quasi_random(np.arange(5), np.zeros(5, dtype=np.int64), 0, 0, pool_pages=0)


# ---- ranks and batches


@pytest.mark.parametrize("count", [1, 3, 8, 10, 17])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 20])
def test_dealing_is_torchs(count: int, world_size: int) -> None:
    sampler = pytest.importorskip("torch.utils.data.distributed").DistributedSampler
    order = np.arange(count) * 3
    for rank in range(world_size):
        theirs = list(sampler(range(count), num_replicas=world_size, rank=rank, shuffle=False))
        assert deal(order, rank, world_size).tolist() == order[theirs].tolist()


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 1)])
def test_a_rank_that_is_none_raises(rank: int, world_size: int) -> None:
    with pytest.raises(PipelineError, match="rank"):
        deal(np.arange(2), rank, world_size)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
@pytest.mark.parametrize("drop_last", [True, False])
def test_batches(count: int, drop_last: bool) -> None:
    data = pytest.importorskip("torch.utils.data")
    sampler = data.BatchSampler(data.SequentialSampler(range(count)), 4, drop_last)
    order = np.arange(count)
    cut = batches(order, 4, drop_last)
    assert [batch.tolist() for batch in cut] == list(sampler)
    assert num_batches(count, 4, drop_last) == len(sampler) == len(cut)
    assert all(np.shares_memory(batch, order) for batch in cut)


def test_a_batch_size_of_nothing_raises() -> None:
    with pytest.raises(PipelineError, match="batch_size"):
        batches(np.arange(3), 0, True)


# ---- who am I


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_rank_from_the_environment(no_launcher: pytest.MonkeyPatch) -> None:
    no_launcher.setenv("RANK", "2")
    no_launcher.setenv("WORLD_SIZE", "4")
    assert distributed_env() == (2, 4)
    no_launcher.delitem(sys.modules, "torch.distributed", raising=False)
    assert distributed_env() == (2, 4)


def test_no_rank_says_what_to_do(no_launcher: pytest.MonkeyPatch) -> None:
    with pytest.raises(PipelineError, match="init_process_group"):
        distributed_env()
    no_launcher.setenv("RANK", "0")
    with pytest.raises(PipelineError, match="WORLD_SIZE"):
        distributed_env()


@pytest.mark.parametrize(("rank", "world_size"), [("4", "4"), ("-1", "2"), ("a", "2"), ("0", "0"), ("", "1")])
def test_a_senseless_environment_raises(no_launcher: pytest.MonkeyPatch, rank: str, world_size: str) -> None:
    no_launcher.setenv("RANK", rank)
    no_launcher.setenv("WORLD_SIZE", world_size)
    with pytest.raises(PipelineError, match="RANK="):
        distributed_env()


def test_an_initialised_process_group_is_asked_first(no_launcher: pytest.MonkeyPatch, tmp_path: Path) -> None:
    distributed = pytest.importorskip("torch.distributed")
    no_launcher.setenv("RANK", "5")
    no_launcher.setenv("WORLD_SIZE", "8")
    store = distributed.FileStore(os.fspath(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert distributed_env() == (0, 1)
    finally:
        distributed.destroy_process_group()
    assert distributed_env() == (5, 8)
