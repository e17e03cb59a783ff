"""The nvJPEG backend when the fake library fails: whatever goes wrong costs no image that can be decoded."""

from __future__ import annotations

import logging
from contextlib import nullcontext

import numpy as np
import pytest

from ffcv_gpu.errors import BackendUnavailable, NvjpegError, PipelineError
from ffcv_gpu.jpeg.base import DecodeStatus
from ffcv_gpu.jpeg.nvjpeg import NvjpegBackend, handles
from ffcv_gpu.native import driver
from ffcv_gpu.native.nvjpeg_types import nvjpegBackend_t as Backend
from ffcv_gpu.native.nvjpeg_types import nvjpegStatus_t as Status
from tests.fake_nvjpeg import FakeNvjpeg
from tests.fake_streams import FakeEvent
from tests.jpeg.nvjpeg_bench import CPU, ENGINE, GPU, ONE_CPU, HostGpu, plain

BATCHED = "nvjpegDecodeBatched"
FAULTS = [status for status in range(1, 11) if status != Status.NVJPEG_STATUS_ALLOCATOR_FAILURE]


@pytest.mark.parametrize("deferred", [True, False], ids=["late", "early"])
@pytest.mark.parametrize("engines", [7, 0])
@pytest.mark.parametrize("status", FAULTS)
def test_a_failed_batch_costs_no_image(bench, make_jpeg, caplog, status, engines, deferred):
    one = bench(engines=engines, batch_size=52, deferred=deferred, slots=1)
    pictures = one.pictures(*plain(make_jpeg, 52, alike=True))
    one.fake.fail("nvjpegDecodeBatched", status, times=2, written=5)
    prepared = []
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            pictures.check(pictures.submit(one.backend).wait())
            prepared.append(one.calls("nvjpegDecodeBatchedInitialize"))
    assert one.backend.counts["jpeg: failed batches"] == 2
    assert one.backend.counts["jpeg: tried again"] == one.backend.counts[ONE_CPU] == 2 * 52
    assert one.backend.counts[ENGINE if engines else GPU] == 52
    assert prepared[:2] == [1, 2] and prepared[2] > 2  # after a failure always; suspects come by themselves
    assert len([record for record in caplog.records if "one by one" in record.message]) == 1


def test_one_bad_image_leaves_the_others_their_pixels(bench, make_jpeg):
    files, sizes = plain(make_jpeg, 8, alike=True)
    for place in (0, 4, 7):
        one = bench(engines=7)
        pictures = one.pictures(files, sizes)
        one.fake.bad_image(files[place], backends=(Backend.NVJPEG_BACKEND_HARDWARE,))
        pictures.check(pictures.submit(one.backend).wait())
        assert one.backend.counts[ONE_CPU] == 8 and ENGINE not in one.backend.counts


def test_an_image_that_nvjpeg_refuses_everywhere_comes_from_the_cpu(bench, make_jpeg):
    files, sizes = plain(make_jpeg, 8, alike=True)
    one = bench(engines=7)
    pictures = one.pictures(files, sizes)
    one.fake.bad_image(files[3])
    outcome = pictures.submit(one.backend).wait()
    pictures.check(outcome)
    assert outcome.reasons == {}
    assert one.backend.counts[CPU] == 1 and one.backend.counts[ONE_CPU] == 7


def test_a_damaged_image_is_refused_with_everybodys_words(bench, make_jpeg):
    """A Huffman table that is none: headers are read all the same, with the facts of the whole file."""
    files, sizes = plain(make_jpeg, 8)
    one = bench(engines=7)
    facts = one.pictures(files, sizes).encoded.facts
    at = files[5].index(b"\xff\xc4") + 5
    files[5] = files[5][:at] + b"\xff" * 16 + files[5][at + 16 :]
    pictures = one.pictures(files, sizes, facts=False)
    object.__setattr__(pictures.encoded, "facts", facts)
    outcome = pictures.submit(one.backend).wait()
    pictures.check(outcome)
    assert outcome.status.tolist() == [0, 0, 0, 0, 0, DecodeStatus.BAD_JPEG, 0, 0]
    assert "nvjpegDecodeJpegHost" in outcome.reasons[5]


SINGLE_CALLS = [
    "nvjpegJpegStreamParse",
    "nvjpegJpegStreamGetFrameDimensions",
    "nvjpegStateAttachPinnedBuffer",
    "nvjpegDecodeJpegHost",
    "nvjpegDecodeJpegTransferToDevice",
    "nvjpegDecodeJpegDevice",
]


@pytest.mark.parametrize("call", SINGLE_CALLS)
@pytest.mark.parametrize("status", FAULTS)
def test_a_failed_single_image_goes_to_the_cpu(bench, make_jpeg, call, status):
    one = bench()
    pictures = one.pictures(*plain(make_jpeg, 8))
    one.fake.fail(call, status, times=3, after=2)
    pictures.check(pictures.submit(one.backend).wait())
    assert one.backend.counts == {ONE_CPU: 5, CPU: 3, "jpeg: tried again": 3}


@pytest.mark.parametrize(
    "call", ["nvjpegDecoderCreate", "nvjpegBufferPinnedCreate", "nvjpegJpegStreamCreate"]
)
def test_a_decoder_that_cannot_be_made_leaves_the_cpu(bench, make_jpeg, call):
    one = bench()
    pictures = one.pictures(*plain(make_jpeg, 4))
    one.fake.fail(call, Status.NVJPEG_STATUS_INTERNAL_ERROR)
    for route in (CPU, ONE_CPU):  # and it is tried again
        pictures.check(pictures.submit(one.backend).wait())
        assert one.backend.counts[route] == 4


def test_a_decoder_that_can_never_be_made_is_given_up(bench, make_jpeg):
    one = bench()
    pictures, made = one.pictures(*plain(make_jpeg, 4)), []
    one.fake.fail("nvjpegDecoderCreate", Status.NVJPEG_STATUS_ARCH_MISMATCH, times=None)
    for _ in range(5):
        pictures.check(pictures.submit(one.backend).wait())
        made.append(one.calls("nvjpegBufferDeviceCreate"))
    assert made == [1, 2, 3, 3, 3] and one.backend.counts[CPU] == 20


def test_initialize_that_fails_is_tried_again(bench, make_jpeg):
    one = bench(engines=7, slots=1)
    pictures = one.pictures(*plain(make_jpeg, 8, alike=True))
    one.fake.fail("nvjpegDecodeBatched", Status.NVJPEG_STATUS_BAD_JPEG)
    one.fake.fail("nvjpegDecodeBatchedInitialize", Status.NVJPEG_STATUS_EXECUTION_FAILED)
    for done in (0, 0, 8):
        pictures.check(pictures.submit(one.backend).wait())
        assert one.backend.counts.get(ENGINE, 0) == done


def test_initialize_that_fails_for_more_images_is_tried_again_for_few(bench, make_jpeg):
    """The state is undefined then, whatever it was ready for before."""
    few, many = plain(make_jpeg, 3, alike=True), plain(make_jpeg, 24, alike=True)
    one = bench(engines=7, batch_size=24, slots=1)
    few, many = one.pictures(*few), one.pictures(*many)
    few.check(few.submit(one.backend).wait())
    one.fake.fail("nvjpegDecodeBatchedInitialize", Status.NVJPEG_STATUS_EXECUTION_FAILED)
    many.check(many.submit(one.backend).wait())
    assert one.backend.counts[ONE_CPU] == 24
    before = one.calls("nvjpegDecodeBatchedInitialize")
    few.check(few.submit(one.backend).wait())
    assert one.calls("nvjpegDecodeBatchedInitialize") == before + 1
    assert one.backend.counts[ENGINE] == 6


@pytest.mark.parametrize("engines", [7, 0])
def test_out_of_memory_is_one_clear_error(bench, make_jpeg, engines):
    one = bench(engines=engines, batch_size=56)
    pictures = one.pictures(*plain(make_jpeg, 56, alike=True))
    one.fake.memory_limit_bytes = 10_000
    for _ in range(5):  # no slot is lost
        with pytest.raises(NvjpegError, match=r"56 images: .* MB of pixels, .* 40 x .*gpu_memory_gb") as info:
            pictures.submit(one.backend)
        assert info.value.status == Status.NVJPEG_STATUS_ALLOCATOR_FAILURE
    one.fake.memory_limit_bytes = None
    pictures.check(pictures.submit(one.backend).wait())


@pytest.mark.parametrize(
    ("call", "engines"),
    [
        ("nvjpegJpegStateCreate", 7),
        ("nvjpegDecodeBatchedInitialize", 7),
        (BATCHED, 7),
        (BATCHED, 0),
        ("nvjpegDecoderStateCreate", 0),
        ("nvjpegDecodeJpegHost", 0),
    ],
)
def test_memory_that_others_keep_unused_is_given_to_nvjpeg(bench, make_jpeg, caplog, call, engines):
    """torch keeps what it once had: nvJPEG, which asks the driver, may find none left."""
    one = bench(engines=engines, batch_size=56)
    pictures = one.pictures(*plain(make_jpeg, 56 if "Batched" in call else 4, alike=call == BATCHED))
    one.fake.fail(call, Status.NVJPEG_STATUS_ALLOCATOR_FAILURE)
    for _ in range(2):
        pictures.check(pictures.submit(one.backend).wait())
    assert one.gpu.released == 1
    assert [record.message[:24] for record in caplog.records] == ["nvJPEG ran out of memory"]


def test_memory_that_others_keep_unused_is_given_to_a_new_backend():
    gpu, fake = HostGpu(), FakeNvjpeg(engines=7)
    library = fake.as_library()
    for times, refused in ((1, False), (2, True)):
        fake.fail("nvjpegDecodeBatchedInitialize", Status.NVJPEG_STATUS_ALLOCATOR_FAILURE, times=times)
        with pytest.raises(BackendUnavailable, match="gpu_memory_gb") if refused else nullcontext():
            NvjpegBackend(gpu, batch_size=8, library=library)
    assert gpu.released == 2


def test_out_of_memory_one_by_one(bench, make_jpeg):
    one = bench(sentinel=True)
    pictures = one.pictures(*plain(make_jpeg, 4))
    # What fails is tried a second time, from the first image on.
    for after in (2, 0):
        one.fake.fail("nvjpegDecodeJpegTransferToDevice", Status.NVJPEG_STATUS_ALLOCATOR_FAILURE, after=after)
    with pytest.raises(NvjpegError, match="gpu_memory_gb"):
        pictures.submit(one.backend)
    pictures.check(pictures.submit(one.backend).wait())


def test_out_of_memory_while_trying_again_is_raised_by_its_own_ticket(bench, make_jpeg):
    files, sizes = plain(make_jpeg, 8)
    one = bench(engines=7, sentinel=True, slots=1)
    first, second = one.pictures(files, sizes), one.pictures(*plain(make_jpeg, 3))
    for skipped in files[6:]:
        one.fake.skip_image(skipped, backends=(Backend.NVJPEG_BACKEND_HARDWARE,))
    ticket = first.submit(one.backend)
    for after in (1, 0):
        one.fake.fail("nvjpegDecodeJpegTransferToDevice", Status.NVJPEG_STATUS_ALLOCATOR_FAILURE, after=after)
    other = second.submit(one.backend)  # needs the slot, so the first call is finished here
    for _ in range(2):
        with pytest.raises(NvjpegError, match="2 images"):
            ticket.wait()
    left = first.arena.copy()
    second.check(other.wait())
    one.gpu.streams.synchronize()
    assert np.array_equal(first.arena, left), "work of a call that has ended was in flight"


def test_nobody_is_told_of_a_failure_while_work_is_in_flight(bench, make_jpeg):
    """Who waits for a call that another thread ends gives its memory away as soon as it has an outcome."""
    files, sizes = plain(make_jpeg, 8)
    one = bench(engines=7, sentinel=True)
    one.fake.skip_image(files[6])
    pictures = one.pictures(files, sizes)
    ticket = pictures.submit(one.backend)
    one.fake.fail("nvjpegDecodeJpegDevice", Status.NVJPEG_STATUS_ALLOCATOR_FAILURE, times=2)
    job, told = ticket._job, []
    settle = job.settle
    job.settle = lambda: (told.append(job.outcome), settle())
    with pytest.raises(NvjpegError, match="1 images"):
        ticket.wait()
    assert told and not any(told) and job.outcome is not None


def test_a_call_whose_wait_failed_has_ended_and_its_slot_is_used_when_the_gpu_is_done(
    bench, make_jpeg, monkeypatch
):
    one = bench(engines=7, slots=1)
    first, second = (one.pictures(*plain(make_jpeg, count)) for count in (8, 3))
    ticket = first.submit(one.backend)
    with monkeypatch.context() as patch:

        def refuse(event):
            raise RuntimeError("operation not permitted when stream is capturing")

        patch.setattr(FakeEvent, "synchronize", refuse)
        with pytest.raises(RuntimeError, match="not permitted"):
            ticket.wait()
    with pytest.raises(RuntimeError, match="not permitted"):
        ticket.wait()
    second.check(second.submit(one.backend).wait())


def test_without_a_driver():
    fake, gpu = FakeNvjpeg(driver=False), HostGpu()
    with pytest.raises(BackendUnavailable, match=r"nvJPEG 13\.2\.3 .* GPU 0: .* no CUDA device .*turbo"):
        NvjpegBackend(gpu, batch_size=8, library=fake.as_library())


@pytest.mark.parametrize("status", [6, 8])
@pytest.mark.parametrize("call", ["nvjpegCreateEx", "nvjpegGetHardwareDecoderInfo"])
def test_engines_that_cannot_be_used_leave_the_cores(monkeypatch, caplog, call, status):
    monkeypatch.setattr(handles, "_known", {})
    fake, gpu = FakeNvjpeg(engines=7), HostGpu()
    fake.fail(call, status, after=1 if call == "nvjpegCreateEx" else 0)
    with caplog.at_level(logging.WARNING):
        backend = NvjpegBackend(gpu, batch_size=8, library=fake.as_library())
    assert backend.decoders.lanes == 0
    assert call in caplog.text and "cores decode" in caplog.text
    backend.close()


def test_a_container_without_video_says_how_to_start_it(monkeypatch, caplog):
    """Images of CUDA and PyTorch ask for "compute,utility" only; engines then look absent."""
    monkeypatch.setattr(handles, "_known", {})
    monkeypatch.setattr(driver, "lacks_video", lambda: True)
    with caplog.at_level(logging.WARNING):
        backend = NvjpegBackend(HostGpu(), batch_size=8, library=FakeNvjpeg(engines=0).as_library())
    assert backend.decoders.lanes == 0
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in caplog.text
    backend.close()


def test_senseless_settings_are_refused():
    with pytest.raises(PipelineError, match="batch_size=0"):
        NvjpegBackend(HostGpu(), batch_size=0, library=FakeNvjpeg().as_library())


# ---- silent skips


@pytest.mark.parametrize("deferred", [True, False], ids=["late", "early"])
@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("engines", [7, 0])
def test_the_sentinel_finds_images_skipped_in_silence(bench, make_jpeg, engines, everywhere, deferred):
    files, sizes = plain(make_jpeg, 56)
    one = bench(engines=engines, batch_size=56, sentinel=True, deferred=deferred)
    backends = None if everywhere else (Backend.NVJPEG_BACKEND_HARDWARE, Backend.NVJPEG_BACKEND_GPU_HYBRID)
    pictures = one.pictures(files, sizes)
    for skipped in (files[0], files[30]):
        one.fake.skip_image(skipped, backends=backends)
    pictures.check(pictures.submit(one.backend).wait())
    assert one.backend.counts["jpeg: skipped in silence"] == (4 if everywhere else 2)
    assert one.backend.counts[CPU if everywhere else ONE_CPU] == 2


def test_without_the_sentinel_a_skip_is_not_seen(bench, make_jpeg):
    """Says what the sentinel is for: a success without pixels."""
    files, sizes = plain(make_jpeg, 8)
    one = bench(engines=7)
    pictures = one.pictures(files, sizes)
    one.fake.skip_image(files[3])
    assert not pictures.submit(one.backend).wait().status.any()
    assert [i for i, same in enumerate(pictures.parts()) if not same] == [3]
