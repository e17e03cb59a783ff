"""A loader that comes through a fork."""

from __future__ import annotations

import os

import pytest

from ffcv_gpu.errors import PipelineError
from tests.small_file import (
    N,
    run_program,
    small_loader,
)

pytestmark = [pytest.mark.timeout(200), pytest.mark.usefixtures("no_thread_is_left")]


def test_a_forked_child_begins_epochs_of_its_own(small):
    result = run_program(
        f"""
        made = Loader({str(small)!r}, 2, num_workers=2, drop_last=False, pipelines=PIPELINES)
        running = iter(made)
        next(running)
        made._clock._sums.lock.acquire(), made._slots._lock.acquire()  # as a thread of the parent may just do
        running._run.handoff._lock.acquire()
        other = threading.Thread(target=made._starting.acquire)
        other.start(), other.join()
        child = os.fork()
        if child == 0:
            made.close()
            profile = made.profile()  # `made` has a clock of its own here
            try:
                next(running)
            except ValueError as error:
                print(str(error)[:41], flush=True)
            labels = [int(v) for batch in made for v in batch[1][:, 0]]
            print(labels == list(range({N})), "nothing" in profile.bottleneck, flush=True)
            del running
            sys.exit(0)
        made._clock._sums.lock.release(), made._slots._lock.release()
        running._run.handoff._lock.release()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 1 + sum(1 for _ in running) == len(made))
        """
    )
    assert result.returncode == 0, result.stderr
    expected = ["this epoch was started by another process", "True False", "0 True"]
    assert result.stdout.splitlines() == expected, result.stderr


@pytest.mark.parametrize(("workers", "warned"), [(0, 0), (1, 0), (2, 2)])
def test_workers_of_a_data_loader_that_repeat_the_epoch_say_so(small, workers, warned):
    """Wrapped into an IterableDataset, as in a script that keeps its DataLoader: every batch came twice."""
    result = run_program(
        f"""
        import torch

        class Wrapped(torch.utils.data.IterableDataset):
            def __iter__(self):
                return iter(made)

        made = Loader({str(small)!r}, 2, num_workers=1, pipelines=PIPELINES)
        given = torch.utils.data.DataLoader(Wrapped(), batch_size=None, num_workers={workers})
        print(sum(1 for _ in given) // len(made))
        """
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(max(workers, 1))]
    assert result.stderr.count("so every batch comes 2 times: iterate the Loader itself") == warned


def test_a_loader_with_a_gpu_is_refused_in_a_forked_child(gpu, small, monkeypatch):
    gpu()
    made = small_loader(small, {"device": "cuda:0"})
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(PipelineError, match="cannot be used after a fork; create the Loader in the child"):
        iter(made)
