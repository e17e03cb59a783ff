"""What can go wrong while a file is loaded, and what happens then. Nothing may hang.

Every test has a time limit that shows what all threads were doing. Bad samples are in `test_on_error`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import FormatError, NvjpegError, OutOfGpuMemory, PipelineError, ReadError
from ffcv_gpu.fields.decoders import IntDecoder
from ffcv_gpu.format import open_beton
from ffcv_gpu.loader import Loader, iterator
from ffcv_gpu.loader.traversal import TraversalOrder
from ffcv_gpu.pipeline.operation import Operation
from ffcv_gpu.transforms import Squeeze, ToTensor
from tests.small_file import N, epoch, joined, loader_threads, small_pipelines

pytestmark = pytest.mark.timeout(90)


def loader(path, device=None, batch_size=2, **options):
    device = device or {}
    pipelines = small_pipelines("cuda:0" if device else None) | options.pop("pipelines", {})
    settings = {"seed": 2, "drop_last": False, "num_workers": 2, "pipelines": pipelines, **device}
    return Loader(path, batch_size, **{**settings, **options})


def same(got, expected):
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.fixture(scope="module")
def good(small):
    return epoch(loader(small))


@pytest.fixture
def copy(small, tmp_path):
    path = tmp_path / "copy.beton"
    path.write_bytes(small.read_bytes())
    return path


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    assert not loader_threads()
    yield
    gc.collect()
    assert not loader_threads()


# ---- the file


REGIONS = {
    "version": lambda beton: 0,
    "page size": lambda beton: 4,
    "number of samples": lambda beton: 8,
    "pointer to the table": lambda beton: 16,
    "field descriptors": lambda beton: 24 + 5,
    "metadata": lambda beton: beton.layout.metadata_offset + 7,
    "section": lambda beton: beton.data_end + 30,
    "table": lambda beton: beton.table_offset + 30,
    "table's end": lambda beton: beton.size_bytes - 3,
}


@pytest.mark.parametrize("region", REGIONS)
def test_a_flipped_bit_outside_the_payloads_is_refused_when_the_loader_is_made(copy, region):
    place = REGIONS[region](open_beton(copy))
    data = bytearray(copy.read_bytes())
    data[place] ^= 0x10
    copy.write_bytes(data)
    with pytest.raises(FormatError, match=r"copy\.beton"):
        loader(copy)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused_when_the_loader_is_made(copy, share):
    os.truncate(copy, int(share * copy.stat().st_size))
    with pytest.raises(FormatError, match=r"copy\.beton"):
        loader(copy)


@pytest.mark.parametrize("what", ["missing", "a folder", "a pipe"])
def test_what_is_no_file_is_refused_without_a_wait(tmp_path, what):
    path = tmp_path / "none"
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    with pytest.raises(OSError, match="none"):
        loader(path)


@pytest.mark.parametrize("os_cache", [True, False])
def test_a_file_that_is_replaced_or_deleted_is_read_to_its_end(copy, tmp_path, good, os_cache):
    made = loader(copy, os_cache=os_cache)
    running = iter(made)
    head = next(running)
    (tmp_path / "other").write_bytes(b"not a beton file")
    os.replace(tmp_path / "other", copy)
    got = [torch.cat(column).numpy() for column in zip(head, *running, strict=True)]
    same(got, good)
    copy.unlink()
    same(epoch(made), good)
    with pytest.raises(OSError, match=r"copy\.beton"):
        loader(copy)


def test_a_file_that_is_replaced_while_it_is_opened_is_refused(copy, small, tmp_path, monkeypatch):
    from ffcv_gpu.loader import dataset

    real = dataset.make_fields

    def replacing(*arguments):
        fields = real(*arguments)
        (tmp_path / "other").write_bytes(small.read_bytes())
        os.replace(tmp_path / "other", copy)
        return fields

    monkeypatch.setattr(dataset, "make_fields", replacing)
    with pytest.raises(
        ReadError, match=r"copy\.beton was replaced by another file while it was being opened"
    ):
        loader(copy)


def at_rest(made):
    """Wait until the loader is as far ahead as it may be: then nobody is in the middle of a read, in which
    a cut map would be the end of this process (see the README)."""
    before = None
    while (now := made.stats().stages) != before:
        before = now
        time.sleep(0.5)


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_that_is_cut_while_it_is_read_ends_the_epoch(device, copy, os_cache, on_error):
    """Not a bad sample, whatever on_error says."""
    size = copy.stat().st_size
    made = loader(copy, device, 1, os_cache=os_cache, on_error=on_error)
    running = iter(made)
    next(running)
    at_rest(made)
    os.truncate(copy, 3000)
    with pytest.raises(ReadError, match=rf"was cut from {size} to 3000 bytes.*rename"):
        list(running)
    with pytest.raises(ReadError, match="was cut"):
        list(made)


def test_touching_what_was_cut_off_is_an_error_and_not_the_end_of_the_process(copy):
    """As if the file were cut between the look at its size and the read. In a process of its own: SIGBUS."""
    result = run(
        f"""
        import os
        from tests.loader.test_faults import at_rest
        from ffcv_gpu.loader import watch
        watch.FileWatch.check_size = lambda self: None
        made = Loader({str(copy)!r}, 2, pipelines={{"label": [IntDecoder()], "image": IMAGE, "vector": None}})
        running = iter(made)
        next(running)
        at_rest(made)
        os.truncate({str(copy)!r}, 2_200_000 // 2)
        try:
            list(running)
        except OSError as error:
            print(error)
        """
    )
    assert result.returncode == 0, result.stderr
    assert "field 'image'" in result.stdout and "cannot be read" in result.stdout


def test_bytes_changed_under_a_running_epoch_are_noticed(device, copy):
    made = loader(copy, device, 1)
    running = iter(made)
    next(running)
    with open(copy, "r+b") as file:
        file.seek(int(open_beton(copy).offsets("vector")[20]))
        file.write(b"changed")
    with pytest.raises(ReadError, match=r"sample 20, field 'vector'.*checksum"):
        list(running)


@pytest.mark.parametrize("cache_gb", [0, None], ids=["payloads", "pages"])
def test_a_closed_file_is_an_error(small, cache_gb):
    made = loader(small, os_cache=False, cache_gb=cache_gb)
    made.dataset.reader.close()
    with pytest.raises(ReadError):
        epoch(made)


def test_many_readers_of_one_file(small, good):
    outcomes = []

    def read(number):
        made = loader(small, batch_size=1 + number, os_cache=number % 2 == 0)
        outcomes.append(epoch(made))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 6
    for outcome in outcomes:
        same(outcome, good)


# ---- code of the user's


class Fails(torch.nn.Module):
    def __init__(self, error, at=3):
        super().__init__()
        self.error, self.left = error, at

    def forward(self, batch):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return batch


@pytest.mark.parametrize(
    "error",
    [ValueError, KeyboardInterrupt, SystemExit, MemoryError],
)
def test_an_exception_in_a_module_reaches_the_loop_with_its_place(device, small, good, error):
    image = [*small_pipelines("cuda:0" if device else None)["image"], Fails(error("mine"))]
    made = loader(small, device, pipelines={"image": image})
    running = iter(made)
    assert [len(next(running)[1]) for _ in range(2)] == [2, 2]
    with pytest.raises(error, match="mine") as caught:
        next(running)
    (note,) = [note for note in caught.value.__notes__ if "Fails" in note]
    assert "pipeline 'image'" in note and "batch 2 of epoch 0" in note
    same(epoch(made), good)  # the same loader goes on


class FailingOperation(Operation):
    def generate_code(self):
        def fail(batch, memory):
            raise ValueError("raised by compiled code")

        return fail

    def declare_state_and_memory(self, previous_state):
        return previous_state, None


def test_an_exception_in_an_operation_reaches_the_loop_with_its_place(small):
    made = loader(small, pipelines={"label": [IntDecoder(), FailingOperation(), ToTensor(), Squeeze(1)]})
    with pytest.raises(ValueError, match="raised by compiled code") as caught:
        epoch(made)
    assert any("pipeline 'label'" in n and "FailingOperation" in n for n in caught.value.__notes__)


class FailingCrop(type(small_pipelines()["image"][0])):
    def boxes(self, draws, draw, heights, widths):
        raise ArithmeticError("no box")


def test_an_exception_while_a_batch_is_planned_reaches_the_loop_with_its_place(device, small):
    image = [FailingCrop((24, 24), 0.9), *small_pipelines("cuda:0" if device else None)["image"][1:]]
    with pytest.raises(ArithmeticError, match="no box") as caught:
        epoch(loader(small, device, pipelines={"image": image}))
    assert "while batch 0 of this epoch was planned" in caught.value.__notes__


class OwnOrder(TraversalOrder):
    outcome = None

    def sample_order(self, epoch):
        if epoch == 0 and self.outcome is not None:
            return np.arange(N)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    ("outcome", "error", "words"),
    [
        (ValueError("mine"), ValueError, "mine"),
        ([0, N], PipelineError, rf"OwnOrder.sample_order: {N} is no row of the file, which has {N} samples"),
        ([0, -1], PipelineError, "-1 is no row"),
        ([0.5], PipelineError, "one row of whole numbers, not float64"),
        ([[1], [2]], PipelineError, r"of shape \(2, 1\)"),
    ],
)
def test_an_order_of_one_s_own_that_fails_or_is_none(small, monkeypatch, outcome, error, words):
    monkeypatch.setattr(OwnOrder, "outcome", outcome)
    made = loader(small, order=OwnOrder)
    epoch(made)
    with pytest.raises(error, match=words) as caught:
        iter(made)
    if error is ValueError:
        assert any("OwnOrder.sample_order(1)" in note for note in caught.value.__notes__)


# ---- the consumer


def test_a_slow_consumer_is_waited_for_with_a_few_batches(device, small, good):
    made = loader(small, device, 1, batches_ahead=2)

    def slowly():
        for number, batch in enumerate(made, 1):
            yield batch
            time.sleep(0.02)
            assert made.stats().stages["plan"].calls <= 2 * (number + 2 + iterator.IN_FLIGHT)

    same(joined(made, list(slowly())), good)


@pytest.mark.parametrize("how", ["break", "exception", "del", "close", "with", "cycle"])
def test_an_epoch_that_is_left_leaves_nothing(device, small, how):
    made = loader(small, device)
    if how == "break":
        for _ in made:
            break
    elif how == "exception":
        with contextlib.suppress(ZeroDivisionError):
            for _ in made:
                1 / 0
    elif how == "with":
        with made:
            running = iter(made)
            next(running)
        assert list(running) == []
    else:
        running = iter(made)
        next(running)
        if how == "close":
            made.close()
            assert list(running) == []
        elif how == "cycle":
            holder = [running]
            holder.append(holder)
            del holder
        del running
    gc.collect()
    assert not loader_threads()
    assert sum(1 for _ in made) == len(made)


def test_close_from_another_thread_ends_a_wait(device, small):
    class Slow(torch.nn.Module):
        def forward(self, batch):
            time.sleep(0.5)
            return batch

    image = [*small_pipelines("cuda:0" if device else None)["image"], Slow()]
    made = loader(small, device, pipelines={"image": image})
    running, closing = iter(made), threading.Timer(0.2, made.close)
    closing.start()
    assert len(list(running)) < len(made)
    closing.join()


def test_a_step_that_never_ends_does_not_keep_close_waiting(small, monkeypatch, caplog):
    monkeypatch.setattr(iterator, "PATIENCE", 0.3)
    go_on = threading.Event()

    class Hangs(torch.nn.Module):
        def forward(self, batch):
            go_on.wait(60)
            return batch

    made = loader(small, pipelines={"image": [*small_pipelines()["image"], Hangs()]})
    running = iter(made)
    time.sleep(0.2)
    begun = time.monotonic()
    running.close()
    assert time.monotonic() - begun < 20
    assert any("still busy with a batch" in record.getMessage() for record in caplog.records)
    go_on.set()
    deadline = time.monotonic() + 30
    while loader_threads():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- memory and threads run out


@pytest.mark.parametrize("where", ["CpuDevice.allocate", "Slot.arena", "Slot.scratch"])
def test_memory_that_cannot_be_had_is_an_error_and_the_loader_goes_on(small, good, monkeypatch, where):
    from ffcv_gpu.device import CpuDevice
    from ffcv_gpu.staging import Slot

    owner = {"CpuDevice": CpuDevice, "Slot": Slot}[where.split(".")[0]]
    made = loader(small)
    with monkeypatch.context() as patch:

        def none(*_):
            raise MemoryError("no more")

        patch.setattr(owner, where.split(".")[1], none)
        with pytest.raises(MemoryError, match="no more"):
            epoch(made)
        assert not loader_threads()
    same(epoch(made), good)


@pytest.mark.parametrize("what", ["pinned", "device_bytes", "empty"])
def test_memory_that_a_gpu_does_not_have_is_an_error_and_the_loader_goes_on(gpu, small, good, what):
    fake = gpu()
    made, real = loader(small, {"device": "cuda:0"}, 6), getattr(fake.owner, what)

    def none(*_):
        raise MemoryError("no more")

    setattr(fake.owner, what, none)
    with pytest.raises(OutOfGpuMemory, match=r"cuda:0: no room for .*: lower gpu_memory_gb=.*no more"):
        epoch(made)
    assert not loader_threads()
    setattr(fake.owner, what, real)
    same(epoch(made), good)
    assert fake.device._made == len(fake.device._free) <= fake.device.slots


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_threads_that_cannot_be_had_are_an_error_and_the_loader_goes_on(
    device, small, good, monkeypatch, allowed
):
    made, real, started = loader(small, device), threading.Thread.start, []
    epoch(made)  # a GPU's own thread is there
    with monkeypatch.context() as patch:

        def start(thread):
            started.append(thread)
            if len(started) > allowed:
                raise RuntimeError("can't start new thread")
            real(thread)

        patch.setattr(threading.Thread, "start", start)
        if allowed < 2:
            with pytest.raises(RuntimeError, match="can't start new thread"):
                epoch(made)
        gc.collect()
    same(epoch(made), good)


def test_a_process_without_memory_ends_with_an_error(small):
    result = run(
        f"""
        import resource
        from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder
        image = [CenterCropRGBImageDecoder((8000, 8000), 1.0)]
        pipelines = {{"label": [IntDecoder()], "image": image, "vector": None}}
        made = Loader({str(small)!r}, 20, num_workers=2, pipelines=pipelines)
        next(iter(Loader({str(small)!r}, 2, pipelines={{**pipelines, "image": IMAGE}})))
        size = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30), size + (1 << 30)))
        try:
            list(made)
        except MemoryError:
            print("MemoryError")
        """
    )
    assert result.returncode == 0 and result.stdout.strip() == "MemoryError", result.stderr


# ---- the GPU fails


def test_a_decoder_that_fails_is_an_error_and_the_slots_come_back(gpu, small, good):
    fake = gpu()
    made = loader(small, {"device": "cuda:0"})
    (backend,) = fake.device.backends.values()
    real, calls = backend.submit, []

    def submit(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise NvjpegError("nvjpegDecodeBatched: broken")
        return real(*arguments)

    backend.submit = submit
    with pytest.raises(NvjpegError, match="broken") as caught:
        epoch(made)
    # The first two batches are read at the same time: either may be the second one to be submitted.
    assert re.search("rows 0 to 1 of batch [01] of epoch 0", " ".join(caught.value.__notes__))
    same(epoch(made), good)
    assert fake.device._made == len(fake.device._free) <= fake.device.slots


def test_a_gpu_that_is_lost_is_an_error_for_every_loader_on_it(gpu, small):
    """After a sticky error every call fails: also those that give a slot back, for which others wait."""
    fake = gpu(slots=1)
    one, two = (loader(small, {"device": "cuda:0"}) for _ in range(2))
    epoch(one)
    other = iter(two)
    next(other)
    real = fake.device.stream.record

    def lost(event):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    fake.device.stream.record = lost
    for running in (iter(one), other):
        with pytest.raises(RuntimeError, match="illegal memory access"):
            list(running)
    fake.device.stream.record = real
    gc.collect()
    assert sum(1 for _ in one) == len(one)


# ---- processes and signals

PREAMBLE = """
import os, signal, sys, threading, time
sys.path.insert(0, {root!r})
from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
from ffcv_gpu.loader import Loader
IMAGE = [CenterCropRGBImageDecoder((24, 24), 0.9)]
PIPELINES = {{"label": [IntDecoder()], "image": IMAGE, "vector": None}}
"""


@pytest.fixture(autouse=True)
def _preamble(root):
    global run

    def run(code, **options):
        script = PREAMBLE.format(root=str(root)) + textwrap.dedent(code)
        return subprocess.run(
            [sys.executable, "-X", "faulthandler", "-W", "error", "-c", script],
            capture_output=True,
            text=True,
            timeout=80,
            **options,
        )


def test_ctrl_c_ends_a_wait_at_once_and_leaves_no_thread(small):
    result = run(
        f"""
        import numpy as np
        from ffcv_gpu.loader import job
        job.BatchJob.made = lambda self: time.sleep(2)  # the batch takes long
        made = Loader({str(small)!r}, 2, pipelines=PIPELINES)
        running = iter(made)
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            next(running)
        except KeyboardInterrupt:
            print("interrupted", [t.name for t in threading.enumerate() if "ffcv" in t.name])
        """
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "interrupted []"


@pytest.mark.parametrize("gpu_too", [False, True], ids=["cpu", "gpu"])
def test_a_program_may_end_in_the_middle_of_an_epoch(small, gpu_too):
    result = run(
        f"""
        options = {{}}
        if {gpu_too}:
            from tests.fake_gpu import FakeGpu
            from ffcv_gpu.loader import assembly as module, placement
            from ffcv_gpu.native import nvjpeg_library
            fake = FakeGpu()
            placement.require_device = lambda name: None
            module.gpu_device = lambda name: fake.device
            nvjpeg_library.library = fake.nvjpeg.as_library
            options = {{"device": "cuda:0"}}
        made = Loader({str(small)!r}, 1, batches_ahead=4, num_workers=2, pipelines=PIPELINES, **options)
        first, second = iter(made), iter(made)
        for _ in range(3):
            next(first), next(second)
        print("end of the program")
        """
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "end of the program" and not result.stderr


def test_a_forked_child_begins_epochs_of_its_own(small):
    result = run(
        f"""
        made = Loader({str(small)!r}, 2, num_workers=2, drop_last=False, pipelines=PIPELINES)
        running = iter(made)
        next(running)
        made._clock._sums.lock.acquire(), made._slots._lock.acquire()  # as a thread of the parent may just do
        running._run.handoff._changed.acquire()
        child = os.fork()
        if child == 0:
            try:
                next(running)
            except ValueError as error:
                print(str(error)[:46], flush=True)
            labels = [int(v) for batch in made for v in batch[1][:, 0]]
            print(labels == list(range({N})), flush=True)
            del running
            sys.exit(0)
        made._clock._sums.lock.release(), made._slots._lock.release()
        running._run.handoff._changed.release()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 1 + sum(1 for _ in running) == len(made))
        """
    )
    assert result.returncode == 0, result.stderr
    expected = ["this epoch was begun by another process, where", "True", "0 True"]
    assert result.stdout.splitlines() == expected, result.stderr


def test_a_loader_with_a_gpu_is_refused_in_a_forked_child(gpu, small, monkeypatch):
    gpu()
    made = loader(small, {"device": "cuda:0"})
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(PipelineError, match="no GPU survives a fork; make it in the child"):
        iter(made)
