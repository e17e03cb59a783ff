"""Documents, as the json module writes and reads them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import DecodeError, PipelineError, SampleError
from ffcv_gpu.fields import JSONField

DOCUMENTS = [{"a": [1, 2.5, None, True], "ü": "漢字 \0 x"}, [], "text", 7, None, {"deep": {"er": [[]]}}]


def stored(value):
    memory = np.zeros(1 << 16, np.uint8)
    row = np.zeros(1, JSONField().metadata_type)
    JSONField().encode(row, value, lambda size: (0, memory[:size]))
    return memory[: row["size"][0]]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_bytes_are_ascii_json_and_a_zero(document):
    content = stored(document).tobytes()
    assert content == json.dumps(document).encode("ascii") + b"\0"
    assert content.count(0) == 1


def batch_of(documents):
    rows = [stored(document) for document in documents]
    batch = np.zeros((len(rows), max(map(len, rows)) + 3), np.uint8)
    for row, content in zip(batch, rows, strict=True):
        row[: len(content)] = content
    return batch


def test_a_batch_is_unpacked():
    batch = batch_of(DOCUMENTS)
    assert JSONField.unpack(batch) == DOCUMENTS
    assert JSONField.unpack(torch.from_numpy(batch)) == DOCUMENTS
    assert JSONField.unpack(batch[0]) == DOCUMENTS[0]
    assert JSONField().unpack(torch.from_numpy(batch)[1]) == DOCUMENTS[1]


def test_what_is_no_element_of_a_batch_is_refused():
    """A whole batch, a tuple of one element, gave the first document of the batch."""
    batch = batch_of(DOCUMENTS)
    for wrong in ((torch.from_numpy(batch),), [batch], batch[None], "text", None):
        with pytest.raises(PipelineError, match="takes this field's element of a batch"):
            JSONField.unpack(wrong)


def test_what_lies_behind_the_zero_does_not_matter():
    row = np.append(stored({"a": 1}), np.frombuffer(b"rubbish", np.uint8))
    assert JSONField.unpack(row) == {"a": 1}


def test_numbers_of_numpy_and_torch():
    value = {
        "a": np.int64(3),
        "b": np.float32(0.5),
        "c": torch.tensor(4),
        "d": np.array(2),
        "e": np.bool_(True),
    }
    assert JSONField.unpack(stored(value)) == {"a": 3, "b": 0.5, "c": 4, "d": 2, "e": True}


def test_no_value_but_its_own_makes_a_recursion_error():
    loop = []
    loop.append(loop)
    for value in (loop, {1, 2}, b"bytes", np.zeros(3), object(), {(1, 2): 3}):
        with pytest.raises(SampleError, match="JSON cannot hold this"):
            stored(value)


@pytest.mark.parametrize("content", [b"{}", b"", b"{\0", b"\xff\0", b"\0"])
def test_a_row_that_is_no_document_is_named(content):
    batch = np.zeros((2, 8), np.uint8)
    batch[:, :3] = np.frombuffer(b"[]\0", np.uint8)
    batch[1, : len(content)] = np.frombuffer(content, np.uint8)
    if b"\0" not in content:
        batch[1, len(content) :] = 32
    with pytest.raises(DecodeError, match="row 1"):
        JSONField.unpack(batch)
