"""FFCV's import lines, with ``ffcv`` renamed: each name is there, and is the one that its own module has."""

import importlib
import subprocess
import sys

import pytest

DECODERS = "ffcv_gpu.fields.decoders"
# module -> (names, the module that defines them), after FFCV's documentation, examples and tests
TABLE = {
    "ffcv_gpu": ("Loader DatasetWriter __version__", None),
    "ffcv_gpu.writer": ("DatasetWriter MIN_PAGE_SIZE MAX_PAGE_SIZE", None),
    "ffcv_gpu.loader": ("Loader OrderOption", None),
    "ffcv_gpu.loader.loader": ("Loader OrderOption ORDER_TYPE ORDER_MAP DEFAULT_OS_CACHE", None),
    "ffcv_gpu.fields": (
        "Field IntField FloatField RGBImageField BytesField NDArrayField JSONField TorchTensorField", None,
    ),
    "ffcv_gpu.fields.decoders": (
        "IntDecoder FloatDecoder NDArrayDecoder BytesDecoder SimpleRGBImageDecoder "
        "RandomResizedCropRGBImageDecoder CenterCropRGBImageDecoder", None,
    ),
    "ffcv_gpu.fields.rgb_image": (
        "SimpleRGBImageDecoder RandomResizedCropRGBImageDecoder CenterCropRGBImageDecoder", DECODERS,
    ),
    "ffcv_gpu.fields.basics": ("IntDecoder FloatDecoder", DECODERS),
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
        "OSCacheManager MemoryManager MemoryContext", "ffcv_gpu.compat.memory_managers",
    ),
    "ffcv_gpu.libffcv": ("memcpy", "ffcv_gpu.compat.utils"),
    "ffcv_gpu.transforms.ops": ("ToTensor ToDevice ToTorchImage Convert View", "ffcv_gpu.transforms"),
    "ffcv_gpu.transforms.common": ("Squeeze", "ffcv_gpu.transforms"),
    "ffcv_gpu.transforms.cutout": ("Cutout", "ffcv_gpu.transforms"),
    "ffcv_gpu.transforms.flip": ("RandomHorizontalFlip", "ffcv_gpu.transforms"),
    "ffcv_gpu.transforms.module": ("ModuleWrapper", "ffcv_gpu.transforms"),
    "ffcv_gpu.transforms.normalize": ("NormalizeImage", "ffcv_gpu.transforms"),
    "ffcv_gpu.transforms.random_resized_crop": ("RandomResizedCrop", "ffcv_gpu.transforms"),
    "ffcv_gpu.transforms.translate": ("RandomTranslate", "ffcv_gpu.transforms"),
    "ffcv_gpu.pipeline": ("PipelineSpec Compiler", None),
    "ffcv_gpu.pipeline.operation": ("Operation AllocationQuery", "ffcv_gpu.compat"),
    "ffcv_gpu.pipeline.allocation_query": ("AllocationQuery Allocation", "ffcv_gpu.compat"),
    "ffcv_gpu.pipeline.state": ("State", "ffcv_gpu.compat"),
    "ffcv_gpu.pipeline.compiler": ("Compiler", "ffcv_gpu.compat"),
    "ffcv_gpu.pipeline.pipeline_spec": ("PipelineSpec", "ffcv_gpu.pipeline"),
    "ffcv_gpu.reader": ("Reader", None),
    "ffcv_gpu.traversal_order": ("Sequential Random QuasiRandom", "ffcv_gpu.loader.traversal"),
    "ffcv_gpu.traversal_order.base": ("TraversalOrder", "ffcv_gpu.loader.traversal"),
    "ffcv_gpu.types": ("CURRENT_VERSION HeaderType ALLOC_TABLE_TYPE FieldDescType", "ffcv_gpu.format"),
    "ffcv_gpu.utils": ("chunks is_power_of_2 align_to_page", None),
}  # fmt: skip
ROWS = [(module, name, home) for module, (names, home) in TABLE.items() for name in names.split()]


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


@pytest.mark.parametrize(
    "module", ["ffcv_gpu.pipeline.operation", "ffcv_gpu.types", "ffcv_gpu.fields.basics"]
)
def test_each_can_be_the_first_import_and_loads_neither_torch_nor_numba(module):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "numba"} & set(done.stdout.split()) == set()


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
