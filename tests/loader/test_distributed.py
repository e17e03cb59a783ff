"""Ranks: dealt from one global order, equal batch counts, every sample once (padding apart)."""

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import IntField
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.writer import DatasetWriter

N = 23


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    path = tmp_path_factory.mktemp("ranks") / "numbers.beton"
    DatasetWriter(path, {"label": IntField()}, num_workers=1, progress=False).from_indexed_dataset(
        [(i,) for i in range(N)]
    )
    return path


def ranks(path, monkeypatch, world_size, **options):
    shares = []
    for rank in range(world_size):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world_size))
        loader = Loader(path, 2, distributed=True, drop_last=False, **options)
        shares.append([batch[0].flatten().tolist() for batch in loader])
    return shares


@pytest.mark.parametrize("order", [OrderOption.SEQUENTIAL, OrderOption.RANDOM])
@pytest.mark.parametrize("world_size", [1, 2, 4, 5])
def test_every_sample_is_shown_once_and_ranks_are_equally_long(numbers, monkeypatch, order, world_size):
    shares = ranks(numbers, monkeypatch, world_size, order=order, seed=7)
    assert len({len(share) for share in shares}) == 1
    flat = [[value for batch in share for value in batch] for share in shares]
    dealt = [share[k] for k in range(len(flat[0])) for share in flat]
    expected = np.random.default_rng(7).permutation(N) if order is OrderOption.RANDOM else np.arange(N)
    assert dealt[:N] == expected.tolist() and dealt[N:] == expected[: len(dealt) - N].tolist()


def test_without_a_seed_all_ranks_agree(numbers, monkeypatch, caplog):
    shares = ranks(numbers, monkeypatch, 2, order=OrderOption.RANDOM)
    assert sorted({v for share in shares for batch in share for v in batch}) == list(range(N))
    assert any("seed" in record.message for record in caplog.records)


def test_without_a_world_the_error_says_what_to_set(numbers, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(PipelineError, match="RANK"):
        Loader(numbers, 2, distributed=True)


def test_quasi_random_needs_pages(numbers):
    with pytest.raises(PipelineError, match="page"):
        Loader(numbers, 2, order=OrderOption.QUASI_RANDOM)
