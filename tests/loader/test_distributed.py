"""Ranks: dealt from one global order, equal batch counts, every sample once (padding apart)."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ffcv_gpu.device import default_gpu, discovery
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import IntField
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.sampling import epoch_order
from ffcv_gpu.writer import DatasetWriter

N = 23  # as in tests.small_file


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


def dealt(shares):
    """What ranks have shown, in the order in which it was dealt to them."""
    flat = [[value for batch in share for value in batch] for share in shares]
    assert len({len(share) for share in flat}) == 1, "ranks of unequal length"
    return [share[k] for k in range(len(flat[0])) for share in flat]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.long)])
def test_real_processes(small, root, tmp_path, world_size):
    """torchrun with gloo, every order: equal batch counts, each sample once, the same after a resume."""
    target = tmp_path / "seen.json"
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}"]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    program = root / "tests" / "ranks_program.py"
    result = subprocess.run(
        [sys.executable, *launch, str(program), str(small), str(target)],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(target.read_text())
    assert found["local ranks"] == world_size
    pages = Loader(small, 1, pipelines={"image": None}).dataset.beton.sample_pages()
    for order in OrderOption:
        for epoch, parts in enumerate((["whole"], ["head", "rest"])):
            expected = epoch_order(order, np.arange(N), seed=3, epoch=epoch, sample_pages=pages).tolist()
            shares = [[share[part] for share in found["orders"][order.name]] for part in parts]
            assert all(len({len(batches) for batches in share}) == 1 for share in shares)
            shown = [value for share in shares for value in dealt(share)]
            assert shown[:N] == expected and len(shown) - N < world_size
            assert shown[N:] == expected[: len(shown) - N]


def test_rank_and_world_size_may_be_given(numbers, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    loader = Loader(numbers, 2, rank=1, world_size=2, seed=0, drop_last=False)
    assert (loader.rank, loader.world_size, loader.distributed) == (1, 2, True)
    assert [v for batch in loader for v in batch[0].flatten().tolist()] == [*range(1, N, 2), 0]
    kept = loader.filter("label", lambda value: value >= 2)
    assert (kept.rank, kept.world_size) == (1, 2) and kept.indices.tolist() == list(range(2, N))


@pytest.mark.parametrize(
    ("rank", "world_size", "words"),
    [(0, None, "belong together"), (None, 2, "belong together"), (2, 2, "0 <= rank < world_size"),
     (-1, 2, "0 <= rank"), (0.5, 2, "whole numbers")],
)  # fmt: skip
def test_ranks_that_make_no_sense_are_refused(numbers, rank, world_size, words):
    with pytest.raises(PipelineError, match=words):
        Loader(numbers, 2, rank=rank, world_size=world_size)


def test_auto_takes_the_gpu_of_this_process(monkeypatch):
    monkeypatch.setattr(discovery, "_count_with_torch", lambda name: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert default_gpu() == "cuda:3"
    monkeypatch.delenv("LOCAL_RANK")
    assert default_gpu() == "cuda:0"
