"""What FFCV's scripts call of its C library: FFCV's pixels, from Python and from compiled functions."""

import subprocess
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from numba import njit

from ffcv_gpu import libffcv
from ffcv_gpu.errors import DecodeError, PipelineError
from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.fields.rgb_image import IMAGE_MODES, get_center_crop
from ffcv_gpu.libffcv import imdecode, read, resize_crop
from ffcv_gpu.loader import Loader
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.pipeline.compiler import Compiler
from ffcv_gpu.pipeline.operation import AllocationQuery, Operation
from ffcv_gpu.transforms import ToTensor
from ffcv_gpu.transforms.utils import fast_crop
from ffcv_gpu.writer import DatasetWriter


@pytest.fixture(scope="module")
def photo(make_photo):
    return make_photo(40, 60, 3)


def in_numba(function):
    """A user's function that numba compiles and that calls one of FFCV's, as FFCV's own decoders do."""
    compiled = Compiler.compile(function)
    return njit(nogil=True)(lambda *arguments: compiled(*arguments))


@pytest.mark.parametrize("call", [imdecode, in_numba(imdecode)])
def test_imdecode_as_ffcvs_own_decoders_call_it(photo, call):
    jpeg = np.frombuffer(simplejpeg.encode_jpeg(photo, 90), np.uint8)
    memory = np.zeros(40 * 60 * 3 + 100, np.uint8)
    height, width = np.uint32(40), np.uint32(60)
    assert call(jpeg, memory, height, width, height, width, 0, 0, 1, 1, False, False) == 0
    want = simplejpeg.decode_jpeg(jpeg.tobytes(), fastdct=True)
    assert np.array_equal(memory[:-100].reshape(40, 60, 3), want) and not memory[-100:].any()


def test_imdecode_refuses_what_ffcv_passes_over(photo):
    data = simplejpeg.encode_jpeg(photo, 90)
    jpeg, memory = np.frombuffer(data, np.uint8), np.zeros((40, 60, 3), np.uint8)
    damaged = np.frombuffer(data[: len(data) // 2], np.uint8)
    with pytest.raises(DecodeError, match="imdecode"):
        imdecode(damaged, memory, 40, 60)
    with pytest.raises(DecodeError, match="60 x 40 pixels, not 40 x 60"):
        imdecode(jpeg, memory, 60, 40)
    with pytest.raises(PipelineError, match="at least 7200 values"):
        imdecode(jpeg, memory[:20], 40, 60)
    for more in ({"enable_crop": True}, {"do_flip": True}, {"crop_height": 8}, {"scale_factor_denom": 2}):
        with pytest.raises(PipelineError, match="whole images"):
            imdecode(jpeg, memory, 40, 60, **more)


@pytest.mark.parametrize("call", [resize_crop, in_numba(resize_crop), fast_crop.resize_crop])
def test_resize_crop_is_opencvs_area(photo, call):
    for size in ((16, 12), (80, 90)):
        out = np.zeros((*size, 3), np.uint8)
        call(photo, 3, 33, 10, 50, out)
        want = cv2.resize(photo[3:33, 10:50], size[::-1], interpolation=cv2.INTER_AREA)
        assert np.array_equal(out, want)
    for part in ((0, 41, 0, 60), (-1, 5, 0, 5), (5, 5, 0, 5), (0, 5, 0, 61)):
        with pytest.raises(PipelineError, match="not a part of an image of 60 x 40"):
            call(photo, *part, out)


def test_fast_crop_is_called_inside_compiled_functions():
    @njit
    def crops(count):
        rows = np.zeros((count, 4), np.int64)
        for k in range(count):
            i, j, h, w = fast_crop.get_random_crop(300, 400, np.array([0.25, 0.25]), np.array([1.0, 1.0]))
            rows[k, 0], rows[k, 1], rows[k, 2], rows[k, 3] = i, j, h, w
        return rows, fast_crop.get_center_crop(300, 401, 0.5)

    rows, centre = crops(200)
    assert (rows[:, 2:] == round((300 * 400 / 4) ** 0.5)).all() and centre == (75, 125, 150, 150)
    assert rows[:, 0].min() >= 0 and (rows[:, 0] + 173 <= 300).all() and len(set(rows[:, 1])) > 50


class HalfSize(Operation):
    """A decoder of one's own, after FFCV's: decodes by `imdecode`, shrinks by `resize_crop`."""

    def declare_state_and_memory(self, previous_state):
        most = int((3 * self.metadata["height"].astype(np.int64) * self.metadata["width"]).max())
        shape, dtype = (20, 30, 3), np.dtype("u1")
        state = replace(previous_state, jit_mode=True, shape=shape, dtype=dtype)
        return state, (AllocationQuery(shape, dtype), AllocationQuery((most,), dtype))

    def generate_code(self):
        mem_read, jpg = self.memory_read, IMAGE_MODES["jpg"]
        my_range = Compiler.get_iterator()
        imdecode_c, resize_crop_c = Compiler.compile(imdecode), Compiler.compile(resize_crop)

        def decode(batch_indices, my_storage, metadata, storage_state):
            destination, temp_storage = my_storage
            for dst_ix in my_range(len(batch_indices)):
                field = metadata[batch_indices[dst_ix]]
                image_data = mem_read(field["data_ptr"], storage_state)
                height, width = np.uint32(field["height"]), np.uint32(field["width"])
                if field["mode"] == jpg:
                    temp_buffer = temp_storage[dst_ix]
                    imdecode_c(
                        image_data, temp_buffer, height, width, height, width, 0, 0, 1, 1, False, False
                    )
                    temp_buffer = temp_buffer.reshape(-1)[: 3 * height * width].reshape(height, width, 3)
                else:
                    temp_buffer = image_data.reshape(height, width, 3)
                resize_crop_c(temp_buffer, 0, height, 0, width, destination[dst_ix])
            return destination[: len(batch_indices)]

        decode.is_parallel = True
        return decode  # fmt: skip


def test_a_decoder_of_ones_own_after_ffcvs(make_photo, tmp_path):
    photos = [make_photo(40 + 2 * i, 60 - i, i) for i in range(6)]
    given = [simplejpeg.encode_jpeg(photo, 90) if i % 2 else photo for i, photo in enumerate(photos)]
    writer = DatasetWriter(tmp_path / "a.beton", {"image": RGBImageField()}, num_workers=1, progress=False)
    writer.from_indexed_dataset([(image,) for image in given])
    pipelines = {"image": PipelineSpec("image", decoder=HalfSize(), transforms=[ToTensor()])}
    ((images,),) = Loader(tmp_path / "a.beton", 6, pipelines=pipelines)
    for photo, image, made in zip(photos, given, images, strict=True):
        whole = simplejpeg.decode_jpeg(image, fastdct=True) if isinstance(image, bytes) else photo
        assert np.array_equal(made, cv2.resize(whole, (30, 20), interpolation=cv2.INTER_AREA))


def test_read(tmp_path):
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(200)))
    target = np.zeros((5, 10), np.uint8)
    with open(path, "rb") as file:
        assert read(file.fileno(), target, np.uint64(20)) == 50
        assert target.ravel().tolist() == list(range(20, 70)) and file.tell() == 0
        assert read(file.fileno(), target, 170) == 30
    with pytest.raises(OSError):
        read(10_000, target, 0)


@pytest.mark.parametrize(
    ("name", "instead"),
    [("ctypes_resize", "resize_crop"), ("ctypes_imdecode", "imdecode"), ("ctypes_memcopy", "memcpy"),
     ("read_c", "read"), ("lib", "memcpy"), ("libc", "read")],
)  # fmt: skip
def test_handles_of_c_functions_say_what_stands_for_them(name, instead):
    with pytest.raises(AttributeError, match=f"no C library here; call .*{instead}"):
        getattr(libffcv, name)
    with pytest.raises(ImportError):
        exec(f"from ffcv_gpu.libffcv import {name}")
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        _ = libffcv.nothing


def test_pixels_and_crops_are_ffcvs_own(ffcv_python, photo, tmp_path):
    jpeg = np.frombuffer(simplejpeg.encode_jpeg(photo, 90), np.uint8)
    parts, size = np.array([(0, 40, 0, 60), (3, 33, 10, 50), (7, 15, 2, 9)]), (17, 23)
    np.savez(tmp_path / "given.npz", jpeg=jpeg, photo=photo, parts=parts, size=size)
    script = Path(__file__).with_name("pixels_of_ffcv.py")
    command = [ffcv_python, script, tmp_path / "given.npz", tmp_path / "theirs.npz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    theirs = np.load(tmp_path / "theirs.npz")
    decoded, resized = np.zeros_like(photo), np.zeros((17, 23, 3), np.uint8)
    assert imdecode(jpeg, decoded, 40, 60) == theirs["status"] and np.array_equal(decoded, theirs["decoded"])
    for part, want in zip(parts, theirs["resized"], strict=True):
        resize_crop(photo, *part.tolist(), resized)
        assert np.array_equal(resized, want)
    assert get_center_crop(40, 60, None, 0.7) == tuple(theirs["centre"])
