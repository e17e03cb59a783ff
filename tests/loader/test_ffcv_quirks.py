"""FFCV's own files with FFCV's own quirks, through the Loader: read right, or refused by name."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from ffcv_gpu.errors import FormatError
from ffcv_gpu.fields.decoders import BytesDecoder, IntDecoder, NDArrayDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.reader import Reader

FIXTURES = Path(__file__).parents[1] / "fixtures"
ORDERS = [OrderOption.SEQUENTIAL, OrderOption.RANDOM, OrderOption.QUASI_RANDOM]


def unpack(name, folder):
    path = folder / f"{name}.beton"
    path.write_bytes(gzip.decompress((FIXTURES / f"{name}.beton.gz").read_bytes()))
    return path


def everything(path, decoders, order, os_cache):
    pipelines = dict.fromkeys(Reader(path).field_names) | decoders
    loader = Loader(path, 4, order=order, os_cache=os_cache, drop_last=False, pipelines=pipelines, seed=3)
    batches = list(loader)
    return [np.concatenate(column) for column in zip(*batches, strict=True)]


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ghosts", [0, 23, 4096])
def test_a_table_out_of_order_and_entries_that_are_none(tmp_path, order, os_cache, ghosts):
    # Two workers wrote it, one after the other's list. Zeros behind the table look like entries of sample 0,
    # with which FFCV's QUASI_RANDOM repeats one sample and drops another.
    path, want = unpack("ffcv_mixed", tmp_path), np.load(FIXTURES / "ffcv_mixed.npz")
    with open(path, "ab") as file:
        file.write(bytes(ghosts))
    decoders = {"label": [IntDecoder()], "vector": [NDArrayDecoder()], "words": [BytesDecoder()]}
    found = dict(zip(decoders, everything(path, decoders, order, os_cache), strict=True))
    rows = found["label"][:, 0] + 3
    assert sorted(rows) == list(range(11))
    np.testing.assert_array_equal(found["vector"], want["vector"][rows])
    for row, k in enumerate(rows):
        np.testing.assert_array_equal(found["words"][row, : 3 * k + 1], want["words"][k, : 3 * k + 1])
        assert not found["words"][row, 3 * k + 1 :].any()


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_allocations_of_no_bytes(tmp_path, order, os_cache):
    # They share their pointer with a neighbour, of which FFCV then returns nothing.
    path = unpack("ffcv_empty", tmp_path)
    (blobs,) = everything(path, {"blob": [BytesDecoder()]}, order, os_cache)
    lengths = sorted(0 if k % 3 == 0 else 3 * k + 1 for k in range(11))
    found = sorted(int(row.max()) + 1 if row.any() else 0 for row in blobs)
    assert found == lengths
    for row in blobs:
        length = int(row.max()) + 1 if row.any() else 0
        assert row[:length].tolist() == list(range(length)) and not row[length:].any()


def test_a_lost_entry_is_refused(tmp_path):
    # Without a word FFCV gives another sample's bytes.
    path = unpack("ffcv_mixed", tmp_path)
    os.truncate(path, path.stat().st_size - 24)
    with pytest.raises(FormatError, match=r"sample 9, field 'bulk'.*no matching entry"):
        list(Loader(path, 4, drop_last=False, pipelines={"sixteen_chars_ok": None}))
