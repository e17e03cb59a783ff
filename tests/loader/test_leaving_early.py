"""Epochs that are left, closed, dropped or waited for: a few batches are made ahead, and no thread stays."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref

import pytest
import torch

from ffcv_gpu.loader import iterator, weights
from ffcv_gpu.loader.job import BatchJob
from tests.small_file import (
    at_rest,
    epoch,
    joined,
    loader_threads,
    no_thread_soon,
    run_program,
    same,
    small_loader,
    small_pipelines,
    until_the_loop_waits,
)

pytestmark = [pytest.mark.timeout(200), pytest.mark.usefixtures("no_thread_is_left")]


def test_a_slow_consumer_is_waited_for_with_a_few_batches(device, small, good):
    made = small_loader(small, device, 1, batches_ahead=2)

    def slowly():
        for number, batch in enumerate(made, 1):
            yield batch
            time.sleep(0.02)
            assert made.stats().stages["plan"].calls <= 2 * (number + 2 + weights.IN_FLIGHT)

    same(joined(made, list(slowly())), good)


@pytest.mark.parametrize("how", ["break", "exception", "del", "close", "with", "cycle"])
def test_an_epoch_that_is_left_leaves_nothing(device, small, how):
    made = small_loader(small, device)
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
    if how == "cycle":
        no_thread_soon()  # the garbage collector waits for nobody
    assert not loader_threads()
    assert sum(1 for _ in made) == len(made)


@pytest.mark.parametrize("how", ["whole", "break", "close", "with"])
def test_a_dropped_loader_frees_its_memory_without_the_garbage_collector(device, small, how):
    """Cycles keep hundreds of megabytes and an open file for each loader made in a notebook's cell."""
    made = small_loader(small, device)
    gc.collect()
    gc.disable()
    try:
        running = iter(made)
        batch = next(running)
        if how == "whole":
            for batch in running:  # noqa: B007 (kept until the loader is gone)
                pass
        elif how == "close":
            made.close()
        elif how == "with":
            with made:
                pass
        held = [weakref.ref(part) for part in (made, made.dataset, made._slots, made._cpu, running._run)]
        del made, running
        for _ in range(500):  # the GPU's threads may be about to drop the last batch
            if not any(part() for part in held):
                break
            time.sleep(0.01)
        assert [part() for part in held] == [None] * len(held)
        assert all(isinstance(value, torch.Tensor) for value in batch)
    finally:
        gc.enable()


def test_close_from_another_thread_ends_a_wait(device, small):
    closed = threading.Event()

    class Waits(torch.nn.Module):
        def forward(self, batch):
            closed.wait(60)
            return batch

    image = [*small_pipelines("cuda:0" if device else None)["image"], Waits()]
    made = small_loader(small, device, pipelines={"image": image})
    running = iter(made)

    def close():
        until_the_loop_waits()
        closing.start()
        while not running._run.handoff.closed():
            time.sleep(0.001)
        closed.set()  # closing waits for the step

    closing, deciding = threading.Thread(target=made.close), threading.Thread(target=close)
    deciding.start()
    assert len(list(running)) < len(made)
    deciding.join(), closing.join()


def test_a_step_that_never_ends_does_not_keep_close_waiting(small, monkeypatch, caplog):
    monkeypatch.setattr(iterator, "PATIENCE", 0.3)
    hanging, go_on = threading.Event(), threading.Event()

    class Hangs(torch.nn.Module):
        def forward(self, batch):
            hanging.set()
            go_on.wait(60)
            return batch

    made = small_loader(small, pipelines={"image": [*small_pipelines()["image"], Hangs()]})
    running = iter(made)
    assert hanging.wait(120)  # it may compile before
    begun = time.monotonic()
    running.close()
    assert time.monotonic() - begun < 20
    assert any("still busy with a batch" in record.getMessage() for record in caplog.records)
    go_on.set()
    no_thread_soon()


def test_a_read_that_never_ends_does_not_keep_an_error_waiting(small, monkeypatch):
    monkeypatch.setattr(iterator, "PATIENCE", 0.3)
    go_on, real = threading.Event(), BatchJob._run

    def run(self, lo, hi):
        if lo == 0:
            raise ValueError("mine")
        go_on.wait(60)
        return real(self, lo, hi)

    monkeypatch.setattr(BatchJob, "_run", run)
    begun = time.monotonic()
    with pytest.raises(ValueError, match="mine"):
        epoch(small_loader(small))
    assert time.monotonic() - begun < 20
    go_on.set()
    no_thread_soon()


@pytest.mark.parametrize("method", ["_run", "made"], ids=["worker", "conductor"])
def test_an_abandoned_epoch_may_be_collected_in_a_thread_of_its_own(small, monkeypatch, caplog, method):
    abandoned, real = threading.Event(), getattr(BatchJob, method)

    def collecting(self, *arguments):
        abandoned.wait(30)
        gc.collect()
        return real(self, *arguments)

    monkeypatch.setattr(BatchJob, method, collecting)
    gc.disable()  # not in this thread
    cycle = [iter(small_loader(small))]
    cycle.append(cycle)
    del cycle
    abandoned.set()
    try:
        no_thread_soon()
    finally:
        gc.enable()
    assert not caplog.records


def test_an_abandoned_epoch_may_be_collected_where_a_lock_is_held_that_it_needs(small, monkeypatch, caplog):
    monkeypatch.setattr(iterator, "PATIENCE", 1)
    monkeypatch.setattr(weights, "MOST_BUNDLED", 1)
    made = small_loader(small, batches_ahead=2)
    gc.disable()
    try:
        cycle = [iter(made)]
        cycle.append(cycle)
        at_rest(cycle[0])
        del cycle
        with made._clock._sums.lock:
            gc.collect()
    finally:
        gc.enable()
    no_thread_soon()
    assert not caplog.records


@pytest.mark.parametrize("gpu_too", [False, True], ids=["cpu", "gpu"])
def test_a_program_may_end_in_the_middle_of_an_epoch(small, gpu_too):
    result = run_program(
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
