"""`decode_jpegs` on the CPU and on a fake GPU: libjpeg-turbo's pixels, a status each, clear errors."""

from __future__ import annotations

import gc
import io
import re
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

import ffcv_gpu
from ffcv_gpu import DecodeStatus, decode_jpegs
from ffcv_gpu.decode import copies, trim_memory
from ffcv_gpu.errors import BackendUnavailable, DecodeError, OutOfGpuMemory, PipelineError
from ffcv_gpu.jpeg.nvjpeg import handles
from ffcv_gpu.jpeg.nvjpeg.backend import NvjpegBackend
from ffcv_gpu.native import nvjpeg_library
from tests.fake_gpu import FakeGpu


@pytest.fixture(scope="module")
def jpegs(make_jpeg):
    """Good ones of all kinds: samplings, grey, progressive, CMYK left out (RGB differs by decoder)."""
    plain = [make_jpeg(40 + i, 60 - i, i, subsampling=("4:2:0", "4:4:4", "4:2:2")[i % 3]) for i in range(9)]
    return [*plain, make_jpeg(33, 21, 9, mode="L"), make_jpeg(50, 31, 10, progressive=True),
            make_jpeg(1, 1, 3), make_jpeg(30, 40, 11, orientation=6)]  # fmt: skip


BOMB = simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8)).replace(
    b"\xff\xc0\0\x11\x08\0\x10\0\x10", b"\xff\xc0\0\x11\x08\xff\xdc\xff\xdc"
)  # its header says 65500 x 65500 pixels
BAD = [b"", b"no JPEG at all", b"\xff\xd8\xff\xe0 cut", BOMB]


@pytest.fixture
def gpu(monkeypatch):
    made = []

    def make(**settings):
        fake = FakeGpu(**settings)
        made.append(fake)
        monkeypatch.setattr("ffcv_gpu.decode.arguments.require_device", lambda name: None)
        monkeypatch.setattr("ffcv_gpu.decode.jpegs.gpu_device", lambda name: fake.device)
        monkeypatch.setattr(nvjpeg_library, "library", fake.nvjpeg.as_library)
        monkeypatch.setattr(handles, "_known", {})
        return fake

    yield make
    trim_memory()
    gc.collect()
    for fake in made:
        fake.close()


@pytest.fixture(params=["cpu", "late", "early"])
def device(request, gpu):
    """The CPU, and a fake GPU whose work waits or does not."""
    if request.param == "cpu":
        return "cpu"
    gpu(deferred=request.param == "late")
    return 0


def test_pixels_are_libjpeg_turbo_s(device, jpegs):
    images, status = decode_jpegs(jpegs, device=device)
    assert status.dtype == np.int8 and status.tolist() == [0] * len(jpegs)
    for image, data in zip(images, jpegs, strict=True):
        assert isinstance(image, torch.Tensor) and image.dtype == torch.uint8
        assert np.array_equal(image.numpy(), simplejpeg.decode_jpeg(data))


def test_pillow_agrees(jpegs):
    images, _ = decode_jpegs(jpegs, device="cpu", output="numpy")
    for image, data in zip(images, jpegs, strict=True):
        with Image.open(io.BytesIO(data)) as other:
            expected = np.asarray(other.convert("RGB")).astype(int)
        assert image.shape == expected.shape
        assert np.abs(image - expected).max() <= 1  # another build of libjpeg-turbo


def test_bad_images_cost_the_others_nothing(device, jpegs):
    mixed = [BAD[0], *jpegs[:5], BAD[1], *jpegs[5:], BAD[2], BOMB]
    images, status = decode_jpegs(mixed, device=device, output="numpy")
    bad = [0, 6, len(mixed) - 2, len(mixed) - 1]
    assert np.flatnonzero(status).tolist() == bad
    assert set(status[bad].tolist()) == {DecodeStatus.BAD_JPEG}
    for i, (image, data) in enumerate(zip(images, mixed, strict=True)):
        if i in bad:
            assert image is None
        else:
            assert np.array_equal(image, simplejpeg.decode_jpeg(data))


def test_first_garbage_then_good(device, jpegs):
    for _ in range(10):
        _, status = decode_jpegs(BAD, device=device)
        assert status.all()
    images, status = decode_jpegs(jpegs, device=device, output="numpy")
    assert not status.any() and np.array_equal(images[0], simplejpeg.decode_jpeg(jpegs[0]))


def test_raise_names_the_image_and_the_reason(device, jpegs):
    where = "cpu" if device == "cpu" else "cuda:0"
    words = rf"image 1 \(14 bytes\) cannot be decoded on {where}: .*\(2 of 3 are bad\)"
    with pytest.raises(DecodeError, match=words):
        decode_jpegs([jpegs[0], BAD[1], BAD[2]], device=device, on_error="raise")


def test_rois_are_crops_with_memory_of_their_own(device, jpegs):
    whole, _ = decode_jpegs(jpegs[:4], device=device)
    rois = [[0, 0, 10, 20], [5, 7, 30, 9], [0, 0, 42, 58], [42, 0, 1, 1]]
    parts, status = decode_jpegs(jpegs[:4], device=device, rois=rois)
    assert not status.any()
    for part, image, (y, x, height, width) in zip(parts, whole, rois, strict=True):
        assert torch.equal(part, image[y : y + height, x : x + width]) and part.is_contiguous()
        assert part.untyped_storage().nbytes() == part.numel()


@pytest.mark.parametrize(
    ("rois", "words"),
    [
        ([[0, 0, 1, 1]], r"integers of shape \(2, 4\)"),
        ([[0.0, 0, 1, 1]] * 2, "integers"),
        ([[0, 0, 1, 1], None], r"integers of shape \(2, 4\).*numpy cannot read these \(.*inhomogeneous"),
        (torch.zeros((2, 4), dtype=torch.int64, device="meta"), r"numpy cannot read these \(.*Tensor\.cpu"),
        ([[0, 0, 1, 1], [30, 0, 20, 5]], r"rois\[1\] = \[30, 0, 20, 5\] .* image 1, which is 59 x 41"),
        ([[0, 0, 1, 1], [-1, 0, 2, 2]], r"rois\[1\]"),
        ([[0, 0, 0, 1], [0, 0, 2, 2]], r"rois\[0\]"),
    ],
)
def test_rois_that_do_not_fit(jpegs, rois, words):
    with pytest.raises(PipelineError, match=words):
        decode_jpegs(jpegs[:2], device="cpu", rois=rois)


@pytest.mark.parametrize("device", ["cpu", 0], ids=["cpu", "gpu"])
@pytest.mark.parametrize("roi", [(2**63 - 1, 0, 1, 1), (1, 0, 2**63 - 1, 1), (0, 1, 5, 2**63 - 1)])
def test_no_sum_of_a_roi_overflows(gpu, jpegs, device, roi):
    gpu()
    with pytest.raises(PipelineError, match=r"rois\[0\] .* is not inside image 0"):
        decode_jpegs(jpegs[:1], device=device, rois=[roi])


def test_no_images_and_no_rois(device):
    images, status = decode_jpegs([], rois=[], device=device)
    assert images == [] and status.shape == (0,)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: memoryview(b[::-1])[::-1],
                                  lambda b: np.frombuffer(b, np.uint8),
                                  lambda b: torch.frombuffer(bytearray(b), dtype=torch.uint8)])  # fmt: skip
def test_kinds_of_bytes(jpegs, kind):
    (image,), _ = decode_jpegs([kind(jpegs[0])], device="cpu", output="numpy")
    assert np.array_equal(image, simplejpeg.decode_jpeg(jpegs[0]))


@pytest.mark.parametrize(
    "item",
    [
        "a path",
        7,
        np.uint8(7),
        io.BytesIO(b"abc"),
        None,
        np.zeros(3, np.float32),
        np.zeros((2, 2), np.uint8),
        torch.empty(3, dtype=torch.uint8, device="meta"),
    ],
    ids=lambda item: type(item).__name__,
)
def test_other_things_are_refused(jpegs, item):
    with pytest.raises(PipelineError, match="item 1 must be bytes or a uint8 array"):
        decode_jpegs([jpegs[0], item], device="cpu")


def test_an_open_file_is_to_be_read():
    with pytest.raises(PipelineError, match=r"not BytesIO; give the file's bytes, \.read\(\)"):
        decode_jpegs([io.BytesIO(b"abc")], device="cpu")


@pytest.mark.parametrize("kind", [bytes, lambda b: np.frombuffer(b, np.uint8)], ids=["bytes", "array"])
def test_one_image_is_no_list(jpegs, kind):
    with pytest.raises(PipelineError, match=r"item 0 .* give a list, \[encoded\]"):
        decode_jpegs(kind(jpegs[0]), device="cpu")


def test_none_is_no_list():
    with pytest.raises(PipelineError, match="encoded must be a list, not NoneType"):
        decode_jpegs(None, device="cpu")


def test_nothing_in_nothing_out(device):
    images, status = decode_jpegs([], device=device)
    assert images == [] and status.shape == (0,)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("output", "jax"), ("on_error", "skip"), ("dct", "slow"), ("dct", []), ("num_workers", None)],
)
def test_arguments(jpegs, argument, value):
    with pytest.raises(PipelineError, match=rf"{argument}.*{re.escape(str(value))}"):
        decode_jpegs(jpegs[:1], device="cpu", **{argument: value})


def test_tensors_need_torch(jpegs, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(PipelineError, match=r"needs PyTorch.*'ffcv-gpu\[torch\]', or pass output='numpy'"):
        decode_jpegs(jpegs[:1], device="cpu")
    images, _ = decode_jpegs(jpegs[:1], device="cpu", output="numpy")
    assert images[0] is not None


def test_cupy_needs_a_gpu(jpegs):
    with pytest.raises(PipelineError, match="output='cupy' needs a GPU"):
        decode_jpegs(jpegs[:1], device="cpu", output="cupy")


@pytest.mark.parametrize("own_stream", [False, True])
def test_cupy_shares_torchs_memory_only_on_torchs_stream(gpu, jpegs, monkeypatch, own_stream):
    """torch reuses an image's memory when it is dropped, and does not know who reads it on CuPy's stream."""
    gpu()
    waited = []
    stream = SimpleNamespace(ptr=7 if own_stream else 0, synchronize=lambda: waited.append(True))
    cuda = SimpleNamespace(get_current_stream=lambda device: stream)
    made = SimpleNamespace(from_dlpack=torch.Tensor.numpy, cuda=cuda)
    monkeypatch.setitem(sys.modules, "cupy", made)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    images, _ = decode_jpegs([*jpegs[:2], b"no JPEG"], device=0, output="cupy")
    assert images[2] is None and bool(waited) == own_stream
    assert [image.flags.owndata for image in images[:2]] == [own_stream] * 2


def test_auto_falls_back_and_says_why(jpegs, caplog, monkeypatch):
    def missing(name):
        raise BackendUnavailable("there is none")

    monkeypatch.setattr("ffcv_gpu.decode.arguments.require_device", missing)
    monkeypatch.setattr("ffcv_gpu.decode.arguments._said", set())
    for _ in range(3):  # as in a loop over batches: it is said once
        images, status = decode_jpegs(jpegs[:2], output="numpy")
        assert not status.any() and np.array_equal(images[1], simplejpeg.decode_jpeg(jpegs[1]))
    (record,) = caplog.records
    assert record.getMessage().endswith("decoding on the CPU, because there is none")
    with pytest.raises(BackendUnavailable):
        decode_jpegs(jpegs[:2], device=0)


def test_images_outlive_the_call_and_memory_comes_back(gpu, jpegs):
    fake = gpu()
    kept, _ = decode_jpegs(jpegs, device=0)
    copies = [image.clone() for image in kept]
    for _ in range(5):
        decode_jpegs(jpegs[::-1], device=0)
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))
    made = fake.owner.outputs_made
    for _ in range(5):
        decode_jpegs(jpegs, device=0)
    assert fake.owner.outputs_made <= made + 1


def test_a_gpu_without_a_loader_is_kept_for_later_calls_until_it_is_given_back(gpu, jpegs, monkeypatch):
    fake = gpu()
    device = weakref.ref(fake.device)
    monkeypatch.setattr("ffcv_gpu.decode.jpegs.gpu_device", lambda name: device())
    images, _ = decode_jpegs(jpegs, device=0)
    fake.device = FakeGpu().device  # nobody else holds it any more
    gc.collect()
    again, _ = decode_jpegs(jpegs, device=0)
    assert all(torch.equal(a, b) for a, b in zip(images, again, strict=True))
    trim_memory()
    assert device() is None


@pytest.mark.parametrize(("workers", "parts"), [(1, [198, 200]), (4, [100, 98, 100, 100])])
@pytest.mark.parametrize("deferred", [True, False], ids=["late", "early"])
def test_many_images_go_in_parts_of_which_two_are_in_flight(
    gpu, make_jpeg, workers, parts, deferred, monkeypatch
):
    monkeypatch.setattr(copies, "PIECE_BYTES", 2000)
    monkeypatch.setattr(copies, "HELPER_BYTES", 1000)
    fake = gpu(deferred=deferred)
    data = [make_jpeg(16 + i % 5, 24, i % 7) for i in range(400)]
    data[130] = data[131] = BAD[1]
    flying, submit = [], NvjpegBackend.submit

    def noting(backend, *given):
        ticket = submit(backend, *given)
        flying.append(len(backend._flying))
        return ticket

    monkeypatch.setattr(NvjpegBackend, "submit", noting)
    for _ in range(2):
        images, status = decode_jpegs(data, device=0, output="numpy", num_workers=workers)
        assert np.flatnonzero(status).tolist() == [130, 131]
        for k in set(range(400)) - {130, 131}:
            assert np.array_equal(images[k], simplejpeg.decode_jpeg(data[k]))
    calls = [call for call in fake.nvjpeg.calls if call.name == "nvjpegDecodeBatched"]
    assert [call.images for call in calls] == parts * 2
    assert flying == [1, 2, 2, 2][: len(parts)] * 2


def test_a_part_that_fails_leaves_nothing_in_flight(gpu, make_jpeg, monkeypatch):
    """The pinned memory is somebody else's afterwards."""
    fake = gpu()
    data = [make_jpeg(16, 24, i % 7) for i in range(300)]
    decode_jpegs(data, device=0)
    (backend,) = fake.device.backends.values()
    submit, calls = backend.submit, []

    def fails(*given):
        calls.append(submit(*given))
        if len(calls) == 2:
            raise OutOfGpuMemory("no more")
        return calls[-1]

    monkeypatch.setattr(backend, "submit", fails)
    with pytest.raises(OutOfGpuMemory, match="no more"):
        decode_jpegs(data, device=0)
    assert calls[0]._job.outcome is not None
    monkeypatch.undo()


def test_silent_skips_are_found_in_paranoid_mode(gpu, jpegs):
    fake = gpu()
    fake.nvjpeg.skip_image(jpegs[3])
    images, status = decode_jpegs(jpegs, device=0, output="numpy", paranoid=True)
    assert not status.any() and np.array_equal(images[3], simplejpeg.decode_jpeg(jpegs[3]))


def test_exported():
    assert {"decode_jpegs", "DecodeStatus"} <= set(ffcv_gpu.__all__)
