"""The fake nvJPEG: its pixels against Pillow's and simplejpeg's, its unkindness against what it promises."""

from __future__ import annotations

import ctypes
import io
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image

from ffcv_gpu.errors import NvjpegError
from ffcv_gpu.native import nvjpeg, nvjpeg_types
from ffcv_gpu.native.nvjpeg_types import NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION as INTERPOLATE
from ffcv_gpu.native.nvjpeg_types import nvjpegBackend_t as Backend
from ffcv_gpu.native.nvjpeg_types import nvjpegImage_t
from ffcv_gpu.native.nvjpeg_types import nvjpegOutputFormat_t as Format
from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status
from tests.fake_nvjpeg import FakeNvjpeg, Memory
from tests.fake_streams import FakeStreams
from tests.nvjpeg_probe import made

MakeJpeg = Callable[..., bytes]
Planes = list[npt.NDArray[np.uint8]]

HARDWARE, HYBRID = Backend.NVJPEG_BACKEND_HARDWARE, Backend.NVJPEG_BACKEND_HYBRID
GPU_HYBRID = Backend.NVJPEG_BACKEND_GPU_HYBRID
RGBI = Format.NVJPEG_OUTPUT_RGBI
UNTOUCHED = 0xA5


class Batch:
    """A handle, a state and the arrays of one batched call; each plane has a pitch of its own."""

    def __init__(
        self,
        library: Any,
        jpegs: list[bytes],
        shapes: list[list[tuple[int, int]]],
        *,
        backend: int = GPU_HYBRID,
        output: int = RGBI,
        flags: int = 0,
        pitch: int = 13,
    ) -> None:
        self.library, self.jpegs, self.output = library, jpegs, output
        self.handle = ctypes.c_void_p()
        status = library.nvjpegCreateEx(backend, None, None, flags, ctypes.byref(self.handle))
        nvjpeg.check(status, "nvjpegCreateEx")
        self.state = made(library.nvjpegJpegStateCreate, self.handle)
        count = len(jpegs)
        self.data = (ctypes.c_void_p * count)()
        self.lengths = (ctypes.c_size_t * count)(*map(len, jpegs))
        self.slab = np.frombuffer(bytearray(b"".join(jpegs)) or bytearray(1), np.uint8)
        self.images = (nvjpegImage_t * count)()
        self.memory: list[Planes] = []
        at = self.slab.ctypes.data
        for k, planes in enumerate(shapes):
            self.data[k], at = at, at + len(jpegs[k])
            self.memory.append(
                [np.full((rows + 2, size + pitch), UNTOUCHED, np.uint8) for rows, size in planes]
            )
            for channel, memory in enumerate(self.memory[k]):
                self.images[k].channel[channel] = memory[1:].ctypes.data
                self.images[k].pitch[channel] = memory.shape[1]
        self.shapes = shapes

    def initialize(self, count: int | None = None) -> int:
        size = len(self.jpegs) if count is None else count
        return self.library.nvjpegDecodeBatchedInitialize(self.handle, self.state, size, 1, self.output)

    def decode(self, stream: int = 0, params: Any = None) -> int:
        front = (self.handle, self.state, self.data, self.lengths, self.images)
        if params is not None:
            return self.library.nvjpegDecodeBatchedEx(*front, params, stream)
        return self.library.nvjpegDecodeBatched(*front, stream)

    def planes(self, k: int) -> Planes:
        """The planes of image k, after a look at the bytes around each row."""
        out = []
        for memory, (rows, size) in zip(self.memory[k], self.shapes[k], strict=True):
            around = memory.copy()
            around[1 : rows + 1, :size] = UNTOUCHED
            assert (around == UNTOUCHED).all(), "written outside the image"
            out.append(memory[1 : rows + 1, :size])
        return out

    def untouched(self, k: int) -> bool:
        return all((memory == UNTOUCHED).all() for memory in self.memory[k])


def rgbi(jpeg: bytes) -> list[tuple[int, int]]:
    height, width = simplejpeg.decode_jpeg_header(jpeg, strict=False)[:2]
    return [(int(height), 3 * int(width))]


def pixels(jpeg: bytes, *, interpolated: bool = False) -> npt.NDArray[np.uint8]:
    """RGB, rows flat; replicated chroma unless `interpolated`."""
    decoded = simplejpeg.decode_jpeg(jpeg, "RGB", fastupsample=not interpolated)
    return decoded.reshape(len(decoded), -1)


def pillow(jpeg: bytes, mode: str | None = None) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(jpeg)) as image:
        if mode is not None:
            image.draft(mode, image.size)
            assert image.mode == mode
        return np.asarray(image)


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


def test_a_jpeg_of_rgb(make_jpeg: MakeJpeg) -> None:
    jpeg = make_jpeg(37, 53, keep_rgb=True)
    with FakeNvjpeg() as library:
        colour = Batch(library, [jpeg], [[(37, 159)]])
        planar = Batch(library, [jpeg], [[(37, 53)] * 3], output=Format.NVJPEG_OUTPUT_YUV)
        for batch in (colour, planar):
            assert (batch.initialize(), batch.decode()) == (0, 0)
        library.streams.synchronize()
        assert np.array_equal(colour.planes(0)[0].reshape(37, 53, 3), pillow(jpeg))
        assert np.array_equal(np.stack(planar.planes(0), -1), pillow(jpeg))  # as they are stored


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


# ---- failures


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b"", Status.NVJPEG_STATUS_INCOMPLETE_BITSTREAM),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), Status.NVJPEG_STATUS_BAD_JPEG),
        ("progressive", Status.NVJPEG_STATUS_JPEG_NOT_SUPPORTED),
        ("cut", Status.NVJPEG_STATUS_INCOMPLETE_BITSTREAM),
    ],
)
@pytest.mark.parametrize("at", [0, 2])
def test_one_bad_image_fails_the_batch(
    bad: bytes | str, status: int, at: int, jpegs: list[bytes], make_jpeg: MakeJpeg
) -> None:
    if isinstance(bad, str):
        bad = make_jpeg(40, 61, progressive=True) if bad == "progressive" else jpegs[at][:300]
    good, shapes = list(jpegs), [rgbi(jpeg) for jpeg in jpegs]
    jpegs[at] = bad
    library = FakeNvjpeg(engines=1)
    batch = Batch(library, jpegs, shapes, backend=HARDWARE)
    assert (batch.initialize(), batch.decode()) == (0, status)
    library.streams.synchronize()
    assert [batch.untouched(k) for k in range(4)] == [k >= at for k in range(4)]
    library.verify()
    # the state is of no use until it is initialised again
    assert batch.decode() == Status.NVJPEG_STATUS_NOT_INITIALIZED
    with pytest.raises(AssertionError, match="without nvjpegDecodeBatchedInitialize"):
        library.verify()
    again = Batch(library, good, shapes, backend=HARDWARE)
    again.handle, again.state = batch.handle, batch.state
    assert (again.initialize(), again.decode()) == (0, 0)
    library.streams.synchronize()
    assert all(np.array_equal(again.planes(k)[0], pixels(jpeg)) for k, jpeg in enumerate(good))


@pytest.mark.parametrize("status", list(Status)[1:])
def test_every_status_can_be_had(status: Status, jpegs: list[bytes]) -> None:
    with FakeNvjpeg() as library:
        batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs])
        library.fail("nvjpegDecodeBatched", status, after=1, times=2, written=3)
        for expected, arrived in ((0, 4), (status, 3), (status, 3), (0, 4)):
            for planes in batch.memory:
                planes[0][:] = UNTOUCHED
            assert (batch.initialize(), batch.decode()) == (0, expected)
            library.streams.synchronize()
            assert [batch.untouched(k) for k in range(4)] == [k >= arrived for k in range(4)]
        with pytest.raises(NvjpegError, match=status.name):
            nvjpeg.check(next(call for call in library.calls if call.status).status, "nvjpegDecodeBatched")
        library.fail("nvjpegJpegStateCreate", status, times=None)
        answers = [library.nvjpegJpegStateCreate(batch.handle, ctypes.byref(ctypes.c_void_p()))] * 3
        assert answers == [status] * 3


def test_an_image_that_one_backend_refuses(jpegs: list[bytes]) -> None:
    with FakeNvjpeg(engines=1) as library:
        library.bad_image(jpegs[1], Status.NVJPEG_STATUS_INTERNAL_ERROR, backends={HARDWARE})
        for backend, expected in ((HARDWARE, Status.NVJPEG_STATUS_INTERNAL_ERROR), (GPU_HYBRID, 0)):
            batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs], backend=backend)
            assert (batch.initialize(), batch.decode()) == (0, expected)


@pytest.mark.parametrize("backend", [HARDWARE, GPU_HYBRID])
def test_a_silent_skip(backend: int, jpegs: list[bytes]) -> None:
    with FakeNvjpeg(engines=1) as library:
        library.skip_image(lambda data: data == jpegs[2])
        batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs], backend=backend)
        assert (batch.initialize(), batch.decode()) == (0, 0)
        library.streams.synchronize()
        assert [batch.untouched(k) for k in range(4)] == [False, False, True, False]


def test_out_of_memory_and_preallocation(jpegs: list[bytes]) -> None:
    with FakeNvjpeg(engines=1) as library:
        library.memory_limit_bytes = 100_000
        batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs], backend=HARDWARE)
        grow = library.nvjpegDecodeBatchedPreAllocate
        refused = grow(batch.handle, batch.state, 64, 500, 500, 0, RGBI)
        assert refused == Status.NVJPEG_STATUS_ALLOCATOR_FAILURE
        assert grow(batch.handle, batch.state, 4, 64, 64, 0, RGBI) == 0
        steady = library.allocations
        for _ in range(3):
            assert (batch.initialize(), batch.decode()) == (0, 0)
            library.streams.synchronize()
        assert library.allocations == steady
        library.memory_limit_bytes = 10
        other = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs], backend=GPU_HYBRID)
        assert (other.initialize(), other.decode()) == (0, Status.NVJPEG_STATUS_ALLOCATOR_FAILURE)


def test_allocators_of_the_caller_serve_a_batch(jpegs: list[bytes]) -> None:
    seen: list[tuple[Any, ...]] = []

    @nvjpeg_types.tDevMallocV2
    def malloc(context: int, out: Any, size: int, stream: int) -> int:
        seen.append((context, size, stream))
        out[0] = 0x1000 * len(seen)
        return 0

    @nvjpeg_types.tDevFreeV2
    def free(context: int, address: int, size: int, stream: int) -> int:
        seen.append((context, -size, address))
        return 0

    addresses = [ctypes.cast(function, ctypes.c_void_p) for function in (malloc, free)]
    device = nvjpeg_types.nvjpegDevAllocatorV2_t(*addresses, 0x77)
    pinned = nvjpeg_types.nvjpegPinnedAllocatorV2_t(*addresses, 0x88)
    with FakeNvjpeg() as library:
        handle = ctypes.c_void_p()
        library.nvjpegCreateExV2(
            GPU_HYBRID, ctypes.byref(device), ctypes.byref(pinned), 0, ctypes.byref(handle)
        )
        batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs])
        batch.handle, batch.state = handle, made(library.nvjpegJpegStateCreate, handle)
        stream = library.streams.stream()
        for _ in range(2):
            assert (batch.initialize(), batch.decode(stream.handle)) == (0, 0)
            library.streams.synchronize()
        size = sum(rows * row for jpeg in jpegs for rows, row in rgbi(jpeg))
        assert seen == [(0x77, size, stream.handle)]
        library.nvjpegJpegStateDestroy(batch.state)
        assert seen[1:] == [(0x77, -size, 0x1000)]


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


# ---- single images


class Decoupled:
    """The three phases with two pages, as the guide's 4.7 (c)."""

    def __init__(self, library: Any, backend: int, *, pages: int = 2) -> None:
        self.library = library
        self.handle = made(library.nvjpegCreateSimple)
        self.decoder = made(library.nvjpegDecoderCreate, self.handle, backend)
        self.state = made(library.nvjpegDecoderStateCreate, self.handle, self.decoder)
        self.pinned = [made(library.nvjpegBufferPinnedCreate, self.handle, None) for _ in range(pages)]
        self.jpeg = [made(library.nvjpegJpegStreamCreate, self.handle) for _ in range(pages)]
        self.uploaded = [library.streams.event() for _ in range(pages)]
        self.params = made(library.nvjpegDecodeParamsCreate, self.handle)
        library.nvjpegDecodeParamsSetOutputFormat(self.params, RGBI)
        self.stream = library.streams.stream()
        self.turn = 0

    def attach(self) -> None:
        device = made(self.library.nvjpegBufferDeviceCreate, self.handle, None)
        assert self.library.nvjpegStateAttachDeviceBuffer(self.state, device) == 0

    def decode(self, data: Any, image: nvjpegImage_t, *, wait: bool = True) -> list[int]:
        page = self.turn % len(self.pinned)
        self.turn += 1
        if wait:
            self.uploaded[page].synchronize()
        library, three = self.library, (self.handle, self.decoder, self.state)
        jpeg = self.jpeg[page]
        said = [library.nvjpegJpegStreamParse(self.handle, data, len(data), 0, 0, jpeg)]
        library.nvjpegStateAttachPinnedBuffer(self.state, self.pinned[page])
        if not said[0]:
            said.append(library.nvjpegDecodeJpegHost(*three, self.params, jpeg))
        if not said[-1]:
            said.append(library.nvjpegDecodeJpegTransferToDevice(*three, jpeg, self.stream.handle))
            self.stream.record(self.uploaded[page])
        if not said[-1]:
            said.append(
                library.nvjpegDecodeJpegDevice(*three, ctypes.byref(image), self.stream.handle)
            )  # fmt: skip
        return said


@pytest.mark.parametrize("backend", [HYBRID, GPU_HYBRID, HARDWARE])
def test_the_three_phases(backend: int, jpegs: list[bytes], make_jpeg: MakeJpeg) -> None:
    bad = b"\xff\xd8" + bytes(20)
    progressive = make_jpeg(30, 30, progressive=True)
    with FakeNvjpeg(engines=2) as library:
        path = Decoupled(library, backend)
        path.attach()
        files = [jpegs[0], progressive, jpegs[1], jpegs[2], jpegs[3]]
        batch = Batch(library, files, [rgbi(jpeg) for jpeg in files])
        for k, jpeg in enumerate(files):
            refused = backend == HARDWARE and jpeg is progressive
            expected = [0, Status.NVJPEG_STATUS_JPEG_NOT_SUPPORTED] if refused else [0] * 4
            assert path.decode(jpeg, batch.images[k]) == expected
            assert path.decode(bad, batch.images[0]) == [Status.NVJPEG_STATUS_INCOMPLETE_BITSTREAM]
        path.stream.synchronize()
        for k, jpeg in enumerate(files):
            if backend == HARDWARE and jpeg is progressive:
                assert batch.untouched(k)
            else:
                assert np.array_equal(batch.planes(k)[0], pixels(jpeg))
        who = {HARDWARE: "engine", GPU_HYBRID: "gpu huffman", HYBRID: "cpu huffman"}[Backend(backend)]
        assert library.decoded[who] >= 4


def test_a_device_buffer_is_needed(jpegs: list[bytes]) -> None:
    with FakeNvjpeg() as library:
        path, batch = Decoupled(library, HYBRID), Batch(library, jpegs[:1], [rgbi(jpegs[0])])
        assert path.decode(jpegs[0], batch.images[0]) == [0, 0, Status.NVJPEG_STATUS_INVALID_PARAMETER]


def test_a_page_used_again_too_early(jpegs: list[bytes]) -> None:
    library = FakeNvjpeg()
    path, batch = Decoupled(library, HYBRID), Batch(library, jpegs[:3], [rgbi(j) for j in jpegs[:3]])
    path.attach()
    for k in range(2):
        path.decode(jpegs[k], batch.images[k], wait=False)
    library.verify()
    path.decode(jpegs[2], batch.images[2], wait=False)
    with pytest.raises(AssertionError, match="pinned buffer whose upload is in flight"):
        library.verify()


def test_one_call_for_one_image(jpegs: list[bytes]) -> None:
    with FakeNvjpeg() as library:
        batch = Batch(library, jpegs[:2], [rgbi(jpeg) for jpeg in jpegs[:2]], flags=INTERPOLATE)
        status = library.nvjpegDecode(
            batch.handle, batch.state, jpegs[0], len(jpegs[0]), RGBI, ctypes.byref(batch.images[0]), None
        )
        assert status == 0
        path = Decoupled(library, HYBRID)
        path.attach()
        assert library.nvjpegJpegStreamParse(path.handle, jpegs[1], len(jpegs[1]), 0, 0, path.jpeg[0]) == 0
        status = library.nvjpegDecodeJpeg(
            path.handle, path.decoder, path.state, path.jpeg[0], ctypes.byref(batch.images[1]), path.params, 0
        )
        assert status == 0
        assert batch.untouched(0) and batch.untouched(1)
        library.streams.synchronize()
        assert np.array_equal(batch.planes(0)[0], pixels(jpegs[0], interpolated=True))
        assert np.array_equal(batch.planes(1)[0], pixels(jpegs[1]))


def test_cmyk_needs_to_be_allowed(make_jpeg: MakeJpeg) -> None:
    jpeg = make_jpeg(37, 53, mode="CMYK")
    with FakeNvjpeg() as library:
        path, batch = Decoupled(library, HYBRID), Batch(library, [jpeg], [[(37, 159)]])
        path.attach()
        assert path.decode(jpeg, batch.images[0]) == [0, Status.NVJPEG_STATUS_JPEG_NOT_SUPPORTED]
        library.nvjpegDecodeParamsSetAllowCMYK(path.params, 1)
        assert path.decode(jpeg, batch.images[0]) == [0] * 4
        library.streams.synchronize()
        with Image.open(io.BytesIO(jpeg)) as image:
            expected = np.asarray(image.convert("RGB")).astype(int)
        ours = batch.planes(0)[0].reshape(37, 53, 3).astype(int)
        assert np.abs(ours - expected).max() <= 1


def test_a_software_backend_fails_late_at_exif(jpegs: list[bytes]) -> None:
    with FakeNvjpeg() as library:
        path, batch = Decoupled(library, HYBRID), Batch(library, jpegs[:1], [rgbi(jpegs[0])])
        path.attach()
        library.nvjpegDecodeParamsSetExifOrientation(path.params, 6)
        assert path.decode(jpegs[0], batch.images[0]) == [0, 0, 0, Status.NVJPEG_STATUS_EXECUTION_FAILED]


# ---- mistakes


def mistake(library: FakeNvjpeg) -> str:
    (text,) = library.mistakes
    with pytest.raises(AssertionError, match=text[:20].replace("(", ".")), library:
        pass
    library.mistakes.clear()
    return text


def test_initialize_in_flight(jpegs: list[bytes]) -> None:
    library = FakeNvjpeg()
    batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs])
    assert (batch.initialize(), batch.decode()) == (0, 0)
    assert batch.initialize() == Status.NVJPEG_STATUS_INVALID_PARAMETER
    assert "in flight" in mistake(library)
    stream = library.streams.stream()
    batch.decode(stream.handle)
    assert "second stream" in mistake(library)
    library.nvjpegJpegStateDestroy(batch.state)
    assert "destroyed while its work was in flight" in mistake(library)


def test_pointers_that_lead_nowhere(jpegs: list[bytes]) -> None:
    library = FakeNvjpeg()
    batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs])
    out = ctypes.c_void_p()
    assert library.nvjpegJpegStateCreate(None, ctypes.byref(out)) == Status.NVJPEG_STATUS_INVALID_PARAMETER
    library.verify()  # NULL is answered, not followed
    assert library.nvjpegJpegStateCreate(batch.state, ctypes.byref(out)) != 0
    assert "State was given as Handle" in mistake(library)
    assert library.nvjpegJpegStateDestroy(batch.state) == 0
    assert batch.initialize() != 0
    assert "destroyed State was given" in mistake(library)
    batch.state = made(library.nvjpegJpegStateCreate, batch.handle)
    assert (batch.initialize(), batch.decode(0xBAD0)) == (0, Status.NVJPEG_STATUS_EXECUTION_FAILED)
    assert "no stream" in mistake(library)


def test_memory_that_is_not_ours(jpegs: list[bytes]) -> None:
    memory, device = Memory(), Memory()
    library = FakeNvjpeg(host_memory=memory, device_memory=device)
    batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs])
    assert (batch.initialize(), batch.decode()) == (0, Status.NVJPEG_STATUS_EXECUTION_FAILED)
    assert "compressed bytes" in mistake(library)
    library.streams.synchronize()  # a failed batch, too, may have queued work
    memory.add(batch.slab)
    assert (batch.initialize(), batch.decode()) == (0, Status.NVJPEG_STATUS_EXECUTION_FAILED)
    assert "a destination of" in mistake(library)
    library.streams.synchronize()
    for planes in batch.memory:
        device.add(planes[0])
    assert (batch.initialize(), batch.decode()) == (0, 0)
    library.streams.synchronize()
    library.verify()
    batch.images[3].channel[0] += 3 * batch.images[3].pitch[0]  # two rows past the end
    assert (batch.initialize(), batch.decode()) == (0, Status.NVJPEG_STATUS_EXECUTION_FAILED)
    assert "a destination of" in mistake(library)


@pytest.mark.parametrize("backend", [HARDWARE, GPU_HYBRID])
def test_compressed_bytes_must_stay(backend: int, jpegs: list[bytes]) -> None:
    memory = Memory()
    library = FakeNvjpeg(engines=1, host_memory=memory)
    batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs], backend=backend)
    memory.add(batch.slab)
    assert (batch.initialize(), batch.decode()) == (0, 0)
    batch.slab[-1] ^= 1  # the next batch's bytes arrive too early
    library.streams.synchronize()
    assert "changed while their decode was in flight" in mistake(library)
    wrong = [not np.array_equal(batch.planes(k)[0], pixels(jpeg)) for k, jpeg in enumerate(jpegs)]
    assert wrong == [False, False, False, True]


def test_a_state_belongs_to_one_thread(jpegs: list[bytes]) -> None:
    library = FakeNvjpeg()
    batch = Batch(library, jpegs, [rgbi(jpeg) for jpeg in jpegs])
    inside, leave = threading.Event(), threading.Event()

    def hold(data: bytes) -> bool:
        inside.set()
        assert leave.wait(60)
        return False

    assert batch.initialize() == 0
    library.bad_image(hold)
    thread = threading.Thread(target=batch.decode)
    thread.start()
    assert inside.wait(60)
    batch.initialize()
    leave.set()
    thread.join()
    assert "in use by another thread" in library.mistakes[0]


def test_a_bug_of_the_fake_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvjpeg()
    monkeypatch.setattr(library, "_create", None)
    out = ctypes.c_void_p()
    assert library.nvjpegCreateSimple(ctypes.byref(out)) == Status.NVJPEG_STATUS_INTERNAL_ERROR
    assert "the fake itself failed in nvjpegCreateSimple" in mistake(library)
