"""Loader.filter, also where FFCV's is wrong; and the file as ``loader.reader`` shows it."""

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import BytesField, FloatField, IntField
from ffcv_gpu.fields.decoders import IntDecoder
from ffcv_gpu.format import open_beton
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.reader import Reader
from ffcv_gpu.transforms import Squeeze, ToTensor
from ffcv_gpu.traversal_order.base import TraversalOrder
from ffcv_gpu.writer import DatasetWriter
from tests.small_file import small_loader, small_pipelines

N = 40


class OwnInt(IntField):
    """A custom field: stored as type 255."""

    @staticmethod
    def from_binary(binary):
        return OwnInt()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("filter") / "numbers.beton"
    fields = {"label": IntField(), "score": FloatField(), "own": OwnInt(), "text": BytesField()}
    samples = [(i * 7 % 40, i / 10, -i, b"t" * (i % 3)) for i in range(N)]
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(samples)
    return path


def scores(loader):
    return [round(float(v) * 10) for batch in loader for v in batch[1][:, 0]]


CUSTOM = {"custom_fields": {"own": OwnInt}}


def test_values_are_those_of_the_pipeline_and_order_is_kept(path):
    pipelines = {"label": [IntDecoder(), ToTensor(), Squeeze(), torch.nn.Sequential()]}
    loader = Loader(path, 7, pipelines=pipelines, **CUSTOM)
    kept = loader.filter("label", lambda value: value.shape == () and value % 2 == 0)
    expected = [i for i in range(N) if (i * 7 % 40) % 2 == 0]
    assert kept.indices.tolist() == expected and scores(kept) == expected[: len(expected) // 7 * 7]
    assert loader.indices.tolist() == list(range(N)) and loader.next_epoch == 0


def test_indices_are_rows_of_the_file_not_positions(path):
    indices = [30, 4, 5, 17, 39, 0, 4, 22]
    loader = Loader(path, 3, indices=indices, drop_last=False, order=OrderOption.RANDOM, seed=5, **CUSTOM)
    kept = loader.filter("score", lambda value: value > 0.45)
    assert kept.indices.tolist() == [30, 5, 17, 39, 22]
    assert sorted(scores(kept)) == [5, 17, 22, 30, 39]
    again = kept.filter("own", lambda value: value < -20)
    assert again.indices.tolist() == [30, 39, 22]


class EverySecond(TraversalOrder):
    def __init__(self, loader, start=0):
        super().__init__(loader)
        self.start = start

    def sample_order(self, epoch):
        return self.indices[self.start :: 2]


def test_everything_else_is_kept(path):
    loader = Loader(path, 2, num_workers=1, os_cache=False, order=EverySecond, order_kwargs={"start": 1},
                    seed=11, drop_last=True, batches_ahead=2, **CUSTOM)  # fmt: skip
    loader.batch_size, loader.drop_last = 3, False
    loader.num_workers, loader.batches_ahead = 2, 5
    kept = loader.filter("own", lambda value: value > -10)
    assert scores(kept) == [1, 3, 5, 7, 9] and kept.traversal_order.start == 1
    for name in ("fname", "batch_size", "num_workers", "seed", "drop_last", "batches_ahead", "distributed"):
        assert getattr(kept, name) == getattr(loader, name)
    assert len(next(iter(kept))) == 4


def test_arguments_for_an_order_that_takes_none_are_refused(path):
    with pytest.raises(PipelineError, match=r"order_kwargs.*RANDOM takes none"):
        Loader(path, 2, order=OrderOption.RANDOM, order_kwargs={"start": 1}, **CUSTOM)


def test_a_drawn_seed_is_kept(path):
    loader = Loader(path, 8, order=OrderOption.RANDOM, drop_last=False, **CUSTOM)
    before = np.random.get_state()  # noqa: NPY002 (from which a loader without a seed draws one)
    kept = loader.filter("label", lambda value: True)
    assert kept.seed == loader.seed and scores(kept) == scores(loader)
    assert all(map(np.array_equal, before, np.random.get_state()))  # noqa: NPY002


def test_dropped_fields_and_extra_outputs_can_be_asked(path):
    more = PipelineSpec("label", IntDecoder(), [ToTensor(), Squeeze()])
    loader = Loader(path, 8, drop_last=False, pipelines={"own": None, "more": more}, **CUSTOM)
    assert loader.filter("own", lambda value: value == -3).indices.tolist() == [3]
    assert loader.filter("more", lambda value: value == 21).indices.tolist() == [3]


def test_what_cannot_be_filtered_is_said(path):
    step = ToTensor()
    pipelines = {"label": [IntDecoder(), step], "behind": PipelineSpec(step, transforms=[Squeeze()])}
    loader = Loader(path, 8, pipelines=pipelines, **CUSTOM)
    with pytest.raises(PipelineError, match="no output 'labels'; choose one of 'label'"):
        loader.filter("labels", bool)
    with pytest.raises(PipelineError, match="none of the 40 samples"):
        loader.filter("label", lambda value: False)
    with pytest.raises(PipelineError, match="'behind' continues another pipeline"):
        loader.filter("behind", bool)


def test_reader_shows_the_file(path):
    loader, beton = Loader(path, 8, **CUSTOM), open_beton(str(path), {"own": np.dtype("<i8")})
    for reader in (loader.reader, Reader(str(path), custom_handlers={"own": OwnInt})):
        assert (reader.num_samples, reader.num_fields, reader.file_name) == (N, 4, str(path))
        assert reader.page_size == reader.header["page_size"] == beton.page_size
        assert reader.field_names == ["label", "score", "own", "text"]
        assert reader.field_descriptors["type_id"].tolist() == [1, 0, 255, 3]
        assert [type(field) for field in reader.handlers.values()] == [
            IntField,
            FloatField,
            OwnInt,
            BytesField,
        ]
        assert reader.metadata["f0"].tolist() == [i * 7 % 40 for i in range(N)]
        assert reader.metadata.dtype == reader.metadata_type and not reader.metadata.flags.writeable
        table = zip(reader.alloc_table["sample_id"], reader.alloc_table["size"], strict=True)
        assert sorted(table) == [(i, i % 3) for i in range(N)]


def test_a_decoder_asked_for_by_name_does_not_stop_a_filter_by_labels(gpu, small):
    gpu()
    loader = small_loader(small, {"device": None, "jpeg_backend": "nvjpeg"}, pipelines=small_pipelines(0))
    assert loader.filter("label", lambda label: label < 5).indices.tolist() == [0, 1, 2, 3, 4]
