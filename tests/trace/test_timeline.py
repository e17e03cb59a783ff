"""``loader.trace()``: the file that Perfetto reads, what is in it, and what happens to it on errors."""

from __future__ import annotations

import errno
import json
import threading
from itertools import pairwise

import pytest

from ffcv_gpu.trace import StageClock, Timeline


def spans(path):
    return [event for event in json.loads(path.read_text())["traceEvents"] if event["ph"] == "X"]


@pytest.mark.usefixtures("single_batches")
def test_every_stage_of_every_batch_is_there_in_its_thread(make_loader, tmp_path):
    loader, path = make_loader(), tmp_path / "trace.json"
    with loader.trace(path):
        for _ in range(2):
            assert len(list(loader)) == 6
    found = spans(path)
    stats = loader.stats()
    for stage, time in stats.stages.items():
        mine = [span for span in found if span["name"] == stage]
        assert len(mine) == time.calls
        assert sum(span["dur"] for span in mine) == pytest.approx(time.seconds * 1e6)
        assert sum(span["args"]["samples"] for span in mine) == time.items
    assert {"plan", "read", "check", "decode", "compose", "finish", "wait", "ahead"} <= set(stats.stages)
    batches = {(span["args"]["epoch"], span["args"]["batch"]) for span in found if span["name"] == "decode"}
    assert batches == {(epoch, batch) for epoch in range(2) for batch in range(6)}


def test_threads_have_their_names_and_spans_of_one_do_not_overlap(make_loader, tmp_path):
    path = tmp_path / "trace.json"
    with make_loader().trace(path):
        pass
    assert spans(path) == []
    loader = make_loader()
    with loader.trace(path):  # the old file is replaced
        list(loader)
    events = json.loads(path.read_text())["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    by_stage = {span["name"]: names[span["tid"]] for span in spans(path)}
    assert by_stage["wait"] == "MainThread"
    assert by_stage["plan"] == "ffcv_gpu-conductor"
    assert by_stage["decode"].startswith("ffcv_gpu-worker")
    for thread in names:
        mine = sorted((s["ts"], s["ts"] + s["dur"]) for s in spans(path) if s["tid"] == thread)
        assert all(end <= start + 1 for (_, end), (start, _) in pairwise(mine))


def test_memory_is_bounded_and_what_is_missing_is_said(tmp_path):
    clock, path = StageClock(), tmp_path / "trace.json"
    with Timeline(clock, path, max_spans=10):
        for number in range(25):
            with clock.of_batch(number, 3).span("decode", items=1):
                pass
    assert [span["args"]["batch"] for span in spans(path)] == list(range(15, 25))
    assert json.loads(path.read_text())["otherData"] == {"spans": 10, "earlier_spans_left_out": 15}


def test_afterwards_nobody_watches_and_an_exception_still_leaves_a_file(tmp_path):
    clock, path = StageClock(), tmp_path / "trace.json"
    with pytest.raises(KeyError), Timeline(clock, path), clock.span("decode"):
        raise KeyError
    with clock.span("decode"):
        pass
    assert len(spans(path)) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["trace.json"]  # no part left


def test_a_missing_folder_shows_before_the_epoch(make_loader, tmp_path):
    loader = make_loader()
    with pytest.raises(FileNotFoundError), loader.trace(tmp_path / "no" / "trace.json"):
        pass
    list(loader)
    assert loader.stats().stages["decode"].items == 24


def test_a_folder_of_that_name_shows_before_the_epoch(tmp_path):
    (tmp_path / "trace").mkdir()
    with pytest.raises(IsADirectoryError, match="trace"), Timeline(StageClock(), tmp_path / "trace"):
        pytest.fail("the block was entered")
    assert [path.name for path in tmp_path.iterdir()] == ["trace"]


def test_a_relative_path_is_meant_where_it_was_given(make_loader, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with make_loader().trace("trace.json"):
        monkeypatch.chdir("elsewhere")
    assert spans(tmp_path / "trace.json") == []


def test_of_a_file_that_cannot_be_written_nothing_is_left(tmp_path, monkeypatch):
    def full(path, text, encoding):
        path.write_bytes(text[:10].encode(encoding))
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "trace.json"
    path.write_text("old")
    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space left"), Timeline(StageClock(), path):
        pass
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_threads_without_spans_are_left_out(tmp_path):
    """Each epoch has threads of its own: of a long run, only those of the spans that are kept."""
    clock, path = StageClock(), tmp_path / "trace.json"

    def work(name):
        with clock.span(name):
            pass

    with Timeline(clock, path, max_spans=2):
        for number in range(5):
            thread = threading.Thread(target=work, args=(f"stage {number}",), name=f"thread {number}")
            thread.start()
            thread.join()
    events = json.loads(path.read_text())["traceEvents"]
    # The system may use one id twice; then the later name is right.
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names <= {"thread 3", "thread 4"} and "thread 4" in names
