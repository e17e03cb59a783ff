"""After a kill at any instant, the path has the old complete file, the new complete one, or nothing.

At each of the writer's own system calls, one by one; and at random instants, from outside.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ffcv_gpu.errors import FormatError, WriteError
from ffcv_gpu.fields import BytesField, IntField
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton, verify_structure
from ffcv_gpu.writer import DatasetWriter

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

FORK = multiprocessing.get_context("fork")
FIELDS = {"text": BytesField(), "label": IntField()}


class Texts:
    """300 byte strings, 9 MB in all, some slow to come."""

    def __len__(self):
        return 300

    def __getitem__(self, k):
        if k % 50 == 7:
            time.sleep(0.002)
        return bytes([k % 251]) * (k * 200), k


def write(path, workers=1, resume=False, append=False, chunksize=20):
    writer = DatasetWriter(path, FIELDS, MIN_PAGE_SIZE, workers, progress=False, resume=resume)
    put = writer.append if append else writer.from_indexed_dataset
    return put(Texts(), chunksize=chunksize)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Bytes of the new file, of the old one, and of the old one with the new samples appended."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder / "new")
    DatasetWriter(folder / "old", FIELDS, MIN_PAGE_SIZE, 1).from_indexed_dataset([(b"old", -1)])
    old = (folder / "old").read_bytes()
    write(folder / "old", append=True)
    return {"new": (folder / "new").read_bytes(), "old": old, "both": (folder / "old").read_bytes()}


def check_folder(path, expected):
    """The path has one of the `expected` contents (None: nothing); readers reject any other files."""
    found = path.read_bytes() if path.exists() else None
    assert found in expected, f"{len(found)} bytes of something else"
    for left in path.parent.iterdir():
        if left == path or left.name.endswith(".journal"):
            continue
        assert left.name.startswith(f".{path.name}.") and left.name.endswith((".tmp", ".partial"))
        with contextlib.suppress(FormatError):
            # Complete already, and killed before the rename: then it must be intact.
            assert verify_structure(open_beton(left)) == []
            assert left.read_bytes() in expected
    return found


# ---- at each system call


def die_at_call(path, number, resume, append):
    """Write, and die before the `number`-th call that changes a file, if there are that many."""
    calls = [0]
    for name in ("pwrite", "ftruncate", "fsync", "close", "replace", "unlink"):
        real = getattr(os, name)

        def call(*arguments, real=real, **options):
            calls[0] += 1
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(os, name, call)
    write(path, resume=resume, append=append, chunksize=1000)


@pytest.mark.parametrize(("resume", "append"), [(False, False), (True, False), (True, True)])
def test_killed_at_each_of_its_system_calls(tmp_path, whole, resume, append):
    path = tmp_path / "a.beton"
    outcomes, exitcode = Counter(), -signal.SIGKILL
    for number in itertools.count(1):
        path.write_bytes(whole["old"])
        child = FORK.Process(target=die_at_call, args=(path, number, resume, append))
        child.start()
        child.join(60)
        exitcode = child.exitcode
        found = check_folder(path, [whole["old"], whole["both" if append else "new"]])
        outcomes["old" if found == whole["old"] else "new"] += 1
        if exitcode != -signal.SIGKILL:
            break
    assert exitcode == 0
    assert outcomes["old"] > 10 and outcomes["new"] > 1
    # The next one cleans up after all of them.
    write(path, resume=resume)
    assert os.listdir(tmp_path) == ["a.beton"] and path.read_bytes() == whole["new"]


# ---- at random instants


def attempt(path, rng, seconds, options):
    """Start a writer, kill it (or one of its workers) at a random instant; return who was killed and how."""
    child = FORK.Process(target=quietly, args=(path, options))
    child.start()
    time.sleep(rng.uniform(0, 1.2 * seconds))
    victim = child.pid
    workers = children_of(child.pid)
    if workers and rng.random() < 0.3:
        victim = rng.choice(workers)
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    how = signal.SIGKILL if victim != child.pid else rng.choice(signals)
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, how)
    child.join(60)
    assert child.exitcode is not None, "the writer hangs"
    return ("worker" if victim != child.pid else "writer"), child.exitcode


def quietly(path, options):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        write(path, **options)
    except WriteError as error:
        os._exit(3 if "SIGKILL" in str(error) else 5)
    except KeyboardInterrupt:
        os._exit(4)


def children_of(pid):
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def timed(path):
    began = time.perf_counter()
    write(path, workers=2)
    return time.perf_counter() - began


def kill_many(folder, whole, count, seed):
    path, rng, outcomes = folder / "a.beton", random.Random(seed), Counter()
    seconds = min(timed(path) for _ in range(3))
    options = {"append": False}
    while outcomes["killed"] < count:
        last, append = options["append"], rng.random() < 0.3
        options = {"workers": rng.choice([1, 2, 2]), "resume": rng.random() < 0.3, "append": append}
        before = whole["old"] if options["append"] or rng.random() < 0.7 else None
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before)
        if append != last or not options["resume"]:
            for left in folder.glob(".a.beton.*"):
                left.unlink()
        who, code = attempt(path, rng, seconds, options)
        after = whole["both" if options["append"] else "new"]
        expected = [before, after] if code else [after]
        found = check_folder(path, expected)
        outcomes["new" if found == after else "old" if found else "none"] += 1
        assert code in (0, 1, 3, 4, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
        outcomes["killed" if code else "was through before"] += 1
        outcomes[f"{who}, status {code}"] += 1
    return outcomes


def test_killed_at_random_instants(tmp_path, whole):
    outcomes = kill_many(tmp_path, whole, 6, 0)
    assert outcomes["old"] + outcomes["none"] >= 1


@pytest.mark.long
def test_killed_200_times_at_random_instants(tmp_path, whole, capsys):
    outcomes = kill_many(tmp_path, whole, 200, 1)
    with capsys.disabled():
        print(f"\n200 kills: {json.dumps(dict(sorted(outcomes.items())))}")
    assert outcomes["old"] + outcomes["none"] >= 60
    write(tmp_path / "a.beton")
    assert (tmp_path / "a.beton").read_bytes() == whole["new"]
    np.testing.assert_array_equal(open_beton(tmp_path / "a.beton").column("label"), np.arange(300))


class Deadly(Texts):
    """Kills the process that requests too many samples."""

    def __init__(self, most):
        self.left = most

    def __getitem__(self, k):
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return super().__getitem__(k)


def write_until_killed(path, workers, most):
    writer = DatasetWriter(path, FIELDS, MIN_PAGE_SIZE, workers, progress=False, resume=True)
    try:
        writer.from_indexed_dataset(Deadly(most), chunksize=20)
    except WriteError:
        os._exit(3)


@pytest.mark.parametrize(("workers", "most"), [(1, 150), (2, 45)])
def test_a_killed_conversion_goes_on_and_loses_nothing(tmp_path, whole, workers, most):
    """Killed repeatedly, each run gets further; the file is that of a single run."""
    path, exits = tmp_path / "a.beton", []
    while len(exits) < 20 and exits[-1:] != [0]:
        child = FORK.Process(target=write_until_killed, args=(path, workers, most))
        child.start()
        child.join(60)
        exits.append(child.exitcode)
        assert path.exists() == (exits[-1] == 0)
    assert path.read_bytes() == whole["new"]
    assert len(exits) > 2 and set(exits[:-1]) == {-signal.SIGKILL if workers == 1 else 3}
