"""The fake nvJPEG: its unkindness against what it promises; images one by one; who breaks a rule."""

from __future__ import annotations

import ctypes
import io
import threading
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ffcv_gpu.errors import NvjpegError
from ffcv_gpu.native import nvjpeg, nvjpeg_types
from ffcv_gpu.native.nvjpeg_types import NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION as INTERPOLATE
from ffcv_gpu.native.nvjpeg_types import nvjpegBackend_t as Backend
from ffcv_gpu.native.nvjpeg_types import nvjpegImage_t
from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status
from tests.fake_nvjpeg import FakeNvjpeg, Memory
from tests.nvjpeg_batch import (
    GPU_HYBRID,
    HARDWARE,
    HYBRID,
    RGBI,
    UNTOUCHED,
    Batch,
    MakeJpeg,
    pixels,
    rgbi,
)
from tests.nvjpeg_probe import made


@pytest.fixture
def jpegs(make_jpeg: MakeJpeg) -> list[bytes]:
    return [make_jpeg(40 + 3 * k, 61 - 5 * k, k) for k in range(4)]


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
        self.done = library.streams.event()
        self.params = made(library.nvjpegDecodeParamsCreate, self.handle)
        library.nvjpegDecodeParamsSetOutputFormat(self.params, RGBI)
        self.stream = library.streams.stream()
        self.turn = 0

    def attach(self) -> None:
        device = made(self.library.nvjpegBufferDeviceCreate, self.handle, None)
        assert self.library.nvjpegStateAttachDeviceBuffer(self.state, device) == 0

    def decode(self, data: Any, image: nvjpegImage_t, *, wait: bool = True) -> list[int]:
        page = self.turn % len(self.pinned)
        library, three = self.library, (self.handle, self.decoder, self.state)
        jpeg = self.jpeg[page]
        said = [library.nvjpegJpegStreamParse(self.handle, data, len(data), 0, 0, jpeg)]
        library.nvjpegStateAttachPinnedBuffer(self.state, self.pinned[page])
        if not said[0]:
            said.append(library.nvjpegDecodeJpegHost(*three, self.params, jpeg))
        if not said[-1]:
            self.turn += 1
            if wait:
                self.done.synchronize()
            said.append(library.nvjpegDecodeJpegTransferToDevice(*three, jpeg, self.stream.handle))
        if not said[-1]:
            said.append(library.nvjpegDecodeJpegDevice(*three, ctypes.byref(image), self.stream.handle))
            self.stream.record(self.done)
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


@pytest.mark.parametrize(
    ("pages", "mistake"), [(1, "pinned buffer whose upload is in flight"), (2, "image before is in flight")]
)
def test_a_page_or_a_state_used_again_too_early(jpegs: list[bytes], pages: int, mistake: str) -> None:
    library = FakeNvjpeg()
    path = Decoupled(library, HYBRID, pages=pages)
    batch = Batch(library, jpegs[:2], [rgbi(j) for j in jpegs[:2]])
    path.attach()
    path.decode(jpegs[0], batch.images[0], wait=False)
    library.verify()
    path.decode(jpegs[1], batch.images[1], wait=False)
    with pytest.raises(AssertionError, match=mistake):
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
