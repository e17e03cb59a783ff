"""nvJPEG itself, both wheels' libraries in one process: versions, argument checks, errors. No GPU needed."""

from __future__ import annotations

import ctypes
import pickle
from importlib.metadata import distribution

import pytest

from ffcv_gpu.errors import FfcvGpuError, NvjpegError
from ffcv_gpu.native import driver, nvjpeg
from ffcv_gpu.native.nvjpeg_types import nvjpegBackend_t, nvjpegImage_t, nvjpegOutputFormat_t, nvjpegStatus_t

WHEELS = {
    "nvidia-nvjpeg": "nvidia/cu13/lib/libnvjpeg.so.13",
    "nvidia-nvjpeg-cu12": "nvidia/nvjpeg/lib/libnvjpeg.so.12",
}


def load(wheel: str) -> ctypes.CDLL:
    return nvjpeg.bind(ctypes.CDLL(str(distribution(wheel).locate_file(WHEELS[wheel]))))


def test_both_libraries_live_in_one_process() -> None:
    libraries = {wheel: load(wheel) for wheel in WHEELS}
    for wheel, library in libraries.items():
        # The wheel's version has the build number as its fourth part.
        assert distribution(wheel).version.split(".")[:3] == [str(part) for part in nvjpeg.version(library)]
    runtimes = [nvjpeg.cudart_version(library) for library in libraries.values()]
    assert [runtime[0] for runtime in runtimes] == [13, 12]


@pytest.fixture(params=WHEELS)
def library(request: pytest.FixtureRequest) -> ctypes.CDLL:
    return load(request.param)


def test_every_function_has_its_prototype(library: ctypes.CDLL) -> None:
    for name, arguments in nvjpeg.PROTOTYPES.items():
        function = getattr(library, name)
        assert function.restype is ctypes.c_int
        assert tuple(function.argtypes) == arguments


def test_wrong_arguments_are_refused_before_the_call(library: ctypes.CDLL) -> None:
    handle = ctypes.c_void_p()
    with pytest.raises(ctypes.ArgumentError):
        library.nvjpegCreateSimple(ctypes.byref(ctypes.c_int()))
    with pytest.raises(ctypes.ArgumentError):
        library.nvjpegDecodeBatched(None, None, None, None, (ctypes.c_int * 1)(), None)
    with pytest.raises(TypeError, match="at least 5 arguments"):
        library.nvjpegCreateEx(nvjpegBackend_t.NVJPEG_BACKEND_HARDWARE, ctypes.byref(handle))


@pytest.mark.skipif(driver.driver_version() != 0, reason="there is a driver, creation may well succeed")
@pytest.mark.parametrize("backend", [None, *nvjpegBackend_t])
def test_without_a_driver_creation_is_an_error_that_says_so(
    backend: nvjpegBackend_t | None, library: ctypes.CDLL
) -> None:
    handle = ctypes.c_void_p()
    if backend is None:
        call, status = "nvjpegCreateSimple", library.nvjpegCreateSimple(ctypes.byref(handle))
    else:
        call = "nvjpegCreateEx"
        status = library.nvjpegCreateEx(backend, None, None, 0, ctypes.byref(handle))
    with pytest.raises(
        NvjpegError,
        match=rf"{call} returned NVJPEG_STATUS_EXECUTION_FAILED \(6\): no CUDA device can be used, or the dr",
    ) as caught:
        nvjpeg.check(status, call)
    assert caught.value.status == nvjpegStatus_t.NVJPEG_STATUS_EXECUTION_FAILED
    assert handle.value is None


def test_stream_ordered_allocators_must_both_be_given(library: ctypes.CDLL) -> None:
    status = library.nvjpegCreateExV2(0, None, None, 0, ctypes.byref(ctypes.c_void_p()))
    with pytest.raises(NvjpegError, match=r"nvjpegCreateExV2 returned NVJPEG_STATUS_INVALID_PARAMETER \(2\)"):
        nvjpeg.check(status, "nvjpegCreateExV2")


def test_null_handles_are_answered_not_followed(library: ctypes.CDLL) -> None:
    out, engines = ctypes.c_void_p(), ctypes.c_uint()
    image = nvjpegImage_t()
    rgbi = nvjpegOutputFormat_t.NVJPEG_OUTPUT_RGBI
    calls = [
        library.nvjpegJpegStateCreate(None, ctypes.byref(out)),
        library.nvjpegJpegStreamCreate(None, ctypes.byref(out)),
        library.nvjpegDecodeParamsCreate(None, ctypes.byref(out)),
        library.nvjpegDecodeBatchedInitialize(None, None, 1, 1, rgbi),
        library.nvjpegDecodeBatched(None, None, None, None, ctypes.byref(image), None),
        library.nvjpegGetHardwareDecoderInfo(None, ctypes.byref(engines), ctypes.byref(engines)),
    ]
    assert set(calls) == {nvjpegStatus_t.NVJPEG_STATUS_INVALID_PARAMETER}


# ---- check


@pytest.mark.parametrize("status", list(nvjpegStatus_t)[1:])
def test_every_status_is_named_and_explained(status: nvjpegStatus_t) -> None:
    with pytest.raises(FfcvGpuError) as caught:
        nvjpeg.check(int(status), "nvjpegDecodeBatched")
    head, _, meaning = str(caught.value).partition(": ")
    assert head == f"nvjpegDecodeBatched returned {status.name} ({int(status)})"
    assert len(meaning) > 10
    assert isinstance(caught.value, RuntimeError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again), again.status) == (NvjpegError, str(caught.value), status)


def test_success_passes() -> None:
    nvjpeg.check(0, "nvjpegDecodeBatched")


def test_a_status_of_the_future() -> None:
    with pytest.raises(NvjpegError, match="nvjpegDecode returned 77, which is not an nvjpegStatus_t"):
        nvjpeg.check(77, "nvjpegDecode")


def test_no_engine_is_said_in_plain_words() -> None:
    with pytest.raises(NvjpegError, match=r"no JPEG engine .* 'video' driver capability"):
        nvjpeg.check(nvjpegStatus_t.NVJPEG_STATUS_ARCH_MISMATCH, "nvjpegCreateEx")
    with pytest.raises(NvjpegError, match="the GPU does not support this"):
        nvjpeg.check(nvjpegStatus_t.NVJPEG_STATUS_ARCH_MISMATCH, "nvjpegDecodeBatched")
