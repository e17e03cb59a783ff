"""Attributes of FFCV's Loader that scripts look at: each is there, and says what is so."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch

from ffcv_gpu import ssl
from ffcv_gpu.errors import PipelineError, ReadError
from ffcv_gpu.fields import BytesField, FloatField, IntField
from ffcv_gpu.fields.decoders import FloatDecoder, IntDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.loader.loader import ORDER_MAP
from ffcv_gpu.memory_managers import OSCacheManager, ProcessCacheManager
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.transforms import ModuleWrapper, Squeeze, ToTensor
from ffcv_gpu.traversal_order import QuasiRandom, Random, Sequential
from ffcv_gpu.traversal_order.base import TraversalOrder
from ffcv_gpu.writer import DatasetWriter

N = 30


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("attributes") / "numbers.beton"
    fields = {"label": IntField(), "score": FloatField(), "text": BytesField()}
    samples = [(i, i / 10, b"t" * (i % 3 + 1)) for i in range(N)]
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(samples)
    return path


def test_what_was_asked_for_can_be_read_back(path):
    loader = Loader(
        str(path), 4, 2, True, OrderOption.RANDOM, False, 9, range(5, 25), None, None, False, 2, True
    )
    assert loader.fname == str(path) and (loader.batch_size, loader.num_workers) == (4, 2)
    assert (loader.seed, loader.drop_last, loader.batches_ahead, loader.recompile) == (9, False, 2, True)
    assert loader.distributed is False and loader.indices.tolist() == list(range(5, 25))
    assert len(loader) == 5 and loader.next_epoch == 0
    assert repr(loader) == f"Loader({str(path)!r}): 20 of 30 samples in batches of 4"


@pytest.mark.parametrize("wrong", [{"fname": "none.beton"}, {"batch_size": 0}, {"indices": [N]}])
def test_one_whose_constructor_raised_can_be_shown(path, wrong):
    """In a debugger, and in a traceback with the frames' variables."""
    loader = object.__new__(Loader)
    with pytest.raises((ReadError, PipelineError)):
        loader.__init__(**{"fname": str(path), "batch_size": 4, **wrong})
    assert repr(loader) == "Loader: its constructor has not finished"


def test_a_loader_is_not_copied(path):
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(
            TypeError, match=r"Loader of .*numbers\.beton .* cannot be pickled or copied; create"
        ):
            copied(Loader(path, 4))


def test_the_order_of_the_coming_epoch(path):
    loader = Loader(path, 4, order=OrderOption.RANDOM, seed=9, indices=range(5, 25), drop_last=False)
    for epoch in range(3):
        assert loader.next_epoch == epoch
        order = loader.next_traversal_order()
        assert order.tolist() == np.random.default_rng(9 + epoch).permutation(np.arange(5, 25)).tolist()
        shown = np.concatenate([batch[0][:, 0] for batch in loader])
        assert shown.tolist() == order.tolist()
    first = np.random.default_rng(9).permutation(np.arange(5, 25))
    assert loader.first_traversal_order.tolist() == first.tolist()


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        (OrderOption.SEQUENTIAL, Sequential),
        (OrderOption.RANDOM, Random),
        (OrderOption.QUASI_RANDOM, QuasiRandom),
    ],
)
def test_the_traversal_order_is_an_object_with_ffcvs_attributes(path, option, kind):
    loader = Loader(path, 4, order=option, seed=3)
    order = loader.traversal_order
    assert type(order) is kind and order.loader is loader and order.sampler is None
    assert (order.seed, order.distributed) == (3, False) and order.indices.tolist() == list(range(N))
    assert sorted(order.sample_order(5)) == list(range(N))


class Backwards(TraversalOrder):
    """An order of the user's own, longer or shorter than the file if told so."""

    count = N

    def sample_order(self, epoch):
        return np.resize(self.indices[::-1], self.count)


@pytest.mark.parametrize("key", ["backwards", OrderOption.RANDOM])
def test_orders_put_into_ffcvs_order_map_are_found_there(path, monkeypatch, key):
    monkeypatch.setitem(ORDER_MAP, key, Backwards)
    loader = Loader(path, N, order=key)
    assert next(iter(loader))[0][:, 0].tolist() == list(range(N))[::-1]
    with pytest.raises(PipelineError, match="order must be"):
        Loader(path, 4, order="forwards")
    with pytest.raises(PipelineError, match="order must be"):
        Loader(path, 4, order=["backwards"])
    with pytest.raises(PipelineError, match="order must be"):
        Loader(path, 4, order=np.arange(N))


def test_an_order_option_of_another_library_is_called_so(path):
    """FFCV's, of a script whose imports are renamed in part, prints like ours."""
    with pytest.raises(PipelineError, match=r"OrderOption of ffcv_gpu\.loader .*> of ffcv_gpu\.ssl"):
        Loader(path, 4, order=ssl.OrderOption.RANDOM)
    with pytest.raises(PipelineError, match=r"ffcv_gpu\.ssl\.OrderOption, not .* 2> of ffcv_gpu\.sampling"):
        ssl.Loader(path, 4, OrderOption.RANDOM)


def test_a_data_loader_made_from_a_loader_says_what_to_do(path):
    for make in (lambda loader: loader[0], lambda loader: next(iter(torch.utils.data.DataLoader(loader)))):
        with pytest.raises(TypeError, match="is iterated itself, in place of a DataLoader"):
            make(Loader(path, 4))
    assert len(list(Loader(path, 4))) == len(Loader(path, 4))


@pytest.mark.parametrize("kind", [Sequential, Random, QuasiRandom])
def test_a_subclass_of_a_built_in_order_may_override_it(path, kind):
    """As a repeated augmentation does: each sample of the inherited order several times."""

    class Repeated(kind):
        def __init__(self, loader, times=3):
            super().__init__(loader)
            self.times = times

        def sample_order(self, epoch):
            return [row for row in super().sample_order(epoch) for _ in range(self.times)]

    def check(loader, times=3):
        expected = np.repeat(kind(loader).sample_order(loader.next_epoch), times).tolist()
        assert loader.next_traversal_order().tolist() == expected
        assert len(loader) == -(-len(expected) // 4)
        assert np.concatenate([batch[0][:, 0] for batch in loader]).tolist() == expected
        assert "Repeated" in loader.state_dict()["order"]

    settings = {"seed": 3, "drop_last": False}
    check(Loader(path, 4, order=Repeated, **settings))
    check(Loader(path, 4, order=Repeated, order_kwargs={"times": 2}, **settings), 2)
    check(Loader(path, 4, order=Repeated, rank=1, world_size=2, **settings))
    loader = Loader(path, 4, **settings)
    loader.traversal_order = Repeated(loader)
    check(loader)


def test_a_built_in_order_whose_method_was_replaced(path):
    loader = Loader(path, N)
    loader.traversal_order.sample_order = lambda epoch: np.arange(N)[::-1]
    assert next(iter(loader))[0][:, 0].tolist() == list(range(N))[::-1]


def test_no_batch_ahead_counts_as_one(path):
    loader = Loader(path, 4, batches_ahead=0)
    assert loader.batches_ahead == 1 and len(list(loader)) == len(loader)


def test_a_subclass_may_bring_its_own_order(path):
    """As samplers are brought to FFCV's Loader: its attributes are set behind its own ``__init__``."""

    class Own(Loader):
        def __init__(self, count, *arguments, **options):
            super().__init__(*arguments, **options)
            order = Backwards(self)
            order.count = count
            self.traversal_order = order
            self.generate_code()
            self.first_traversal_order = self.next_traversal_order()

    for count in (7, 2 * N + 1):
        loader = Own(count, path, batch_size=3, drop_last=False, order=OrderOption.RANDOM)
        shown = np.concatenate([batch[0][:, 0] for batch in loader])
        assert shown.tolist() == np.resize(np.arange(N)[::-1], count).tolist()
        assert len(loader) == -(-count // 3) and len(loader.first_traversal_order) == count


def test_a_subclass_may_have_a_device_of_its_own(path):
    """fastxtend's Loader keeps the device of its batches in `_device`."""

    class Own(Loader):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self._device = "cpu"

    assert [len(batch[0]) for batch in Own(path, 10)] == [10, 10, 10]


def test_the_arguments_make_a_second_loader(path):
    loader = Loader(path, 4, seed=5, order=OrderOption.RANDOM, pipelines={"text": None}, drop_last=False)
    again = Loader(**{**loader._args, "batch_size": N})
    assert torch.equal(next(iter(again))[0], torch.cat([batch[0] for batch in loader]))


@pytest.mark.parametrize("wrong", [OrderOption.RANDOM, Backwards, None], ids=repr)
def test_what_is_no_order_is_refused_and_changes_nothing(path, wrong):
    loader = Loader(path, 4)
    with pytest.raises(PipelineError, match="traversal_order must be an object of a Traversal"):
        loader.traversal_order = wrong
    order = Backwards(loader)
    order.indices = np.array([N])
    with pytest.raises(PipelineError, match="is not a row of the file"):
        loader.traversal_order = order
    assert next(iter(loader))[0][:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("wrong", [-1, 1.5, "2", None], ids=repr)
def test_what_is_no_epoch_is_refused_when_it_is_assigned(path, wrong):
    loader = Loader(path, 4)
    with pytest.raises(PipelineError, match="epoch must be a whole number"):
        loader.next_epoch = wrong
    assert loader.next_epoch == 0


def test_a_name_that_drops_nothing_is_told(path, caplog):
    loader = Loader(path, 4, pipelines={"lable": None, "score": None})
    says = "pipelines drop 'lable', but the file has no such field; outputs: 'label', 'text'"
    assert caplog.messages == [says]
    loader.filter("label", bool)
    assert len(caplog.messages) == 1


class Shrinking(TraversalOrder):
    def sample_order(self, epoch):
        return self.indices[epoch:]


def test_the_length_is_that_of_the_coming_epoch(path):
    loader = Loader(path, 1, order=Shrinking, num_workers=1)
    for _ in range(3):
        coming = len(loader)
        assert sum(1 for _ in loader) == coming
    assert len(loader) == coming - 1


def test_rows_put_into_the_order_count_as_with_ffcv(path):
    loader = Loader(path, 4, order=OrderOption.RANDOM, seed=3, indices=range(20), drop_last=False)
    loader.traversal_order.indices = [3, 5, 7, 11, 13]
    assert len(loader) == 2
    assert sorted(np.concatenate([batch[0][:, 0] for batch in loader]).tolist()) == [3, 5, 7, 11, 13]
    loader.traversal_order.indices = [3, 25]
    with pytest.raises(PipelineError, match="row 25 is not among the loader's indices"):
        iter(loader)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"pipelines": [IntDecoder()]}, "pipelines must be a mapping"),
        ({"pipelines": {"view2": [IntDecoder()]}}, r"no field 'view2'.*PipelineSpec\('label', decoder="),
        ({"custom_fields": [IntField]}, r"^custom_fields must be a mapping of names, not \["),
        ({"custom_field_mapper": "label"}, "^custom_field_mapper must be a mapping of names, not 'label'"),
        ({"order_kwargs": 5}, "^order_kwargs must be a mapping of names, not 5"),
        ({"gpu_memory_gb": "all"}, "^gpu_memory_gb must be a number >= 0, not 'all'"),
        ({"cache_gb": "all", "os_cache": False}, "^cache_gb must be a number >= 0, not 'all'"),
        ({"recompile": "False"}, "^recompile must be True or False, not the text 'False'"),
        ({"drop_last": "False"}, "^drop_last must be True or False, not the text 'False'"),
        ({"os_cache": "0"}, "^os_cache must be True or False, not the text '0'"),
        (
            {"fname": None},
            "^fname must be the path or the URL of a .beton file, or a list of several, not a NoneType$",
        ),
        ({"fname": {"a": "b"}}, "or a list of several, not a dict$"),
        ({"indices": np.arange(N) % 2 == 0}, r"np.flatnonzero\(mask\)"),
    ],
)
def test_usual_mistakes_are_answered(path, arguments, says):
    with pytest.raises(PipelineError, match=says):
        Loader(**{"fname": path, "batch_size": 4} | arguments)


def test_other_indices_count_from_the_next_epoch_on(path):
    loader = Loader(path, 4, indices=range(20), drop_last=False)
    running = iter(loader)
    loader.indices = [25, 3, 4]
    assert len(loader) == 1 and loader.filter("label", bool).indices.tolist() == [25, 3, 4]
    assert sum(len(batch[0]) for batch in running) == 20
    assert next(iter(loader))[0][:, 0].tolist() == [25, 3, 4]
    with pytest.raises(PipelineError, match="row 100000 is not in"):
        loader.indices = [100_000]
    loader.traversal_order.indices = [4]
    loader.indices = range(8)
    assert [batch[0][:, 0].tolist() for batch in loader] == [[4]]  # the order was given its own


def test_another_seed_counts_for_the_order_too(path):
    loader = Loader(path, N, order=OrderOption.RANDOM, seed=3)
    loader.seed = 8
    assert next(iter(loader))[0][:, 0].tolist() == np.random.default_rng(8).permutation(N).tolist()
    with pytest.raises(PipelineError, match="seed must be a whole number"):
        loader.seed = "8"


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        (name, bad)
        for name in ("batch_size", "batches_ahead", "num_workers")
        for bad in (0, -1, 1.5, "4", None)
        if (name, bad) not in (("num_workers", 0), ("num_workers", -1))  # one per CPU
        if (name, bad) != ("batches_ahead", 0)
    ],
)
def test_an_assigned_number_is_checked_like_an_argument(path, name, bad):
    loader = Loader(path, 4)
    before = getattr(loader, name)
    with pytest.raises(PipelineError, match=f"^{name} must be a whole number"):
        setattr(loader, name, bad)
    assert getattr(loader, name) == before
    setattr(loader, name, np.int64(3))
    assert getattr(loader, name) == 3 and len(list(loader)) == N // loader.batch_size


@pytest.mark.parametrize("workers", [0, -1])
def test_no_number_of_workers_is_one_per_cpu(path, monkeypatch, workers):
    monkeypatch.setattr("ffcv_gpu.loader.attributes.cpus_per_rank", lambda: 3)
    loader = Loader(path, 4, num_workers=1)
    loader.num_workers = workers
    assert loader.num_workers == Loader(path, 4, num_workers=workers).num_workers == 3
    assert len(list(loader)) == N // 4


@pytest.mark.parametrize("arguments", [{}, {"rank": 1, "world_size": 2, "batch_size": N // 2 + 1, "seed": 0}])
def test_an_epoch_without_a_batch_is_told(path, caplog, arguments):
    Loader(path, **{"batch_size": N + 1} | arguments)
    assert "has no batch" in caplog.text and "drop_last=True" in caplog.text
    caplog.clear()
    assert len(Loader(path, **{"batch_size": N + 1} | arguments, drop_last=False)) == 1
    assert not caplog.text


@pytest.mark.parametrize("order", [OrderOption.RANDOM, Shrinking])
def test_a_dropped_loader_needs_no_garbage_collector(path, order):
    loader = Loader(path, 4, order=order, num_workers=1)
    list(loader)
    gone = weakref.ref(loader)
    gc.disable()
    try:
        del loader
        assert gone() is None
    finally:
        gc.enable()


def test_pipelines_as_given_and_as_completed(path):
    label, module = [IntDecoder(), ToTensor(), Squeeze(1)], torch.nn.Identity()
    extra = PipelineSpec("score", transforms=[ToTensor(), module])
    loader = Loader(path, 4, pipelines={"label": label, "text": None, "extra": extra})
    assert loader.pipelines == {"label": label, "text": None, "extra": extra}
    specs = loader.pipeline_specs
    assert list(specs) == ["label", "score", "extra"] == list(loader.code)
    assert specs["label"].source == "label" and (specs["label"].decoder, *specs["label"].transforms) == tuple(
        label
    )
    assert isinstance(specs["score"].decoder, FloatDecoder) and isinstance(
        specs["extra"].decoder, FloatDecoder
    )
    assert [type(step) for step in specs["score"].transforms] == [ToTensor]
    assert [type(step) for step in specs["extra"].transforms] == [ToTensor, ModuleWrapper]
    # what the loader holds is not handed out to be changed, except for the lists, which are the user's
    for handed_out in (loader.pipelines, specs):
        with pytest.raises(TypeError, match="does not support item assignment"):
            handed_out["label"] = None
    loader.pipelines["label"].append(torch.nn.Flatten(0))
    assert len(next(iter(loader))) == 3 and len(loader.pipeline_specs["label"].transforms) == 3


def test_the_reader_and_the_column_of_a_field(path):
    loader = Loader(path, 4)
    assert loader.field_name_to_f_ix == {"label": 0, "score": 1, "text": 2}
    column = loader.reader.metadata[f"f{loader.field_name_to_f_ix['score']}"]
    assert column.tolist() == [i / 10 for i in range(N)]
    assert loader.reader.num_samples == N and loader.reader is loader.reader


@pytest.mark.parametrize(("os_cache", "kind"), [(True, OSCacheManager), (False, ProcessCacheManager)])
def test_the_memory_manager_reads_this_file(path, os_cache, kind):
    loader = Loader(path, 4, os_cache=os_cache)
    manager = loader.memory_manager
    assert type(manager) is kind and manager.reader is loader.reader
    read = manager.compile_reader()
    with manager.schedule_epoch([loader.next_traversal_order()[:4]]) as context:
        context.start_batch(0)
        pointers = loader.reader.metadata["f2"]["ptr"][:4]
        assert [bytes(read(pointer, context.state)) for pointer in pointers] == [b"t", b"tt", b"ttt", b"t"]


def test_there_is_no_graph_and_the_error_says_where_to_look(path):
    loader = Loader(path, 4)
    with pytest.raises(AttributeError, match=r"loader\.code.*loader\.pipeline_specs"):
        _ = loader.graph.nodes
    assert not hasattr(loader.graph, "nodes")
