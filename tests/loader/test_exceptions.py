"""Exceptions in code of the user's, and Ctrl-C: they reach the training loop with their place."""

from __future__ import annotations

import gc
import signal
import threading

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import IntDecoder
from ffcv_gpu.loader.iterator import Run
from ffcv_gpu.loader.traversal import TraversalOrder
from ffcv_gpu.pipeline.operation import Operation
from ffcv_gpu.transforms import Squeeze, ToTensor
from tests.small_file import (
    N,
    epoch,
    no_thread_soon,
    run_program,
    same,
    small_loader,
    small_pipelines,
)

pytestmark = [pytest.mark.timeout(200), pytest.mark.usefixtures("no_thread_is_left")]


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
    made = small_loader(small, device, pipelines={"image": image})
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
    made = small_loader(
        small, pipelines={"label": [IntDecoder(), FailingOperation(), ToTensor(), Squeeze(1)]}
    )
    with pytest.raises(ValueError, match="raised by compiled code") as caught:
        epoch(made)
    assert any("pipeline 'label'" in n and "FailingOperation" in n for n in caught.value.__notes__)


class FailingCrop(type(small_pipelines()["image"][0])):
    def boxes(self, draws, draw, heights, widths):
        raise ArithmeticError("no box")


def test_an_exception_while_a_batch_is_planned_reaches_the_loop_with_its_place(device, small):
    image = [FailingCrop((24, 24), 0.9), *small_pipelines("cuda:0" if device else None)["image"][1:]]
    with pytest.raises(ArithmeticError, match="no box") as caught:
        epoch(small_loader(small, device, pipelines={"image": image}))
    assert "while planning batch 0 of this epoch" in caught.value.__notes__


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
        ([0, N], PipelineError, rf"OwnOrder.sample_order: {N} is not a row of the file, .* {N} samples"),
        ([0, -1], PipelineError, "-1 is not a row"),
        ([0.5], PipelineError, "one-dimensional array of integers, not float64"),
        ([[1], [2]], PipelineError, r"of shape \(2, 1\)"),
    ],
)
def test_an_order_of_one_s_own_that_fails_or_is_none(small, monkeypatch, outcome, error, words):
    monkeypatch.setattr(OwnOrder, "outcome", outcome)
    made = small_loader(small, order=OwnOrder)
    for _ in made:  # list() would ask for the length of the next epoch
        pass
    with pytest.raises(error, match=words) as caught:
        iter(made)
    if error is ValueError:
        assert any("OwnOrder.sample_order(1)" in note for note in caught.value.__notes__)


class Beyond(TraversalOrder):
    def sample_order(self, epoch):
        return [*self.indices, N - 1]


def test_an_order_of_rows_that_the_loader_was_not_given_is_refused(small):
    """Pipelines are made for images of the sizes that `indices` have: others would be read past their end."""
    words = rf"Beyond.sample_order: row {N - 1} is not among the loader's indices"
    with pytest.raises(PipelineError, match=words):
        small_loader(small, order=Beyond, indices=[0, 3, 6])


def test_ctrl_c_ends_a_wait_at_once_and_leaves_no_thread(small):
    result = run_program(
        f"""
        import numpy as np
        from ffcv_gpu.loader import handoff, job, weights
        weights.MOST_BUNDLED = 1
        arrived, compiled = threading.Event(), threading.Event()
        def interrupt(*_):
            arrived.set()
            raise KeyboardInterrupt
        signal.signal(signal.SIGINT, interrupt)
        def wait(self):
            compiled.set()
            arrived.wait()  # no batch before the wait was interrupted
        job.BatchJob.made = wait
        main = threading.get_ident()
        def press():
            compiled.wait()
            while sys._current_frames()[main].f_code is not handoff.Handoff.get.__code__:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
        made = Loader({str(small)!r}, 2, pipelines=PIPELINES)
        running = iter(made)
        try:
            threading.Thread(target=press).start()
            next(running)
        except KeyboardInterrupt:
            print("interrupted", [t.name for t in threading.enumerate() if "ffcv" in t.name])
        """
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "interrupted []"


class Pressing(threading.Thread):
    """A thread during whose start Ctrl-C is pressed, if the main thread starts it.

    Not for the threads that the epoch's own thread starts: Python would raise in the main thread, wherever
    that is by then.
    """

    complete = False

    def start(self):
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGINT)
        super().start()
        self.complete = True


def test_ctrl_c_waits_until_a_thread_has_started(small, monkeypatch):
    """Else it may be left waiting for a lock that nobody releases any more."""
    begun, begin = [], Run.start
    monkeypatch.setattr(threading, "Thread", Pressing)
    monkeypatch.setattr(Run, "start", lambda run: begun.append(run) or begin(run))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        iter(small_loader(small))
    assert begun[0]._thread.complete and signal.getsignal(signal.SIGINT) is before
    gc.collect()
    no_thread_soon()


def test_epochs_begin_in_other_threads_and_without_a_handler_of_signals(small):
    loader, lengths = small_loader(small), []
    thread = threading.Thread(target=lambda: lengths.append(sum(1 for _ in loader)))
    thread.start(), thread.join()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        lengths.append(sum(1 for _ in loader))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert lengths == [len(loader)] * 2
