"""The fake nvJPEG: its pixels against Pillow's and simplejpeg's, on the streams that they come on."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image

from ffcv_gpu.native import nvjpeg
from ffcv_gpu.native.nvjpeg_types import NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION as INTERPOLATE
from ffcv_gpu.native.nvjpeg_types import nvjpegBackend_t as Backend
from ffcv_gpu.native.nvjpeg_types import nvjpegOutputFormat_t as Format
from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status
from tests.fake_gpu import FakeOwner
from tests.fake_nvjpeg import FakeNvjpeg
from tests.fake_streams import FakeStreams
from tests.nvjpeg_batch import (
    GPU_HYBRID,
    HARDWARE,
    HYBRID,
    RGBI,
    UNTOUCHED,
    Batch,
    MakeJpeg,
    pillow,
    pixels,
    rgbi,
)
from tests.nvjpeg_probe import made


@pytest.fixture
def jpegs(make_jpeg: MakeJpeg) -> list[bytes]:
    return [make_jpeg(40 + 3 * k, 61 - 5 * k, k) for k in range(4)]


# ---- the same door


def test_it_has_the_bound_library_s_functions() -> None:
    fake = FakeNvjpeg()
    for name, arguments in nvjpeg.PROTOTYPES.items():
        function = getattr(fake, name)
        assert function.restype is ctypes.c_int
        assert tuple(function.argtypes) == arguments
        assert ctypes.cast(function, ctypes.c_void_p).value  # callable from machine code, too
    with pytest.raises(ctypes.ArgumentError):
        fake.nvjpegCreateSimple(ctypes.byref(ctypes.c_int()))
    assert nvjpeg.version(fake.as_library().functions) == (13, 2, 3) == fake.as_library().version


def test_numpy_arrays_do_as_arguments(jpegs: list[bytes]) -> None:
    with FakeNvjpeg() as library:
        batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs])
        data, lengths = np.array(list(batch.data), np.uintp), np.array(list(batch.lengths), np.uintp)
        images = np.frombuffer(batch.images, np.uintp).reshape(-1, 8).copy()
        kinds = nvjpeg.PROTOTYPES["nvjpegDecodeBatched"]
        assert batch.initialize() == 0
        status = library.nvjpegDecodeBatched(
            batch.handle,
            batch.state,
            data.ctypes.data_as(kinds[2]),
            lengths.ctypes.data_as(kinds[3]),
            images.ctypes.data_as(kinds[4]),
            None,
        )
        assert status == 0
        library.streams.synchronize()
        assert all(np.array_equal(batch.planes(k)[0], pixels(jpeg)) for k, jpeg in enumerate(jpegs))


@pytest.mark.parametrize("backend", list(Backend))
def test_who_can_be_created(backend: Backend) -> None:
    out = ctypes.c_void_p()
    engine = backend in (HARDWARE, Backend.NVJPEG_BACKEND_HARDWARE_DEVICE)
    t4 = FakeNvjpeg().nvjpegCreateEx(backend, None, None, 0, ctypes.byref(out))
    assert t4 == (Status.NVJPEG_STATUS_ARCH_MISMATCH if engine else 0)
    assert FakeNvjpeg(engines=7).nvjpegCreateEx(backend, None, None, 0, ctypes.byref(out)) == 0
    nothing = FakeNvjpeg(driver=False).nvjpegCreateEx(backend, None, None, 0, ctypes.byref(out))
    assert nothing == Status.NVJPEG_STATUS_EXECUTION_FAILED


@pytest.mark.parametrize(("backend", "expected"), [(HARDWARE, (7, 1)), (HYBRID, (0, 0))])
def test_engines(backend: int, expected: tuple[int, int]) -> None:
    with FakeNvjpeg(engines=7, cores=1) as library:
        handle, engines, cores = ctypes.c_void_p(), ctypes.c_uint(99), ctypes.c_uint(99)
        library.nvjpegCreateEx(backend, None, None, 0, ctypes.byref(handle))
        status = library.nvjpegGetHardwareDecoderInfo(handle, ctypes.byref(engines), ctypes.byref(cores))
        assert (status, engines.value, cores.value) == (0, *expected)


# ---- pixels


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("backend", [HARDWARE, GPU_HYBRID])
def test_interpolated_rgb_is_pillow_s(backend: int, subsampling: str, make_jpeg: MakeJpeg) -> None:
    files = [make_jpeg(37 + k, 53 - k, k, subsampling=subsampling) for k in range(3)]
    with FakeNvjpeg(engines=1) as library:
        shapes = [rgbi(jpeg) for jpeg in files]
        batch = Batch(library, files, shapes, backend=backend, flags=INTERPOLATE)
        assert (batch.initialize(), batch.decode()) == (0, 0)
        library.streams.synchronize()
        for k, jpeg in enumerate(files):
            assert np.array_equal(batch.planes(k)[0], pillow(jpeg).reshape(len(pillow(jpeg)), -1))


def test_replicated_rgb_is_the_default(make_jpeg: MakeJpeg) -> None:
    jpeg = make_jpeg(36, 52, subsampling="4:2:0")
    with FakeNvjpeg() as library:
        batch = Batch(library, [jpeg], [rgbi(jpeg)])
        assert (batch.initialize(), batch.decode()) == (0, 0)
        library.streams.synchronize()
        (ours,) = batch.planes(0)
    luma, chroma = pillow(jpeg, "YCbCr")[..., 0], None
    smooth = pillow(jpeg).astype(int)
    ours = ours.reshape(36, 52, 3).astype(int)
    assert np.abs(ours - smooth).mean() > 0.1  # not the interpolated ones
    # chroma is constant over 2 x 2 pixels: what JFIF's formulas make of ours says so
    chroma = -0.168736 * ours[..., 0] - 0.331264 * ours[..., 1] + 0.5 * ours[..., 2]
    blocks = chroma.reshape(18, 2, 26, 2).transpose(0, 2, 1, 3).reshape(18, 26, 4)
    inside = ((ours > 0) & (ours < 255)).all(-1).reshape(18, 2, 26, 2).all((1, 3))
    assert inside.any()
    assert np.ptp(blocks, axis=-1)[inside].max() < 2
    grey = ours @ [0.299, 0.587, 0.114]
    assert np.abs(grey - luma)[np.repeat(np.repeat(inside, 2, 0), 2, 1)].max() < 1.5


@pytest.mark.parametrize(
    ("output", "order"),
    [
        (Format.NVJPEG_OUTPUT_RGB, (0, 1, 2)),
        (Format.NVJPEG_OUTPUT_BGR, (2, 1, 0)),
        (Format.NVJPEG_OUTPUT_BGRI, (2, 1, 0)),
    ],
)
def test_other_orders(output: int, order: tuple[int, ...], make_jpeg: MakeJpeg) -> None:
    jpeg = make_jpeg(37, 53, subsampling="4:4:4")
    expected = pillow(jpeg)[..., order]
    shapes = [(37, 159)] if output == Format.NVJPEG_OUTPUT_BGRI else [(37, 53)] * 3
    with FakeNvjpeg() as library:
        batch = Batch(library, [jpeg], [shapes], output=output)
        assert (batch.initialize(), batch.decode()) == (0, 0)
        library.streams.synchronize()
        ours = batch.planes(0)
    stacked = ours[0].reshape(37, 53, 3) if len(ours) == 1 else np.stack(ours, -1)
    assert np.array_equal(stacked, expected)


def triangle(plane: npt.NDArray[np.uint8], axis: int) -> npt.NDArray[np.float64]:
    """Twice the size along one axis, as libjpeg's "fancy" filter: 3/4 of the nearer, 1/4 of the farther."""
    x = np.moveaxis(plane.astype(float), axis, 0)
    before, after = np.concatenate([x[:1], x[:-1]]), np.concatenate([x[1:], x[-1:]])
    out = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], 1).reshape(-1, *x.shape[1:])
    return np.moveaxis(out, 0, axis)


@pytest.mark.parametrize(
    ("options", "across", "down"),
    [
        ({"subsampling": "4:4:4"}, 1, 1),
        ({"subsampling": "4:2:2"}, 2, 1),
        ({"subsampling": "4:2:0"}, 2, 2),
        ({"subsampling": "4:2:0", "progressive": True}, 2, 2),
        ({"subsampling": "4:2:0", "restart_marker_rows": 1}, 2, 2),
    ],
    ids=lambda value: str(value),
)
def test_planes_of_ycbcr(options: dict[str, Any], across: int, down: int, make_jpeg: MakeJpeg) -> None:
    jpeg = make_jpeg(37, 53, **options)
    small = (-(-37 // down), -(-53 // across))
    with FakeNvjpeg() as library:
        batch = Batch(library, [jpeg], [[(37, 53), small, small]], output=Format.NVJPEG_OUTPUT_YUV)
        assert (batch.initialize(), batch.decode()) == (0, 0)
        library.streams.synchronize()
        luma, *chroma = batch.planes(0)
    expected = pillow(jpeg, "YCbCr")
    assert np.array_equal(luma, expected[..., 0])
    for k, plane in enumerate(chroma):
        wide = triangle(plane, 1) if across == 2 else plane
        whole = triangle(wide, 0) if down == 2 else wide
        assert np.abs(whole[:37, :53] - expected[..., 1 + k]).max() <= 1


def test_nv12_and_yuy2(make_jpeg: MakeJpeg) -> None:
    for subsampling, output, shapes in (
        ("4:2:0", Format.NVJPEG_OUTPUT_NV12, [(37, 53), (19, 54)]),
        ("4:2:2", Format.NVJPEG_OUTPUT_YUY2, [(37, 108)]),
    ):
        jpeg = make_jpeg(37, 53, subsampling=subsampling)
        small = (-(-37 // (2 if output == Format.NVJPEG_OUTPUT_NV12 else 1)), 27)
        with FakeNvjpeg() as library:
            ours = Batch(library, [jpeg], [shapes], output=output)
            planes = Batch(library, [jpeg], [[(37, 53), small, small]], output=Format.NVJPEG_OUTPUT_YUV)
            for batch in (ours, planes):
                assert (batch.initialize(), batch.decode()) == (0, 0)
            library.streams.synchronize()
            y, cb, cr = planes.planes(0)
            if output == Format.NVJPEG_OUTPUT_NV12:
                luma, both = ours.planes(0)
                assert np.array_equal(luma, y)
            else:
                (words,) = ours.planes(0)
                both = words[:, 1::2]
                assert np.array_equal(words[:, ::2][:, :53], y)
            assert np.array_equal(both[:, ::2], cb)
            assert np.array_equal(both[:, 1::2], cr)


def test_grey(make_jpeg: MakeJpeg) -> None:
    jpeg = make_jpeg(37, 53, mode="L")
    expected = pillow(jpeg)
    with FakeNvjpeg(engines=1) as library:
        colour = Batch(library, [jpeg], [[(37, 159)]], backend=HARDWARE)
        planar = Batch(library, [jpeg], [[(37, 53)]], backend=HARDWARE, output=Format.NVJPEG_OUTPUT_YUV)
        for batch in (colour, planar):
            assert (batch.initialize(), batch.decode()) == (0, 0)
        library.streams.synchronize()
        assert np.array_equal(colour.planes(0)[0].reshape(37, 53, 3), np.repeat(expected[..., None], 3, 2))
        assert np.array_equal(planar.planes(0)[0], expected)  # chroma is not written


def test_a_jpeg_of_rgb_is_taken_for_ycbcr(make_jpeg: MakeJpeg) -> None:
    """As all of nvJPEG's decoders do: so nothing of ours may give them one."""
    jpeg = make_jpeg(37, 53, keep_rgb=True)
    with FakeNvjpeg() as library:
        colour = Batch(library, [jpeg], [[(37, 159)]])
        planar = Batch(library, [jpeg], [[(37, 53)] * 3], output=Format.NVJPEG_OUTPUT_YUV)
        for batch in (colour, planar):
            assert (batch.initialize(), batch.decode()) == (0, 0)
        library.streams.synchronize()
        stored = pillow(jpeg)
        assert np.array_equal(np.stack(planar.planes(0), -1), stored)
        wrong = np.asarray(Image.frombytes("YCbCr", (53, 37), stored.tobytes()).convert("RGB"), np.int16)
        assert np.abs(colour.planes(0)[0].reshape(37, 53, 3) - wrong).max() <= 1  # Pillow rounds otherwise
        assert np.abs(stored - wrong).mean() > 10


@pytest.mark.parametrize("what", ["null", "pitch"])
def test_a_destination_that_cannot_be(what: str, jpegs: list[bytes]) -> None:
    with FakeNvjpeg() as library:
        batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs])
        if what == "null":
            batch.images[2].channel[0] = None
        else:
            batch.images[2].pitch[0] = rgbi(jpegs[2])[0][1] - 1
        assert batch.initialize() == 0
        assert batch.decode() == Status.NVJPEG_STATUS_INVALID_PARAMETER


# ---- streams


def test_pixels_come_when_the_stream_is_waited_for(jpegs: list[bytes]) -> None:
    with FakeNvjpeg() as library:
        batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs])
        stream, event = library.streams.stream(), library.streams.event()
        assert (batch.initialize(), batch.decode(stream.handle)) == (0, 0)
        stream.record(event)
        assert all(batch.untouched(k) for k in range(4))
        library.streams.default.synchronize()  # another stream
        assert all(batch.untouched(k) for k in range(4))
        event.synchronize()
        assert all(np.array_equal(batch.planes(k)[0], pixels(jpeg)) for k, jpeg in enumerate(jpegs))


@pytest.mark.parametrize("backend", [HARDWARE, GPU_HYBRID])
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("who", ["reader", "writer", "reader of another stream"])
def test_rule_3(backend: int, waits: bool, who: str, jpegs: list[bytes]) -> None:
    """Only the engine, and only without a wait of the host, meets work that was queued before."""
    safe = waits or backend == GPU_HYBRID
    with FakeNvjpeg(engines=1) as library:
        batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs], backend=backend)
        stream, other = library.streams.stream(), library.streams.stream()
        event, seen = library.streams.event(), []
        arena = batch.memory[0][0]

        def read() -> None:
            seen.append(bool((arena == UNTOUCHED).all()))

        def write() -> None:
            arena[5] = 0

        busy = other if "another" in who else stream
        busy.submit(write if who == "writer" else read)
        busy.record(event)
        stream.wait(event)  # the device's wait, which the engine does not heed
        if waits:
            event.synchronize()
        assert (batch.initialize(), batch.decode(stream.handle)) == (0, 0)
        busy.synchronize()
        stream.synchronize()
        if who == "writer":
            right = np.array_equal(arena[1:41, : rgbi(jpegs[0])[0][1]], pixels(jpegs[0]))
            assert right == safe
        else:
            assert seen == [safe]
        assert np.array_equal(batch.planes(1)[0], pixels(jpegs[1]))


def test_the_engine_shows_wrong_pixels_before_its_time(jpegs: list[bytes]) -> None:
    with FakeNvjpeg(engines=1) as library:
        batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs], backend=HARDWARE)
        early, late = library.streams.event(), library.streams.event()
        stream = library.streams.stream()
        stream.submit(lambda: None)
        stream.record(early)
        assert (batch.initialize(), batch.decode(stream.handle)) == (0, 0)
        stream.record(late)
        early.synchronize()
        assert not np.array_equal(batch.planes(0)[0], pixels(jpegs[0]))
        late.synchronize()
        assert np.array_equal(batch.planes(0)[0], pixels(jpegs[0]))


@pytest.mark.parametrize("backend", [HARDWARE, GPU_HYBRID])
def test_right_code_is_right_at_once_too(backend: int, jpegs: list[bytes]) -> None:
    with FakeNvjpeg(engines=1, streams=FakeStreams(deferred=False)) as library:
        batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs], backend=backend)
        assert (batch.initialize(), batch.decode()) == (0, 0)
        assert all(np.array_equal(batch.planes(k)[0], pixels(jpeg)) for k, jpeg in enumerate(jpegs))


# ---- who decodes


@pytest.mark.parametrize(
    ("backend", "count", "who"),
    [
        (GPU_HYBRID, 50, "cpu huffman"),
        (GPU_HYBRID, 51, "gpu huffman"),
        (HYBRID, 51, "cpu huffman"),
        (HARDWARE, 1, "engine"),
    ],
)
def test_more_than_fifty(backend: int, count: int, who: str, make_jpeg: MakeJpeg) -> None:
    jpeg = make_jpeg(16, 16)
    with FakeNvjpeg(engines=1) as library:
        batch = Batch(library, [jpeg] * count, [rgbi(jpeg)] * count, backend=backend)
        assert (batch.initialize(), batch.decode()) == (0, 0)
        assert library.decoded == {who: count}
        call = library.calls[-1]
        assert (call.name, call.status, call.backend, call.images) == (
            "nvjpegDecodeBatched",
            0,
            backend,
            count,
        )


def test_progressive_files_cost_a_cpu(make_jpeg: MakeJpeg) -> None:
    files = [make_jpeg(16, 16)] * 50 + [make_jpeg(16, 16, progressive=True)]
    with FakeNvjpeg() as library:
        batch = Batch(library, files, [rgbi(jpeg) for jpeg in files])
        assert (batch.initialize(), batch.decode()) == (0, 0)
        assert library.decoded == {"gpu huffman": 50, "cpu huffman": 1}


# ---- rectangles and scale


def test_rectangles(jpegs: list[bytes]) -> None:
    rois = [(0, 0, -1, -1), (3, 5, 17, 11), (0, 0, 51, 46), (8, 16, 1, 1)]
    with FakeNvjpeg(engines=1) as library:
        shapes = [rgbi(jpegs[0]), [(11, 51)], rgbi(jpegs[2]), [(1, 3)]]
        batch = Batch(library, jpegs, shapes, backend=HARDWARE)
        params = (ctypes.c_void_p * 4)()
        for k, roi in enumerate(rois):
            params[k] = made(library.nvjpegDecodeParamsCreate, batch.handle)
            assert library.nvjpegDecodeParamsSetROI(params[k], *roi) == 0
            if k:
                library.nvjpegDecodeParamsSetOutputFormat(params[k], RGBI)
        # the parameters' format must be that of Initialize
        assert (batch.initialize(), batch.decode(0, params)) == (0, Status.NVJPEG_STATUS_INVALID_PARAMETER)
        library.streams.synchronize()
        library.nvjpegDecodeParamsSetOutputFormat(params[0], RGBI)
        assert (batch.initialize(), batch.decode(0, params)) == (0, 0)
        library.streams.synchronize()
        for k, (x, y, width, height) in enumerate(rois):
            whole = pixels(jpegs[k]).reshape(40 + 3 * k, 61 - 5 * k, 3)
            part = whole if width < 0 else whole[y : y + height, x : x + width]
            assert np.array_equal(batch.planes(k)[0], part.reshape(len(part), -1))
        library.nvjpegDecodeParamsSetROI(params[1], 50, 0, 10, 10)  # 56 pixels wide
        assert (batch.initialize(), batch.decode(0, params)) == (0, Status.NVJPEG_STATUS_BAD_JPEG)


def test_half_the_size(make_jpeg: MakeJpeg) -> None:
    jpeg = make_jpeg(37, 53)
    with FakeNvjpeg(engines=1) as library:
        batch = Batch(library, [jpeg], [[(19, 81)]], backend=HARDWARE)
        params = (ctypes.c_void_p * 1)(made(library.nvjpegDecodeParamsCreate, batch.handle).value)
        library.nvjpegDecodeParamsSetOutputFormat(params[0], RGBI)
        library.nvjpegDecodeParamsSetScaleFactor(params[0], 1)
        assert (batch.initialize(), batch.decode(0, params)) == (0, 0)
        library.streams.synchronize()
        ours = batch.planes(0)[0].reshape(19, 27, 3)
    half = simplejpeg.decode_jpeg(jpeg, "RGB", min_height=19, min_width=27, min_factor=2)
    assert np.abs(ours.astype(int) - half).mean() < 3


def test_rectangles_are_not_for_everybody(jpegs: list[bytes]) -> None:
    with FakeNvjpeg() as library:
        batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs], backend=GPU_HYBRID)
        params = (ctypes.c_void_p * 4)()
        assert batch.initialize() == 0
        assert batch.decode(0, params) == Status.NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED


def test_memory_may_be_dropped_in_the_middle_of_a_call() -> None:
    """By the garbage collector, in a thread that is in nvJPEG while another one waits for a stream there."""
    gpu = FakeOwner()
    fake = FakeNvjpeg(streams=gpu.streams)
    gpu.make_current()
    with gpu.working_on(gpu.streams.stream()):
        output = gpu.empty((4, 4), "uint8")
    gpu.hand_over([output], gpu.new_event())
    waits = threading.Event()
    gpu.consumer.submit(lambda: (waits.set(), fake._release()))
    waiter = threading.Thread(target=gpu.consumer.synchronize, daemon=True)
    with fake._one_thread("nvjpegDecode", []), fake._lock:
        waiter.start()
        waits.wait(0.3)  # until the end, if nobody else gets in
        assert gpu.streams.lock.acquire(timeout=10), "each waits for the other's lock"
        del output
        gpu.streams.lock.release()
    waiter.join(10)
    assert not waiter.is_alive()
