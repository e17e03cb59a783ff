"""Classes derived from built-in steps that bring FFCV's protocol, as FFCV's users derive theirs."""

import io
from dataclasses import replace

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.fields.decoders import RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv_gpu.fields.rgb_image import IMAGE_MODES, imdecode, resize_crop
from ffcv_gpu.loader import Loader
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.pipeline.allocation_query import AllocationQuery
from ffcv_gpu.pipeline.compiler import Compiler
from ffcv_gpu.reader import Reader
from ffcv_gpu.transforms import (
    Cutout,
    RandomHorizontalFlip,
    RandomTranslate,
    ToTensor,
)
from ffcv_gpu.writer import DatasetWriter
from tests.compat.operations import PIXELS, N, column, images_of

BYTE = np.dtype("u1")


class Views(SimpleRGBImageDecoder):
    """Several crops of one decode, as in lightly-style and multi-view forks: (views, height, width, 3)."""

    def __init__(self, output_size, tops):
        super().__init__()
        self.output_size, self.tops = output_size, tops

    def declare_state_and_memory(self, previous_state):
        largest = int(self.metadata["height"].max()) * int(self.metadata["width"].max()) * 3
        shape = (len(self.tops), *self.output_size, 3)
        state = replace(previous_state, jit_mode=True, shape=shape, dtype=BYTE)
        return state, (AllocationQuery(shape, BYTE), AllocationQuery((largest,), BYTE))

    def generate_code(self):
        mem_read, jpg, tops = self.memory_read, IMAGE_MODES["jpg"], np.array(self.tops)
        my_range = Compiler.get_iterator()
        imdecode_c, resize_crop_c = Compiler.compile(imdecode), Compiler.compile(resize_crop)

        def decode(batch_indices, my_storage, metadata, storage_state):
            destination, temp_storage = my_storage
            for i in my_range(len(batch_indices)):
                field = metadata[batch_indices[i]]
                data = mem_read(field["data_ptr"], storage_state)
                height, width = np.int64(field["height"]), np.int64(field["width"])
                image = temp_storage[i][: height * width * 3].reshape(height, width, 3)
                if field["mode"] == jpg:
                    imdecode_c(data, image, height, width, height, width, 0, 0, 1, 1, False, False)
                else:
                    image[:] = data.reshape(height, width, 3)
                for view in range(len(tops)):
                    resize_crop_c(image, tops[view], height, 0, width, destination[i, view])
            return destination[: len(batch_indices)]

        decode.is_parallel = True
        return decode


class EncodedBytes(SimpleRGBImageDecoder):
    """The stored bytes themselves, padded: scripts look at single samples so."""

    def __init__(self, longest):
        super().__init__()
        self.longest = longest

    def declare_state_and_memory(self, previous_state):
        state = replace(previous_state, jit_mode=True, shape=(self.longest,), dtype=BYTE)
        return state, AllocationQuery((self.longest,), BYTE)

    def generate_code(self):
        mem_read = self.memory_read

        def decode(batch_indices, destination, metadata, storage_state):
            for i in range(len(batch_indices)):
                data = mem_read(metadata[batch_indices[i]]["data_ptr"], storage_state)
                destination[i, : data.shape[0]] = data
            return destination

        return decode


class WithBase(RandomResizedCropRGBImageDecoder):
    """Derived from a decoder with arguments of its own, which its code uses."""

    def declare_state_and_memory(self, previous_state):
        shape = (*self.output_size, 3)
        return replace(previous_state, shape=shape, dtype=BYTE), AllocationQuery(shape, BYTE)

    def generate_code(self):
        value = int(self.output_size[0] + 100 * self.scale[1])

        def decode(batch_indices, destination, metadata, storage_state):
            destination[:] = value
            return destination

        return decode


class Darker(RandomHorizontalFlip):
    """A transform that keeps the base's arguments and does something else."""

    def declare_state_and_memory(self, previous_state):
        return replace(previous_state, jit_mode=True), AllocationQuery(previous_state.shape, BYTE)

    def generate_code(self):
        share = self.flip_prob

        def darker(images, dst):
            for i in range(len(images)):
                dst[i] = images[i] * share
            return dst

        return darker


class Mirror(RandomHorizontalFlip):
    """Code alone: what it works in is what the base declares in FFCV. fastxtend's transforms are made so."""

    def generate_code(self):
        def mirror(images, dst):
            dst[:] = images[:, :, ::-1]
            return dst

        return mirror


class UpperLeft(Cutout):
    """As `Mirror`, in place and with the base's arguments."""

    def generate_code(self):
        side, fill = self.crop_size, self.fill

        def upper_left(images, _):
            for i in range(len(images)):
                images[i, :side, :side] = fill
            return images

        return upper_left


class Down(RandomTranslate):
    """As `Mirror`, in the memory of a padded image."""

    def generate_code(self):
        pad, fill = self.padding, self.fill

        def down(images, dst):
            _, h, w, _ = images.shape
            dst[:] = fill
            dst[:, pad : pad + h, pad : pad + w] = images
            images[:] = dst[:, :h, pad : pad + w]
            return images

        return down


@pytest.fixture(scope="module")
def photos(tmp_path_factory, make_photo):
    path = tmp_path_factory.mktemp("derived") / "photos.beton"
    images = [make_photo(40 + i, 50 - 2 * i, i) for i in range(4)]
    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=95), "label": IntField()}
    writer = DatasetWriter(path, fields, num_workers=1, progress=False)
    writer.from_indexed_dataset([(image, i) for i, image in enumerate(images)])
    return path


def stored(path, decoder):
    return next(iter(Loader(path, 4, pipelines={"image": decoder, "label": None})))[0]


@pytest.fixture(scope="module")
def encoded(photos):
    longest = int(Reader(photos).alloc_table["size"].max())
    return [bytes(row) for row in np.asarray(stored(photos, [EncodedBytes(longest), ToTensor()]))]


def test_the_bytes_of_the_file(encoded):
    images = [Image.open(io.BytesIO(data)) for data in encoded]
    assert [image.size for image in images] == [(50 - 2 * i, 40 + i) for i in range(4)]


def test_several_crops_of_one_decode(photos, encoded, monkeypatch):
    monkeypatch.setattr(Compiler, "is_enabled", False)  # test_library.py has one like it compiled
    decoder = PipelineSpec("image", decoder=Views((16, 20), (0, 10)), transforms=[ToTensor()])
    batch = np.asarray(stored(photos, decoder))
    for data, views in zip(encoded, batch, strict=True):
        image = simplejpeg.decode_jpeg(data, fastdct=True)
        for top, view in zip((0, 10), views, strict=True):
            assert np.array_equal(view, cv2.resize(image[top:], (20, 16), interpolation=cv2.INTER_AREA))


def test_another_output_size_counts_from_the_next_epoch_on(photos):
    decoder = WithBase((16, 20), scale=(0.1, 0.5))
    loader = Loader(photos, 4, pipelines={"image": [decoder], "label": None})
    for size in ((16, 20), (8, 8), (16, 20)):
        decoder.output_size = size
        ((images,),) = loader
        assert images.shape == (4, *size, 3) and (images == size[0] + 50).all()
    assert "WithBase(output_size=(16, 20)" in loader.explain()


def test_a_transform(known):
    loader = images_of(known, Darker(0.5))
    assert np.array_equal(column(loader), (PIXELS * 0.5).astype(np.uint8)) and len(PIXELS) == N


def test_a_view_goes_on_behind_it(known):
    darker = Darker(0.5)
    view = PipelineSpec(darker, transforms=[ToTensor()])
    pipelines = {"image": [SimpleRGBImageDecoder(), darker, RandomHorizontalFlip(1.0)], "label": None}
    for images, views in Loader(known, 8, pipelines={**pipelines, "view": view}):
        assert np.array_equal(images[:, :, ::-1], views)


def test_code_alone_gets_the_memory_that_its_base_declares_in_ffcv(known):
    assert np.array_equal(column(images_of(known, Mirror())), PIXELS[:, :, ::-1])
    cut, moved = PIXELS.copy(), np.empty_like(PIXELS)
    cut[:, :3, :3] = 7, 8, 9
    assert np.array_equal(column(images_of(known, UpperLeft(3, (7, 8, 9)))), cut)
    moved[:, :2], moved[:, 2:] = (1, 2, 3), PIXELS[:, :-2]
    assert np.array_equal(column(images_of(known, Down(2, (1, 2, 3)))), moved)
