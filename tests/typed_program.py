"""A user's program, checked by mypy with the package (``files`` in setup.cfg), and never run.

Strict, so that an ignored mistake which mypy no longer finds is an error too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ffcv_gpu import decode_jpegs
from ffcv_gpu.convert.beton import BetonDataset
from ffcv_gpu.convert.image_folder import ImageFolder
from ffcv_gpu.fields import IntField, NDArrayField, RGBImageField
from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption, ResidentLoader
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.pipeline.allocation_query import AllocationQuery
from ffcv_gpu.pipeline.operation import Operation
from ffcv_gpu.pipeline.state import State
from ffcv_gpu.steps import Step
from ffcv_gpu.transforms import (
    Cutout,
    NormalizeImage,
    RandomHorizontalFlip,
    RandomTranslate,
    Squeeze,
    ToTensor,
    ToTorchImage,
)
from ffcv_gpu.traversal_order.base import TraversalOrder
from ffcv_gpu.writer import DatasetWriter, merge_files


class Photos:
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.uint8], int]:
        return np.zeros((9, 9, 3), np.uint8), index


class Brighter(Operation):
    def generate_code(self) -> Callable[..., npt.NDArray[np.uint8]]:
        def brighter(images: npt.NDArray[np.uint8], memory: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
            memory[:] = images + 1
            return memory

        return brighter

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        memory = AllocationQuery(previous_state.shape, previous_state.dtype)
        return replace(previous_state, jit_mode=True), memory


class Backwards(TraversalOrder):
    def sample_order(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.asarray(self.indices)[::-1]


def write(path: Path) -> int:
    fields = {"image": RGBImageField(write_mode="jpg"), "label": IntField(), "x": NDArrayField("f4", (3,))}
    DatasetWriter(path, fields, num_workers=2).from_indexed_dataset(ImageFolder("photos"))
    DatasetWriter(path, {"image": RGBImageField(), "label": IntField()}).append(Photos(), np.arange(3))
    return merge_files([path, "b.beton"], "c.beton").samples


def load(path: Path) -> Loader:
    crop = RandomResizedCropRGBImageDecoder((32, 32), scale=(0.25, 1))
    image = [crop, RandomHorizontalFlip(), RandomTranslate(padding=2, fill=(1, 2, 3)), Cutout(4, (1, 2, 3))]
    label: list[Step] = [IntDecoder(), ToTensor(), Squeeze(1), Brighter()]
    loader = Loader(
        path,
        batch_size=16,
        order=OrderOption.QUASI_RANDOM,
        indices=np.flatnonzero(BetonDataset(path).column("label") < 3),
        pipelines={
            "image": [*image, ToTensor(), ToTorchImage(), NormalizeImage(np.zeros(3), [1, 1, 1], np.float16)],
            "label": label,
            "second": PipelineSpec("image", decoder=crop),
            "depth": None,
        },
        on_error=lambda error: "skip",
    )
    crop.output_size = (64, 64)
    crop.output_size = 96
    loader.indices, loader.batch_size, loader.seed = [1, 2], 8, 3
    Loader(path, 2, indices=range(3), order=Backwards)
    return loader.filter("label", lambda value: bool(value < 3))


def train(loader: Loader) -> dict[str, object]:
    for images, labels in loader:
        assert images.shape[0] == len(labels)
    for batch in ResidentLoader(loader):
        assert isinstance(batch, tuple)
    with loader, loader.profile() as profile, loader.trace("trace.json"):
        print(profile, loader.explain(), len(loader), len(iter(loader)))
    images, status = decode_jpegs([b""], output="numpy")
    assert images[0] is None and status.dtype == np.int8
    return loader.state_dict()


def mistakes(loader: Loader) -> None:
    Loader("a.beton", "16")  # type: ignore[arg-type]
    Loader("a.beton", 16, shuffle=True)  # type: ignore[call-arg]
    Loader("a.beton", 16, order="random")  # type: ignore[arg-type]
    Loader("a.beton", 16, indices=[0.5])  # type: ignore[list-item]
    RGBImageField(write_mode=3)  # type: ignore[arg-type]
    NormalizeImage(1)  # type: ignore[call-arg]
    DatasetWriter("a.beton", [RGBImageField()])  # type: ignore[arg-type]
    loader.num_workers = "4"  # type: ignore[assignment]
    loader.no_such()  # type: ignore[attr-defined]
