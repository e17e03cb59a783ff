"""What FFCV's scripts call of its C library: FFCV's pixels, from Python and from compiled functions."""

import cv2
import numpy as np
import pytest
import simplejpeg
from numba import njit

from ffcv_gpu import libffcv
from ffcv_gpu.errors import DecodeError, PipelineError
from ffcv_gpu.libffcv import imdecode, read, resize_crop
from ffcv_gpu.pipeline.compiler import Compiler
from ffcv_gpu.transforms.utils import fast_crop


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
        with pytest.raises(PipelineError, match="no part of an image of 60 x 40"):
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
