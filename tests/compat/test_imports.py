"""FFCV's import lines and parameters, ``ffcv`` renamed: each name is there, and takes what FFCV's takes."""

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.memory_allocator import MemoryAllocator

DECODERS = "ffcv_gpu.fields.decoders"
# module -> (names, the module that defines them), after FFCV's documentation, examples and tests
TABLE = {
    "ffcv_gpu": ("Loader DatasetWriter __version__", None),
    "ffcv_gpu.writer": ("DatasetWriter MIN_PAGE_SIZE MAX_PAGE_SIZE", None),
    "ffcv_gpu.loader": ("Loader OrderOption", None),
    "ffcv_gpu.loader.loader": (
        "Loader OrderOption ORDER_TYPE ORDER_MAP DEFAULT_OS_CACHE DEFAULT_PROCESS_CACHE", None,
    ),
    "ffcv_gpu.fields": (
        "Field IntField FloatField RGBImageField BytesField NDArrayField JSONField TorchTensorField", None,
    ),
    "ffcv_gpu.fields.decoders": (
        "IntDecoder FloatDecoder NDArrayDecoder BytesDecoder SimpleRGBImageDecoder "
        "RandomResizedCropRGBImageDecoder CenterCropRGBImageDecoder", None,
    ),
    "ffcv_gpu.fields.rgb_image": (
        "SimpleRGBImageDecoder ResizedCropRGBImageDecoder RandomResizedCropRGBImageDecoder "
        "CenterCropRGBImageDecoder", DECODERS,
    ),
    "ffcv_gpu.fields.basics": ("BasicDecoder IntDecoder FloatDecoder", DECODERS),
    "ffcv_gpu.fields.ndarray": ("NDArrayDecoder", DECODERS),
    "ffcv_gpu.fields.bytes": ("BytesDecoder", DECODERS),
    "ffcv_gpu.fields.json": ("BytesDecoder", DECODERS),
    "ffcv_gpu.fields.base": ("Field ARG_TYPE", None),
    "ffcv_gpu.transforms": (
        "ToTensor ToDevice ToTorchImage NormalizeImage Convert View Squeeze ModuleWrapper "
        "RandomHorizontalFlip RandomTranslate Cutout RandomResizedCrop RandomBrightness RandomContrast "
        "RandomSaturation ImageMixup LabelMixup MixupToOneHot Poison ReplaceLabel", None,
    ),
    "ffcv_gpu.transforms.color_jitter": (
        "RandomBrightness RandomContrast RandomSaturation RandomColorJitter", "ffcv_gpu.transforms",
    ),
    "ffcv_gpu.transforms.mixup": ("ImageMixup LabelMixup MixupToOneHot", "ffcv_gpu.transforms"),
    "ffcv_gpu.transforms.poisoning": ("Poison", "ffcv_gpu.transforms"),
    "ffcv_gpu.transforms.replace_label": ("ReplaceLabel", "ffcv_gpu.transforms"),
    "ffcv_gpu.memory_managers": (
        "OSCacheManager ProcessCacheManager MemoryManager MemoryContext", None,
    ),
    "ffcv_gpu.memory_managers.base": ("MemoryManager MemoryContext", "ffcv_gpu.memory_managers"),
    "ffcv_gpu.memory_managers.os_cache": ("OSCacheManager", "ffcv_gpu.memory_managers"),
    "ffcv_gpu.memory_managers.process_cache": ("ProcessCacheManager", "ffcv_gpu.memory_managers"),
    "ffcv_gpu.libffcv": ("read imdecode resize_crop memcpy", None),
    "ffcv_gpu.transforms.utils.fast_crop": ("get_random_crop get_center_crop resize_crop", None),
    "ffcv_gpu.transforms.ops": ("ToTensor ToDevice ToTorchImage Convert View", "ffcv_gpu.transforms"),
    "ffcv_gpu.transforms.common": ("Squeeze", "ffcv_gpu.transforms"),
    "ffcv_gpu.transforms.cutout": ("Cutout", "ffcv_gpu.transforms"),
    "ffcv_gpu.transforms.flip": ("RandomHorizontalFlip", "ffcv_gpu.transforms"),
    "ffcv_gpu.transforms.module": ("ModuleWrapper", "ffcv_gpu.transforms"),
    "ffcv_gpu.transforms.normalize": ("NormalizeImage", "ffcv_gpu.transforms"),
    "ffcv_gpu.transforms.random_resized_crop": ("RandomResizedCrop", "ffcv_gpu.transforms"),
    "ffcv_gpu.transforms.translate": ("RandomTranslate", "ffcv_gpu.transforms"),
    "ffcv_gpu.pipeline": ("PipelineSpec Compiler Pipeline", None),
    "ffcv_gpu.pipeline.pipeline": ("Pipeline", "ffcv_gpu.pipeline"),
    "ffcv_gpu.pipeline.graph": ("Graph Node DecoderNode TransformNode RefNode", None),
    "ffcv_gpu.memory_allocator": ("MemoryAllocator", None),
    "ffcv_gpu.pipeline.operation": ("Operation AllocationQuery State", "ffcv_gpu.compat"),
    "ffcv_gpu.pipeline.allocation_query": ("AllocationQuery Allocation allocate_query", None),
    "ffcv_gpu.pipeline.state": ("State", "ffcv_gpu.compat"),
    "ffcv_gpu.pipeline.compiler": ("Compiler", "ffcv_gpu.compat"),
    "ffcv_gpu.pipeline.pipeline_spec": ("PipelineSpec", "ffcv_gpu.pipeline"),
    "ffcv_gpu.reader": ("Reader", None),
    "ffcv_gpu.traversal_order": ("Sequential Random QuasiRandom", "ffcv_gpu.loader.traversal"),
    "ffcv_gpu.traversal_order.base": ("TraversalOrder", "ffcv_gpu.loader.traversal"),
    "ffcv_gpu.traversal_order.random": ("Random", "ffcv_gpu.loader.traversal"),
    "ffcv_gpu.traversal_order.sequential": ("Sequential", "ffcv_gpu.loader.traversal"),
    "ffcv_gpu.traversal_order.quasi_random": ("QuasiRandom", "ffcv_gpu.loader.traversal"),
    "ffcv_gpu.types": ("CURRENT_VERSION HeaderType ALLOC_TABLE_TYPE FieldDescType", "ffcv_gpu.format"),
    "ffcv_gpu.utils": ("chunks is_power_of_2 align_to_page decode_null_terminated_string", None),
}  # fmt: skip
# names that are at home in these modules themselves
OWN = {
    "ffcv_gpu.fields.rgb_image": (
        "RGBImageField encode_jpeg resizer get_random_crop get_center_crop IMAGE_MODES imdecode resize_crop"
    ),
    "ffcv_gpu.fields.basics": "IntField FloatField Operation State AllocationQuery",
    "ffcv_gpu.fields.ndarray": "NDArrayField TorchTensorField NDArrayArgsType Operation Compiler memcpy",
    "ffcv_gpu.fields.bytes": "BytesField Operation memcpy",
    "ffcv_gpu.fields.json": "JSONField",
    "ffcv_gpu.types": "TYPE_ID_HANDLER get_handlers get_metadata_type",
    "ffcv_gpu.transforms.color_jitter": "RandomBrightness RandomContrast RandomSaturation",
}
ROWS = [(module, name, home) for module, (names, home) in TABLE.items() for name in names.split()]
ROWS += [(module, name, None) for module, names in OWN.items() for name in names.split()]


#: a parameter without a default
NEEDED = inspect.Parameter.empty


def takes(*needed, **defaults):
    """FFCV's parameters in their order."""
    return {**dict.fromkeys(needed, NEEDED), **defaults}


# Written down from FFCV 1.0.2; the last test compares it with FFCV itself where that is installed.
FFCV_TAKES = {
    "loader.Loader": takes(
        "fname", "batch_size", num_workers=-1, os_cache=True, order="SEQUENTIAL", distributed=False,
        seed=None, indices=None, pipelines={}, custom_fields={}, drop_last=True, batches_ahead=3,
        recompile=False,
    ),
    "loader.Loader.filter": takes("field_name", "condition"),
    "loader.Loader.next_traversal_order": takes(),
    "writer.DatasetWriter": takes("fname", "fields", page_size=8 << 20, num_workers=-1),
    "writer.DatasetWriter.from_indexed_dataset": takes(
        "dataset", indices=None, chunksize=100, shuffle_indices=False
    ),
    "writer.DatasetWriter.from_webdataset": takes("shards", "pipeline"),
    "fields.Field.from_binary": takes("binary"),
    "fields.Field.to_binary": takes(),
    "fields.Field.get_decoder_class": takes(),
    "fields.IntField": takes(),
    "fields.FloatField": takes(),
    "fields.RGBImageField": takes(
        write_mode="raw", max_resolution=None, smart_threshold=None, jpeg_quality=90,
        compress_probability=0.5,
    ),
    "fields.BytesField": takes(),
    "fields.NDArrayField": takes("dtype", "shape"),
    "fields.JSONField": takes(),
    "fields.JSONField.unpack": takes("batch"),
    "fields.TorchTensorField": takes("dtype", "shape"),
    "fields.decoders.IntDecoder": takes(),
    "fields.decoders.FloatDecoder": takes(),
    "fields.decoders.NDArrayDecoder": takes(),
    "fields.decoders.BytesDecoder": takes(),
    "fields.decoders.SimpleRGBImageDecoder": takes(),
    "fields.decoders.RandomResizedCropRGBImageDecoder": takes(
        "output_size", scale=(0.08, 1.0), ratio=(0.75, 4 / 3)
    ),
    "fields.decoders.CenterCropRGBImageDecoder": takes("output_size", "ratio"),
    "fields.rgb_image.ResizedCropRGBImageDecoder": takes("output_size"),
    "fields.rgb_image.encode_jpeg": takes("numpy_image", "quality"),
    "fields.rgb_image.resizer": takes("image", "target_resolution"),
    "fields.rgb_image.get_random_crop": takes("height", "width", "scale", "ratio"),
    "fields.rgb_image.get_center_crop": takes("height", "width", "_", "ratio"),
    "fields.basics.BasicDecoder": takes(),
    "transforms.ToTensor": takes(),
    "transforms.ToDevice": takes("device", non_blocking=True),
    "transforms.ToTorchImage": takes(channels_last=True, convert_back_int16=True),
    "transforms.NormalizeImage": takes("mean", "std", "type"),
    "transforms.Convert": takes("target_dtype"),
    "transforms.View": takes("target_dtype"),
    "transforms.Squeeze": takes("dims"),
    "transforms.ModuleWrapper": takes("module"),
    "transforms.RandomHorizontalFlip": takes(flip_prob=0.5),
    "transforms.RandomTranslate": takes("padding", fill=(0, 0, 0)),
    "transforms.Cutout": takes("crop_size", fill=(0, 0, 0)),
    "transforms.RandomResizedCrop": takes("scale", "ratio", "size"),
    "transforms.RandomBrightness": takes("magnitude", p=0.5),
    "transforms.RandomContrast": takes("magnitude", p=0.5),
    "transforms.RandomSaturation": takes("magnitude", p=0.5),
    "transforms.ImageMixup": takes("alpha", "same_lambda"),
    "transforms.LabelMixup": takes("alpha", "same_lambda"),
    "transforms.MixupToOneHot": takes("num_classes"),
    "transforms.Poison": takes("mask", "alpha", "indices", clamp=(0, 255)),
    "transforms.ReplaceLabel": takes("indices", "new_label"),
    "transforms.utils.fast_crop.get_random_crop": takes("height", "width", "scale", "ratio"),
    "transforms.utils.fast_crop.get_center_crop": takes("height", "width", "ratio"),
    "transforms.utils.fast_crop.resize_crop": takes(
        "source", "start_row", "end_row", "start_col", "end_col", "destination"
    ),
    "pipeline.PipelineSpec": takes("source", decoder=None, transforms=None),
    "pipeline.operation.Operation.accept_field": takes("field"),
    "pipeline.operation.Operation.accept_globals": takes("metadata", "memory_read"),
    "pipeline.operation.Operation.generate_code": takes(),
    "pipeline.operation.Operation.declare_state_and_memory": takes("previous_state"),
    "pipeline.operation.Operation.declare_shared_memory": takes("previous_state"),
    "pipeline.operation.Operation.generate_code_for_shared_state": takes(),
    "pipeline.allocation_query.AllocationQuery": takes("shape", "dtype", device=None),
    "pipeline.allocation_query.allocate_query": takes("memory_allocation", "batch_size", "batches_ahead"),
    "pipeline.state.State": takes("jit_mode", "device", "shape", "dtype"),
    "pipeline.compiler.Compiler.set_enabled": takes("b"),
    "pipeline.compiler.Compiler.set_num_threads": takes("n"),
    "pipeline.compiler.Compiler.compile": takes("code", signature=None),
    "pipeline.compiler.Compiler.get_iterator": takes(),
    "reader.Reader": takes("fname", custom_handlers={}),
    "memory_managers.OSCacheManager": takes("reader"),
    "memory_managers.ProcessCacheManager": takes("reader"),
    "memory_managers.ProcessCacheManager.schedule_epoch": takes("batches"),
    "memory_managers.ProcessCacheManager.compile_reader": takes(),
    "memory_managers.MemoryContext.start_batch": takes("batch"),
    "types.get_handlers": takes("field_descriptors"),
    "types.get_metadata_type": takes("handlers"),
    "traversal_order.base.TraversalOrder": takes("loader"),
    "traversal_order.base.TraversalOrder.sample_order": takes("epoch"),
    "libffcv.read": takes("fileno", "destination", "offset"),
    "libffcv.imdecode": takes(
        "source", "dst", "source_height", "source_width", crop_height=None, crop_width=None, offset_x=0,
        offset_y=0, scale_factor_num=1, scale_factor_denom=1, enable_crop=False, do_flip=False,
    ),
    "libffcv.resize_crop": takes("source", "start_row", "end_row", "start_col", "end_col", "destination"),
    "libffcv.memcpy": takes("source", "dest"),
    "utils.chunks": takes("lst", "n"),
    "utils.decode_null_terminated_string": takes("bytes"),
    "utils.is_power_of_2": takes("n"),
    "utils.align_to_page": takes("ptr", "page_size"),
}  # fmt: skip

# Other defaults than FFCV's, each on purpose.
DIFFERS = {
    ("loader.Loader", "pipelines"): None,  # as good as {}, and not shared between loaders
    ("loader.Loader", "custom_fields"): None,
    ("reader.Reader", "custom_handlers"): None,
    ("fields.RGBImageField", "write_mode"): None,  # pixels raw as in FFCV, JPEGs as they are
    ("fields.RGBImageField", "jpeg_quality"): None,  # 90 for pixels as in FFCV, 95 for JPEGs encoded again
    ("transforms.Cutout", "crop_size"): None,  # FFCV's own README leaves it out
}


def found(path):
    """What `path` names in ffcv_gpu; the function under a compiled one."""
    module, _, name = f"ffcv_gpu.{path}".rpartition(".")
    try:
        owner = importlib.import_module(module)
    except ModuleNotFoundError:
        owner = found(module.removeprefix("ffcv_gpu."))
    return inspect.unwrap(getattr(getattr(owner, name), "py_func", getattr(owner, name)))


def positional(what):
    """Name and default of each parameter that can be given by place."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(what).parameters.values()
    given = {p.name: p.default for p in parameters if p.kind in kinds and p.name != "self"}
    return {name: getattr(default, "name", default) for name, default in given.items()}


@pytest.mark.parametrize("path", FFCV_TAKES)
def test_it_takes_what_ffcvs_takes_in_the_same_order(path):
    mine, theirs = positional(found(path)), FFCV_TAKES[path]
    assert list(mine)[: len(theirs)] == list(theirs)
    wanted = {name: DIFFERS.get((path, name), default) for name, default in theirs.items()}
    assert {name: mine[name] for name in theirs} == wanted
    # what is more can be left out
    assert NEEDED not in list(mine.values())[len(theirs) :]


def test_every_difference_is_one():
    assert all(FFCV_TAKES[path][name] != default for (path, name), default in DIFFERS.items())


def test_the_table_is_ffcvs_own(ffcv_python):
    script = Path(__file__).with_name("signatures_of_ffcv.py")
    command = [ffcv_python, str(script), *FFCV_TAKES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    written = {
        path: [[name, "" if default is NEEDED else repr(default)] for name, default in parameters.items()]
        for path, parameters in FFCV_TAKES.items()
    }
    assert theirs == written


@pytest.mark.parametrize(("module", "name", "home"), ROWS)
def test_the_name_is_there_and_the_same_everywhere(module, name, home):
    namespace = {}
    exec(f"from {module} import {name}", namespace)
    if home is not None:
        assert namespace[name] is getattr(importlib.import_module(home), name)


@pytest.mark.parametrize(
    "module",
    [
        "ffcv_gpu.fields.basics",
        "ffcv_gpu.fields.bytes",
        "ffcv_gpu.fields.json",
        "ffcv_gpu.fields.ndarray",
        "ffcv_gpu.fields.rgb_image",
        "ffcv_gpu.pipeline",
        "ffcv_gpu.transforms.ops",
    ],
)
def test_other_names_are_still_errors(module):
    with pytest.raises(ImportError, match="cannot import name 'NoSuchThing'"):
        exec(f"from {module} import NoSuchThing")


def test_modules_are_attributes_behind_the_import_of_the_package_alone():
    """As FFCV's are: scripts write ``ffcv.fields.IntField()`` behind ``import ffcv``."""
    left_out = {"ffcv_gpu.fields.decoders", "ffcv_gpu.transforms.utils.fast_crop"}  # FFCV loads not the first
    names = [f"{module}.{names.split()[0]}" for module, (names, _) in TABLE.items() if module not in left_out]
    names.sort(key=lambda name: "pipeline" not in name)  # before the loader, which loads most modules
    code = "import sys, ffcv_gpu; [eval(name) for name in sys.argv[1:]]"
    subprocess.run([sys.executable, "-c", code, *names], check=True)


@pytest.mark.parametrize(
    "module", ["ffcv_gpu.pipeline.operation", "ffcv_gpu.types", "ffcv_gpu.fields.basics"]
)
def test_each_can_be_the_first_import_and_loads_neither_torch_nor_numba(module):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "numba"} & set(done.stdout.split()) == set()


@pytest.mark.parametrize("module", ["pipeline", "loader", "fields", "fields.decoders", "transforms"])
def test_a_star_import_brings_the_names_of_the_table(module):
    brought: dict[str, object] = {}
    exec(f"from ffcv_gpu.{module} import *", brought)
    assert set(TABLE[f"ffcv_gpu.{module}"][0].split()) <= set(brought)


@pytest.mark.parametrize(("module", "name"), [("pipeline", "Pipeline"), ("pipeline.graph", "Graph")])
def test_what_is_not_there_can_be_imported_and_says_what_to_do_when_used(module, name):
    absent = getattr(importlib.import_module(f"ffcv_gpu.{module}"), name)
    with pytest.raises(PipelineError, match=f"there is no {name} here .* loader.explain"):
        absent({}, fields=())
    with pytest.raises(PipelineError, match=r"no MemoryAllocator .*DatasetWriter"):
        MemoryAllocator("a.beton", 0, 1 << 21)


def test_order_map_and_custom_orders_by_ffcvs_names():
    from ffcv_gpu.loader.loader import ORDER_MAP, OrderOption
    from ffcv_gpu.traversal_order import QuasiRandom, Random, Sequential
    from ffcv_gpu.traversal_order.base import TraversalOrder

    assert [option.value for option in OrderOption] == [1, 2, 3]
    assert [ORDER_MAP[option] for option in OrderOption] == [Sequential, Random, QuasiRandom]
    assert all(issubclass(order, TraversalOrder) for order in ORDER_MAP.values())


def test_the_small_functions():
    from ffcv_gpu.utils import align_to_page, chunks, is_power_of_2

    assert list(chunks(list(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert [n for n in range(-2, 20) if is_power_of_2(n)] == [1, 2, 4, 8, 16]
    assert [align_to_page(pointer, 8) for pointer in (0, 1, 8, 9)] == [0, 8, 8, 16]
