"""A field of a user's own, with a decoder that reads payloads by pointer as FFCV's do."""

from dataclasses import replace

import numpy as np
import pytest

from ffcv_gpu.fields import BytesField, IntField
from ffcv_gpu.fields.decoders import IntDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.pipeline.allocation_query import AllocationQuery
from ffcv_gpu.pipeline.operation import Operation
from ffcv_gpu.transforms import (
    ToTensor,
)
from ffcv_gpu.writer import DatasetWriter
from tests.compat.operations import N


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
