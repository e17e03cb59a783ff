"""Progress: per sample, on request, silent otherwise."""

from __future__ import annotations

import importlib.util
import multiprocessing
import time

import pytest
from rich.console import Console

from ffcv_gpu.fields import IntField
from ffcv_gpu.writer import DatasetWriter
from ffcv_gpu.writer.progress import Progress


class Slow:
    def __getitem__(self, index):
        time.sleep(0.01)
        return (index,)

    def __len__(self):
        return 60


def write(tmp_path, workers, progress, **options):
    fields = {"x": IntField()}
    writer = DatasetWriter(tmp_path / "a.beton", fields, num_workers=workers, progress=progress, **options)
    return writer.from_indexed_dataset(Slow())  # one chunk of 100 holds them all


@pytest.mark.parametrize("workers", [1, 2])
def test_a_function_is_told_sample_by_sample(tmp_path, workers):
    calls, told = [], multiprocessing.get_context("fork").Event()

    class Waits(Slow):
        def __getitem__(self, index):
            if index == 20:  # in the middle of a chunk
                assert told.wait(60), "progress is reported within a chunk, not only at its end"
            return super().__getitem__(index)

    def hear(done, total):
        calls.append((done, total))
        if done not in (0, 30):
            told.set()

    writer = DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, num_workers=workers, progress=hear)
    writer.from_indexed_dataset(Waits(), chunksize=30)
    done = [d for d, _ in calls]
    assert done == sorted(done) and calls[-1] == (60, 60) and {total for _, total in calls} == {60}


def test_nothing_is_printed_when_nobody_looks(tmp_path, capfd):
    for progress in (None, False):
        write(tmp_path, 1, progress)
    assert capfd.readouterr() == ("", "")


def test_a_bar_on_request(tmp_path, capfd):
    write(tmp_path, 1, True)
    out, err = capfd.readouterr()
    assert out == "" and "60/60" in err


def test_a_bar_on_a_terminal(monkeypatch):
    assert not Progress(None, 5).wanted
    monkeypatch.setattr(Console, "is_terminal", True)
    assert Progress(None, 5).wanted
    assert not Progress(False, 5).wanted


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_in_the_function_ends_the_writing(tmp_path, error):
    """It is raised unchanged: it is not the fault of a sample, which would be skipped."""

    def stop(done, total):
        if done < total:
            raise error

    with pytest.raises(error):
        write(tmp_path, 1, stop, on_error="skip")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("widgets", [True, False])
def test_a_bar_in_a_notebook_that_can_show_it(monkeypatch, widgets):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    found = importlib.util.find_spec("json") if widgets else None
    monkeypatch.setattr("ffcv_gpu.writer.progress.find_spec", lambda name: found)
    assert Progress(None, 5).wanted == widgets
    assert Progress(True, 5).wanted
