"""draws.py: Random123's known answers, the documented layout, independence of batch, statistics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffcv_gpu.draws import MAX_SAMPLE, MAX_SEED, MAX_UNIFORMS, Draws, draw_id, uniform
from ffcv_gpu.errors import PipelineError

stats = pytest.importorskip("scipy.stats")

ONES = 0xFFFFFFFF
# Random123 1.14, tests/kat_vectors, philox4x32 with 10 rounds: counter, key, answer.
KNOWN_ANSWERS = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([ONES] * 4, [ONES] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def scalar_philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 as the paper writes it, in Python's unbounded integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


# ---- the generator


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter: list[int], key: list[int], answer: list[int]) -> None:
    assert scalar_philox(counter, key) == answer
    sample, block = counter[0] | (counter[1] & 0xFFFF) << 32, counter[1] >> 16
    seed, count = key[0] | key[1] << 32, 4 * block + 4
    values = uniform(seed, counter[2], np.array([sample]), counter[3], count)[0, -4:]
    assert (values * 2**32).tolist() == answer


# ---- uniform: the layout that the docstring promises


@given(
    seed=st.integers(0, MAX_SEED),
    epoch=st.integers(0, ONES),
    draw=st.integers(0, ONES),
    sample=st.integers(0, MAX_SAMPLE),
    k=st.integers(0, MAX_UNIFORMS - 1),
)
def test_layout(seed: int, epoch: int, draw: int, sample: int, k: int) -> None:
    counter = [sample & ONES, sample >> 32 | (k // 4) << 16, epoch, draw]
    expected = scalar_philox(counter, [seed & ONES, seed >> 32])[k % 4] / 2**32
    assert uniform(seed, epoch, np.array([sample]), draw, k + 1)[0, k] == expected
    assert Draws(seed, epoch, np.array([sample])).uniform(draw, k + 1)[0, k] == expected


@given(
    samples=st.lists(st.integers(0, MAX_SAMPLE), min_size=1, max_size=20),
    counts=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    data=st.data(),
)
def test_values_depend_on_the_sample_alone(
    samples: list[int], counts: tuple[int, int], data: st.DataObject
) -> None:
    ids = np.array(samples, dtype=np.int64)
    fewer, more = sorted(counts)
    whole = uniform(7, 3, ids, 11, more)
    order = np.array(data.draw(st.permutations(range(len(ids)))))
    part = order[: data.draw(st.integers(1, len(ids)))]
    assert whole.shape == (len(ids), more)
    assert (uniform(7, 3, ids[part], 11, fewer) == whole[part, :fewer]).all()


def test_draws_is_uniform_of_its_batch() -> None:
    samples = np.array([5, 3, 5, 2**40])
    draws = Draws(seed=2**63, epoch=9, samples=samples)
    assert len(draws) == 4
    got = draws.uniform(77, 6)
    assert (got == uniform(2**63, 9, samples, 77, 6)).all()
    assert (got[0] == got[2]).all()
    assert samples.tolist() == [5, 3, 5, 2**40]


def test_no_batch_and_no_numbers() -> None:
    none = np.array([], dtype=np.int64)
    assert uniform(0, 0, none, 0, 3).shape == (0, 3)
    assert uniform(0, 0, np.arange(2), 0, 0).shape == (2, 0)


def test_all_blocks_of_far_samples_differ() -> None:
    # Sample bits 32-47 share a counter word with the block number; a clash would repeat a value.
    samples = np.array([1, 1 + 2**32, 1 + 2**33, 1 + 2**47])
    values = uniform(0, 0, samples, 0, 4096)
    assert len(np.unique(values)) > values.size - 5  # 32-bit values: 0.03 repeats expected


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"epoch": 2**32}, "epoch"),
        ({"draw": -1}, "draw"),
        ({"count": MAX_UNIFORMS + 1}, "count"),
        ({"samples": np.array([0, -1])}, "sample ids"),
        ({"samples": np.array([2**48])}, "sample ids"),
        ({"samples": np.array([0.5])}, "samples"),
        ({"samples": np.zeros((2, 2), dtype=np.int64)}, "samples"),
    ],
)
def test_out_of_range_raises(change: dict[str, object], name: str) -> None:
    good: dict[str, object] = {"seed": 0, "epoch": 0, "samples": np.arange(2), "draw": 0, "count": 1}
    with pytest.raises(PipelineError, match=name):
        uniform(**{**good, **change})  # type: ignore[arg-type]


# ---- uniform: statistics, of fixed seeds (so these cannot fail by chance)

SAMPLES = np.arange(50_000)


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_values_are_uniform(seed: int) -> None:
    values = uniform(seed, 0, SAMPLES, draw_id("crop"), 6)
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values.ravel(), "uniform").pvalue > 0.01
    for column in values.T:
        assert stats.kstest(column, "uniform").pvalue > 0.005


Column = npt.NDArray[np.float64]


def _column(seed: int = 4, epoch: int = 2, draw: int = 99, first: int = 0, column: int = 0) -> Column:
    return uniform(seed, epoch, SAMPLES[:20_000] + first, draw, 8)[:, column]


def _pair_p_value(a: Column, b: Column) -> float:
    table, _, _ = np.histogram2d(a, b, bins=16, range=[[0, 1], [0, 1]])
    return float(stats.chi2_contingency(table).pvalue)


# One pair with a small p-value proves nothing (seeds 4 and 5 have 0.002 at 50000 samples, one in 500);
# over many independent pairs the p-values themselves must be uniform.
NEIGHBOURS: dict[str, Callable[[int], tuple[Column, Column]]] = {
    "seed": lambda i: (_column(seed=2 * i), _column(seed=2 * i + 1)),
    "seed high": lambda i: (_column(seed=i), _column(seed=i + 2**32)),
    "epoch": lambda i: (_column(epoch=2 * i), _column(epoch=2 * i + 1)),
    "draw": lambda i: (_column(draw=draw_id("op", i)), _column(draw=draw_id("op", i + 1000))),
    "draw bit": lambda i: (_column(draw=2 * i), _column(draw=2 * i + 1)),
    "next sample": lambda i: (_column(seed=i), _column(seed=i, first=1)),
    "far sample": lambda i: (_column(seed=i), _column(seed=i, first=2**32)),
    "column": lambda i: (_column(seed=i), _column(seed=i, column=1)),
    "block": lambda i: (_column(seed=i), _column(seed=i, column=4)),
    "seed and epoch": lambda i: (_column(seed=i, epoch=i + 1), _column(seed=i + 1, epoch=i)),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_neighbouring_keys_are_independent(name: str) -> None:
    p_values = [_pair_p_value(*NEIGHBOURS[name](i)) for i in range(30)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_the_independence_test_sees_a_dependence() -> None:
    p_values = []
    for i in range(30):
        a, b = NEIGHBOURS["seed"](i)
        p_values.append(_pair_p_value(a, np.where(b < 0.05, a, b)))  # 5 % of the values are copied
    assert stats.kstest(p_values, "uniform").pvalue < 1e-6


# ---- ids


def test_draw_id_is_stable() -> None:
    # crc32 of the tagged text, as the gzip program computes it: must never change.
    assert draw_id("image", 0, "RandomHorizontalFlip") == 2657521645
    assert draw_id() == 0


def test_draw_id_tells_parts_apart() -> None:
    parts = [("a", "b"), ("ab",), ("a", 1), ("a", "1"), ("a1",), (1, "a"), ("b", "a"), (11,), (1, 1), ("é",)]
    assert len({draw_id(*part) for part in parts}) == len(parts)
    assert all(0 <= draw_id(*part) < 2**32 for part in parts)
