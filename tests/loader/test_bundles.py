"""Light batches are made several at a time; nothing that comes out of a loader shows it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import ReadError
from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import OrderOption, weights
from ffcv_gpu.loader.course import Progress
from ffcv_gpu.loader.job import BatchJob
from ffcv_gpu.loader.lane import Lane
from ffcv_gpu.loader.streamed import StreamedRun
from ffcv_gpu.loader.traversal import course_over
from ffcv_gpu.plan import Planner
from ffcv_gpu.readers.paged.reader import PagedEpoch
from ffcv_gpu.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
from tests.small_file import damaged, epoch, joined, loader_threads, no_thread_soon, same, small_loader


def flipped():
    """Pipelines whose images are drawn at random."""
    image = [RandomResizedCropRGBImageDecoder((24, 24)), RandomHorizontalFlip(), ToTensor(), ToTorchImage()]
    return {"image": image, "label": [IntDecoder(), ToTensor(), Squeeze(1)]}


@pytest.fixture
def bundled(monkeypatch):
    """``bundled(n)``: up to n batches are made as one from now on, on several threads."""
    monkeypatch.setattr(weights, "HERE_BYTES", 0)

    def limit(most):
        monkeypatch.setattr(weights, "MOST_BUNDLED", most)

    return limit


def bundle_of(loader):
    """How many batches the next epoch's bundles have."""
    running = iter(loader)
    running.close()
    return running._run._bundle


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("order", list(OrderOption), ids=lambda order: order.name)
@pytest.mark.parametrize(("batch_size", "drop_last"), [(1, False), (2, True), (5, False)])
def test_batches_are_the_same(small, bundled, order, batch_size, drop_last, os_cache):
    settings = {"order": order, "drop_last": drop_last, "os_cache": os_cache, "pipelines": flipped()}
    seen = {}
    for most in (1, 3, 64):
        bundled(most)
        loader = small_loader(small, None, batch_size, **settings)
        assert bundle_of(loader) == most
        loader.set_epoch(0)
        seen[most] = [list(loader) for _ in range(2)]
    for most in (3, 64):
        for epoch_, expected in zip(seen[most], seen[1], strict=True):
            assert [len(batch[1]) for batch in epoch_] == [len(batch[1]) for batch in expected]
            same(joined(loader, epoch_), joined(loader, expected))


def test_batches_of_given_sizes(small, bundled):
    sizes = [3, 1, 1, 5, 2, 4, 7]
    batches = np.split(np.random.default_rng(1).permutation(23), np.cumsum(sizes)[:-1])

    bundled(4)
    loader = small_loader(small)
    running = loader._epoch(Progress(0, course_over(loader, batches)))
    assert [labels.tolist() for _, labels, _ in running] == [batch.tolist() for batch in batches]


def test_an_epoch_is_resumed_in_the_middle_of_a_bundle(small, bundled):
    bundled(4)
    whole = epoch(small_loader(small, order=OrderOption.RANDOM))
    for shown in (1, 4, 6):
        loader = small_loader(small, order=OrderOption.RANDOM)
        running = iter(loader)
        batches = [next(running) for _ in range(shown)]
        assert len(running) == 12 - shown
        state = loader.state_dict()
        running.close()
        again = small_loader(small, order=OrderOption.RANDOM)
        again.load_state_dict(state)
        same(joined(again, [*batches, *again]), whole)


def shown_before_it_raises(loader, error, **match):
    """The labels of each batch until `error` is raised, and that."""
    seen = []

    def run():
        for _, labels, _ in loader:
            seen.append(labels.tolist())

    with pytest.raises(error, **match) as raised:
        run()
    return seen, raised.value


BAD = ((4, "image"), (7, "image"), (9, "vector"))


@pytest.mark.parametrize("on_error", ["blank", "skip"])
def test_bad_samples_are_treated_as_in_single_batches(small, tmp_path, bundled, on_error):
    bad, results = damaged(small, tmp_path, *BAD), []
    for most in (1, 6):
        bundled(most)
        loader = small_loader(bad, on_error=on_error)
        columns = epoch(loader) + epoch(loader)
        counts = {name: n for name, n in loader.stats().counts.items() if name.startswith("bad")}
        results.append((columns, loader.bad_samples(), counts))
    same(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:] and len(results[0][1]) == 3


def test_what_comes_before_a_bad_sample_is_delivered(small, tmp_path, bundled):
    bundled(6)
    loader = small_loader(damaged(small, tmp_path, (7, "image")))
    seen, _ = shown_before_it_raises(loader, ReadError, match="sample 7, field 'image'")
    assert seen == [[0, 1], [2, 3], [4, 5]]
    no_thread_soon()


def test_what_comes_before_an_exception_is_delivered(small, bundled, monkeypatch):
    plan = Planner.plan

    def failing(planner, index, ids, blank=None):
        if 9 in ids:
            raise ZeroDivisionError("at sample 9")
        return plan(planner, index, ids, blank)

    monkeypatch.setattr(Planner, "plan", failing)
    bundled(6)
    seen, raised = shown_before_it_raises(small_loader(small), ZeroDivisionError, match="at sample 9")
    assert seen == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert raised.__notes__ == ["while planning batch 4 of this epoch"]


def test_an_exception_in_a_worker_is_raised_by_its_batch(small, bundled, monkeypatch):
    decode = Lane.decode

    def failing(lane, name, *rest):
        if 9 in lane.plan.sample_ids[lane.lo : lane.hi]:
            raise ZeroDivisionError
        return decode(lane, name, *rest)

    monkeypatch.setattr(Lane, "decode", failing)
    bundled(6)
    seen, raised = shown_before_it_raises(small_loader(small), ZeroDivisionError)
    assert seen == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert "samples 8 ... 9: rows 0 to 1 of batch 4 of epoch 0" in raised.__notes__[0]


def test_a_bundle_that_fails_is_left_by_all_workers_before_its_batches_are_made(small, bundled, monkeypatch):
    """The pages that it reads are used again once its batches have passed."""
    bundled(6)
    monkeypatch.setattr("ffcv_gpu.device.cpu.READING_BYTES_PER_WORKER", 1)
    gone, real, running, late = threading.Event(), BatchJob._run, set(), []

    def run(job, lo, hi):
        if job.index == 0:
            return real(job, lo, hi)
        if len(job._plan) <= 2:  # a batch
            late.extend(key for key in running if key[0] <= job.index)
            gone.set()
            return real(job, lo, hi)
        if lo == 0:
            raise ZeroDivisionError
        running.add((job.index, lo))
        gone.wait(1)
        running.discard((job.index, lo))
        return []

    made = small_loader(small, num_workers=12)
    monkeypatch.setattr(BatchJob, "_run", run)
    labels = [int(value) for batch in made for value in batch[1]]
    assert labels == list(range(23)) and not late


def test_kept_batches_stay_what_they_were_and_others_are_reused(small, bundled):
    bundled(3)
    loader = small_loader(small, order=OrderOption.RANDOM)
    kept, copies, places = [], [], set()
    for number in range(12):
        for images, labels, _ in loader:
            places.add(images.data_ptr())
            if number == 3:
                kept.append((images, labels))
                copies.append((images.clone(), labels.clone()))
    for one, other in zip(kept, copies, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    # one epoch is kept; of the rest, bundles in flight, one at the consumer, those that wait
    assert len(places) <= 12 + 3 * (weights.MOST_IN_FLIGHT + loader.batches_ahead + 1)


def test_leaving_in_the_middle_of_a_bundle_leaves_no_thread(small, bundled):
    bundled(4)
    for _ in range(3):
        for number, _ in enumerate(small_loader(small)):
            if number == 5:
                break
    no_thread_soon()
    assert not loader_threads()


def test_who_is_bundled(small, bundled, gpu):
    """Not what is heavy, has many samples or large outputs, has other steps, or is made on a GPU."""
    bundled(64)
    assert bundle_of(small_loader(small)) == 64
    module = {"label": [IntDecoder(), ToTensor(), torch.nn.Identity()]}
    assert bundle_of(small_loader(small, pipelines=module)) == 1
    gpu()
    assert bundle_of(small_loader(small, {"device": "cuda:0"})) == 1


@pytest.mark.parametrize("limit", ["BUNDLE_BYTES", "BUNDLE_SAMPLES", "BUNDLE_OUTPUT_BYTES"])
def test_limits(small, bundled, monkeypatch, limit):
    loader = small_loader(small)
    course = loader._coming_epoch().course
    payloads = {name: loader.dataset.payloads(name) for name in ("image", "vector")}
    batch = weights.batch_weight(loader._programs, payloads, loader.indices, course.samples / len(course))
    assert batch.samples == pytest.approx(2, rel=0.05)
    assert batch.output_bytes == pytest.approx(batch.samples * (3 * 24 * 24 * 4 + 8 + 5 * 4))
    pixels = 3 * np.mean([(40 + i % 4) * (48 - i % 3) / (4 if i % 2 else 1) for i in range(23)])
    assert batch.bytes == pytest.approx(batch.samples * pixels, rel=0.01)
    per_batch = {"BUNDLE_BYTES": batch.bytes, "BUNDLE_SAMPLES": batch.samples}.get(limit, batch.output_bytes)
    for count in (0.5, 3.5):
        monkeypatch.setattr(weights, limit, count * per_batch)
        assert bundle_of(loader) == max(1, int(count))


def test_the_first_batch_is_made_alone(small, bundled, monkeypatch):
    """The consumer waits for it. What was read for a bundle is let go once all of its batches are made."""
    begun, passed, let_go = [], [], []
    begin, done = StreamedRun.begin, StreamedRun.passed
    monkeypatch.setattr(StreamedRun, "begin", lambda r, *where: begun.append(where) or begin(r, *where))
    monkeypatch.setattr(StreamedRun, "passed", lambda run, last: passed.append(last) or done(run, last))
    monkeypatch.setattr(PagedEpoch, "passed", lambda _, index: let_go.append(index))
    bundled(4)
    assert len(list(small_loader(small, os_cache=False))) == 12
    assert begun == [(0, 1), (1, 3), (4, 4), (8, 4)]
    assert passed == [0, 3, 7, 11]
    assert let_go == [0, 1, 2]
