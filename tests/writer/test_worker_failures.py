"""Writer processes that fail, die or are interrupted: each ends in one clear error, and leaves nothing."""

from __future__ import annotations

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

import pytest

from ffcv_gpu.errors import FormatError, PipelineError, SampleError, WriteError
from ffcv_gpu.fields import IntField
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton
from ffcv_gpu.writer import DatasetWriter
from ffcv_gpu.writer.workers import WorkerPool
from tests.processes import alive, within
from tests.small_file import open_files


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


def fork_one_that_stays(folder):
    """Until there is a file `over`, for four minutes at most."""
    if child := os.fork():
        (folder / f"child.{child}").touch()
        return
    for _ in range(4800):
        if (folder / "over").exists():
            break
        time.sleep(0.05)
    os._exit(0)


def those_that_stayed(folder):
    """Of each of those processes, whether it is still there: nobody has waited for it. Ends them."""
    found = [alive(int(path.suffix[1:])) for path in folder.glob("child.*")]
    (folder / "over").touch()
    return found


def test_a_worker_that_dies_with_a_process_of_its_own_alive(tmp_path):
    """The child holds the worker's pipes open, so that they do not report its death."""

    class Forks:
        def __len__(self):
            return 40

        def __getitem__(self, k):
            if k == 5:
                fork_one_that_stays(tmp_path)
                os.kill(os.getpid(), signal.SIGKILL)
            return (k,)

    writer = DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, num_workers=2)
    with pytest.raises(WriteError, match="SIGKILL while at sample 5"):
        writer.from_indexed_dataset(Forks(), chunksize=20)
    assert those_that_stayed(tmp_path) == [True]


def test_a_worker_that_dies_within_a_message_with_a_process_of_its_own_alive(tmp_path, monkeypatch):
    """The rest of the message does not come, and the child must not keep the parent waiting for it."""
    real, ours = Connection._send, os.getpid()

    def send(connection, data):
        if os.getpid() != ours and len(data) > 10_000:
            os.write(connection.fileno(), bytes(data[:5000]))
            die()
        real(connection, data)

    class Forks:
        forked = False  # of this process

        def __len__(self):
            return 4000

        def __getitem__(self, k):
            if not self.forked:
                fork_one_that_stays(tmp_path)
                self.forked = True
            return (k,)

    monkeypatch.setattr(Connection, "_send", send)
    writer = DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, num_workers=2)
    with pytest.raises(WriteError, match="SIGKILL while at sample"):
        writer.from_indexed_dataset(Forks(), chunksize=1000)
    assert {*those_that_stayed(tmp_path)} == {True}


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("moment", ["start", "range", "leave"])
def test_ctrl_c_while_the_workers_start_or_leave(tmp_path, monkeypatch, moment, method):
    """No worker stays, and no descriptor: in a notebook, this process lives on.

    "leave": as it begins to wait for the workers, which may all have left by then.
    """
    clock = types.SimpleNamespace(monotonic=time.monotonic, sleep=time.sleep)
    monkeypatch.setattr("ffcv_gpu.writer.workers.time", clock)
    owner, name, number = {
        "start": (BaseProcess, "start", 2),
        "range": (WorkerPool, "_give_range", 2),
        "leave": (clock, "monotonic", 1),
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
    assert open_files() <= before
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
    within(lambda: not any(map(alive, pids)))
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
