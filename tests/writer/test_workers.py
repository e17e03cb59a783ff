"""The same input gives the same file with any number and kind of workers, and nothing is left behind."""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np
import pytest

from ffcv_gpu.errors import FormatError, PipelineError, SampleError, WriteError
from ffcv_gpu.fields import BytesField, IntField, RGBImageField
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton, verify_structure
from ffcv_gpu.jpeg import rewrite
from ffcv_gpu.kernels.shrink_cpu import shrink_rows
from ffcv_gpu.writer import DatasetWriter
from ffcv_gpu.writer.workers import WorkerPool


class Photos:
    """JPEG bytes, pixels, and byte strings of very different sizes; some samples are slow."""

    def __init__(self, jpegs, photos):
        self.jpegs, self.photos = jpegs, photos

    def __len__(self):
        return 90

    def __getitem__(self, k):
        if k % 17 == 3:
            time.sleep(0.02)
        image = self.jpegs[k % len(self.jpegs)] if k % 3 else self.photos[k % len(self.photos)]
        return image, k, bytes([k]) * (k % 5 * 40_000)


FIELDS = {"image": RGBImageField("proportion", 100), "label": IntField(), "text": BytesField()}


@pytest.fixture(scope="module")
def photos(make_jpeg, make_photo):
    jpegs = [make_jpeg(90 + 9 * k, 120, k, progressive=k == 3) for k in range(5)]
    return Photos(jpegs, [make_photo(200, 300 + k, k) for k in range(4)])


@pytest.fixture(scope="module")
def reference(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "a.beton"
    DatasetWriter(path, FIELDS, MIN_PAGE_SIZE, 1, progress=False).from_indexed_dataset(photos)
    assert verify_structure(open_beton(path)) == []
    return path.read_bytes()


def open_files():
    """Return how many files this process has open."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("chunksize", [1, 7, 100])
def test_the_file_does_not_depend_on_the_workers(tmp_path, photos, reference, workers, chunksize):
    path = tmp_path / "b.beton"
    for progress in (False, lambda done, total: None):
        writer = DatasetWriter(path, FIELDS, MIN_PAGE_SIZE, workers, progress=progress)
        writer.from_indexed_dataset(photos, chunksize=chunksize)
        assert path.read_bytes() == reference


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_ways_to_start_processes(tmp_path, photos, reference, method):
    path = tmp_path / "b.beton"
    context = multiprocessing.get_context(method)
    # Datasets must be importable in newly started processes; this module is not.
    dataset = list(map(photos.__getitem__, range(len(photos))))
    DatasetWriter(path, FIELDS, MIN_PAGE_SIZE, 2, progress=False, mp_context=context).from_indexed_dataset(
        dataset, chunksize=10
    )
    assert path.read_bytes() == reference


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_cannot_be_pickled_needs_fork(tmp_path, method):
    class Local(list):
        pass

    writer = DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, num_workers=2, mp_context=method)
    with pytest.raises(
        PipelineError, match=rf"mp_context='{method}' needs a dataset .* pickled .*Local.*; 'fork' does not"
    ):
        writer.from_indexed_dataset(Local([(1,)] * 300))
    assert os.listdir(tmp_path) == []
    before = open_files()
    for _ in range(3):
        with contextlib.suppress(PipelineError):
            writer.from_indexed_dataset(Local([(1,)] * 300))
    assert open_files() == before


class Unimportable(list):
    """As a class of a notebook is for a process that was not forked from it."""

    def __reduce__(self):
        return os._exit, (1,)


def test_what_a_new_process_cannot_import(tmp_path):
    writer = DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, num_workers=2, mp_context="spawn")
    with pytest.raises(WriteError, match=r"status 1 before its first sample; .* mp_context='spawn'"):
        writer.from_indexed_dataset(Unimportable([(1,)] * 300))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_file_does_not_depend_on_what_is_compiled(tmp_path, photos, reference, workers, monkeypatch):
    """OpenCV shrank the reference; these processes use the compiled kernel, and compile nothing."""
    monkeypatch.setattr(rewrite, "_compiled", None)
    rewrite.load_compiled_resizer()
    used = multiprocessing.Value("i", 0)

    def counted(*arguments, compiled=rewrite._compiled):
        before = len(shrink_rows.signatures)
        result = compiled(*arguments)
        with used.get_lock():
            used.value += 1 if len(shrink_rows.signatures) == before else 1_000_000
        return result

    monkeypatch.setattr(rewrite, "_compiled", counted)
    path = tmp_path / "b.beton"
    DatasetWriter(path, FIELDS, MIN_PAGE_SIZE, workers, progress=False).from_indexed_dataset(
        photos, chunksize=9
    )
    assert path.read_bytes() == reference
    assert 30 < used.value <= 90


@pytest.mark.parametrize(
    ("workers", "method", "expected"), [(1, "fork", [6]), (2, "fork", [3]), (2, "spawn", [])]
)
def test_fields_hear_how_many_samples_a_process_will_have(tmp_path, workers, method, expected, monkeypatch):
    told = []
    monkeypatch.setattr(IntField, "expect", lambda self, samples: told.append(samples))
    writer = DatasetWriter(
        tmp_path / "b.beton", {"x": IntField()}, num_workers=workers, progress=False, mp_context=method
    )
    writer.from_indexed_dataset([(k,) for k in range(6)], chunksize=1)
    assert told == expected


def test_samples_larger_than_a_part(tmp_path):
    samples = [(np.full((1000, 2000 + k, 3), k, np.uint8),) for k in range(5)]
    files = []
    for workers in (1, 2):
        path = tmp_path / f"{workers}.beton"
        writer = DatasetWriter(path, {"image": RGBImageField()}, 1 << 23, workers)
        assert writer.from_indexed_dataset(samples, chunksize=3).bytes > 5 << 23
        files.append(path.read_bytes())
        beton = open_beton(path)
        for k, offset in enumerate(beton.offsets("image")):
            assert files[-1][offset : offset + 3000 * (2000 + k)] == bytes([k]) * (3000 * (2000 + k))
    assert files[0] == files[1]


def test_the_generator_of_numpy_does_not_decide_the_modes(tmp_path, photos, reference):
    path = tmp_path / "b.beton"
    np.random.seed(123)  # noqa: NPY002
    DatasetWriter(path, FIELDS, MIN_PAGE_SIZE, 2, progress=False).from_indexed_dataset(photos)
    assert path.read_bytes() == reference


# ---- failures


class Misbehaves:
    """Sample 37 does what it is told to; all others are fine."""

    def __init__(self, how):
        self.how = how

    def __len__(self):
        return 80

    def __getitem__(self, k):
        return (self.how() if k == 37 else k,)


class Own(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, one, two):
        super().__init__(one)


def no_key():
    return {}["no such key"]


def own():
    raise Own("mine", 2)


def leave():
    raise SystemExit(3)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def vanish():
    os._exit(7)


def attempt(folder, dataset, workers, fields=None, **options):
    """Write over an old file; return the exception, having checked that nothing is left."""
    path = folder / "a.beton"
    path.write_bytes(b"old")
    threads = set(threading.enumerate())
    began = time.monotonic()
    writer = DatasetWriter(path, fields or {"x": IntField()}, MIN_PAGE_SIZE, workers, progress=False)
    with pytest.raises((SampleError, WriteError, PipelineError)) as caught:
        writer.from_indexed_dataset(dataset, chunksize=10, **options)
    assert time.monotonic() - began < 60
    assert path.read_bytes() == b"old" and os.listdir(folder) == ["a.beton"]
    assert multiprocessing.active_children() == [] and threads.issuperset(threading.enumerate())
    return caught.value


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_an_exception_of_the_dataset(tmp_path, workers):
    error = attempt(tmp_path, Misbehaves(no_key), workers)
    assert type(error) is SampleError
    assert "sample 37 (dataset[37]): the dataset raised KeyError: 'no such key'" in str(error)
    assert "indices=" in str(error)
    assert isinstance(error.__cause__, KeyError)
    if workers > 1:
        assert "in no_key" in "".join(error.__notes__)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_datasets_own_index_is_named(tmp_path, workers):
    error = attempt(tmp_path, Misbehaves(no_key), workers, indices=[5, 6, 37, 8] * 10)
    assert "(dataset[37])" in str(error) and "sample " in str(error)


def test_an_exception_that_cannot_be_pickled(tmp_path):
    error = attempt(tmp_path, Misbehaves(own), 2)
    assert "sample 37 (dataset[37]): the dataset raised Own: mine" in str(error)
    assert "in own" in "".join(error.__notes__)


def of_a_module_of_its_own():
    """As a library does that makes its exceptions, or loads its modules, while it runs."""
    module = sys.modules["only_here"] = types.ModuleType("only_here")
    module.Late = type("Late", (Exception,), {"__module__": "only_here"})
    raise module.Late("what went wrong")


def test_an_exception_whose_class_only_the_worker_has(tmp_path):
    error = attempt(tmp_path, Misbehaves(of_a_module_of_its_own), 2)
    assert "sample 37 (dataset[37]): the dataset raised Late: what went wrong" in str(error)
    assert "in of_a_module_of_its_own" in "".join(error.__notes__)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (die, r"was killed by SIGKILL while at sample 37 \(dataset\[37\]\).*num_workers"),
        (vanish, r"exited with status 7 while at sample 37"),
        (leave, "stopped: SystemExit: 3"),
    ],
)
@pytest.mark.parametrize("workers", [2, 3])
def test_a_worker_that_dies(tmp_path, how, says, workers):
    error = attempt(tmp_path, Misbehaves(how), workers)
    assert type(error) is WriteError
    assert re.search(says, str(error))


def test_a_worker_killed_from_outside(tmp_path):
    """While the others continue: the death is noticed at once, not when the next part is due."""

    class Waits:
        def __len__(self):
            return 40

        def __getitem__(self, k):
            (tmp_path / f"pid.{os.getpid()}").touch()
            time.sleep(60)
            return (k,)

    path = tmp_path / "a.beton"
    killed = []

    def kill(done, total):
        pids = [int(p.suffix[1:]) for p in tmp_path.glob("pid.*")]
        if pids and not killed:
            os.kill(pids[0], signal.SIGKILL)
            killed.append(time.monotonic())

    writer = DatasetWriter(path, {"x": IntField()}, num_workers=2, progress=kill)
    with pytest.raises(WriteError, match="SIGKILL while at sample"):
        writer.from_indexed_dataset(Waits(), chunksize=20)
    assert time.monotonic() - killed[0] < 30
    assert not path.exists() and multiprocessing.active_children() == []


def test_ctrl_c_ends_the_workers(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    class Slow:
        def __len__(self):
            return 10_000

        def __getitem__(self, k):
            time.sleep(0.01)
            return (k,)

    writer = DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, num_workers=2, progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        writer.from_indexed_dataset(Slow())
    assert os.listdir(tmp_path) == [] and multiprocessing.active_children() == []


def test_a_worker_that_dies_with_a_process_of_its_own_alive(tmp_path):
    """The child holds the worker's pipes open, so that they do not report its death."""

    class Forks:
        def __len__(self):
            return 40

        def __getitem__(self, k):
            if k == 5:
                if (child := os.fork()) == 0:
                    time.sleep(60)
                    os._exit(0)
                (tmp_path / "child").write_text(str(child))
                os.kill(os.getpid(), signal.SIGKILL)
            return (k,)

    began = time.monotonic()
    writer = DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, num_workers=2)
    with pytest.raises(WriteError, match="SIGKILL while at sample 5"):
        writer.from_indexed_dataset(Forks(), chunksize=20)
    assert time.monotonic() - began < 30
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_a_worker_that_dies_within_a_message_with_a_process_of_its_own_alive(tmp_path, monkeypatch):
    """The rest of the message does not come, and the child must not keep the parent waiting for it."""
    real, ours = Connection._send, os.getpid()

    def send(connection, data):
        if os.getpid() != ours and len(data) > 10_000:
            os.write(connection.fileno(), bytes(data[:5000]))
            die()
        real(connection, data)

    class Forks:
        child = None  # of this process

        def __len__(self):
            return 4000

        def __getitem__(self, k):
            if self.child is None:
                self.child = os.fork()
                if self.child == 0:
                    time.sleep(12)
                    os._exit(0)
            return (k,)

    monkeypatch.setattr(Connection, "_send", send)
    began = time.monotonic()
    writer = DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, num_workers=2)
    with pytest.raises(WriteError, match="SIGKILL while at sample"):
        writer.from_indexed_dataset(Forks(), chunksize=1000)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("moment", ["start", "range", "leave"])
def test_ctrl_c_while_the_workers_start_or_leave(tmp_path, monkeypatch, moment, method):
    """No worker stays, and no descriptor: in a notebook, this process lives on."""
    owner, name, number = {
        "start": (BaseProcess, "start", 2),
        "range": (WorkerPool, "_give_range", 2),
        "leave": (time, "sleep", 1),
    }[moment]
    calls, real = itertools.count(1), getattr(owner, name)

    def interrupted(*arguments):
        real(*arguments)
        if next(calls) == number:
            raise KeyboardInterrupt

    writer = DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, num_workers=2, mp_context=method)
    writer.from_indexed_dataset([(k,) for k in range(40)], chunksize=10)  # starts what is started once
    before = open_files()
    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.from_indexed_dataset([(k,) for k in range(40)], chunksize=10)
    assert multiprocessing.active_children() == []
    assert open_files() == before
    assert os.listdir(tmp_path) == ["a.beton"]


def test_a_thread_that_the_dataset_left_running_does_not_keep_the_file_from_being_finished(
    tmp_path, monkeypatch
):
    class Threaded:
        def __len__(self):
            return 40

        def __getitem__(self, k):
            if k % 20 == 0:
                threading.Thread(target=time.sleep, args=(60,)).start()
            return (k,)

    monkeypatch.setattr("ffcv_gpu.writer.workers._LEAVE_SECONDS", 0.2)
    began = time.monotonic()
    path = tmp_path / "a.beton"
    DatasetWriter(path, {"x": IntField()}, num_workers=2).from_indexed_dataset(Threaded(), chunksize=20)
    assert time.monotonic() - began < 40
    assert open_beton(path).num_samples == 40 and multiprocessing.active_children() == []


ORPHANS = """
import os, sys, time
from ffcv_gpu.fields import IntField
from ffcv_gpu.writer import DatasetWriter

class Slow:
    def __len__(self):
        return 100_000

    def __getitem__(self, k):
        if k < 2:  # the first of each process
            os.write(1, b"%d\\n" % os.getpid())  # in one go: both processes write here
        time.sleep(60 if k == 1 and sys.argv[2] == "hangs" else 0.001)
        return (k,)

DatasetWriter(sys.argv[1], {"x": IntField()}, num_workers=2).from_indexed_dataset(Slow())
"""


@pytest.mark.parametrize("last", ["works", "hangs"])
def test_workers_end_when_their_parent_is_killed(tmp_path, last):
    command = [sys.executable, "-c", ORPHANS, str(tmp_path / "a.beton"), last]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
    deadline = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []
    # Every reader rejects the unfinished file.
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.beton.") and left.name.endswith(".tmp")
    with pytest.raises(FormatError):
        open_beton(left)


FEW_FILES = """
import os, resource, sys
from ffcv_gpu.errors import WriteError
from ffcv_gpu.fields import IntField
from ffcv_gpu.writer import DatasetWriter

path, context = sys.argv[1:]
writer = DatasetWriter(path, {"label": IntField()}, num_workers=12, progress=False, mp_context=context)
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
taken = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 8, limits[1]))
try:
    writer.from_indexed_dataset([(i,) for i in range(100)], chunksize=1)
except WriteError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
print(open(path).read(), os.listdir(os.path.dirname(path)))
"""


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_too_many_open_files(tmp_path, context):
    """The limit is reached while the processes start: the old file stays, and nothing else is left."""
    (tmp_path / "a.beton").write_text("the old file")
    program = [sys.executable, "-c", FEW_FILES, str(tmp_path / "a.beton"), context]
    found = subprocess.run(program, capture_output=True, text=True, timeout=60)
    said, left = found.stdout.splitlines()
    assert said.startswith("[Errno 24] cannot start 12 writer processes: Too many open files; raise the")
    assert left == "the old file ['a.beton']"
    assert found.stderr == ""
