"""Compiled operations run in the loader's workers, several batches at once; the results do not show it."""

import threading

import numpy as np
import pytest

from ffcv_gpu.compat.bound import BoundOperation
from ffcv_gpu.fields.decoders import IntDecoder
from ffcv_gpu.reader import Reader
from ffcv_gpu.transforms import NormalizeImage, ToTensor, ToTorchImage
from tests.compat.operations import PIXELS, AddIndex, Corner, Invert, N, Noise, Shared, column, images_of
from tests.small_file import loader_threads, run_program


@pytest.fixture(autouse=True)
def small_batches_need_workers(monkeypatch):
    monkeypatch.setattr("ffcv_gpu.loader.weights.HERE_BYTES", 0)


class Mixed(Corner):
    """A quarter of each image plus one of its neighbour's: it needs the whole batch."""

    def generate_code(self):
        def mix(images, dst):
            for n in range(len(images)):
                h, w = dst.shape[1:3]
                dst[n] = images[n, :h, :w] // 2 + images[n - 1, h:, w:] // 2
            return dst

        mix.is_parallel = True
        return mix


def test_as_many_batches_as_workers_are_in_a_compiled_operation_at_once(known, monkeypatch):
    together, inside = threading.Barrier(2, timeout=20), BoundOperation.apply_samples

    def met(self, *given):
        together.wait()  # fails unless another batch gets here as well
        return inside(self, *given)

    expected = column(images_of(known, AddIndex(), batch_size=4))
    monkeypatch.setattr(BoundOperation, "apply_samples", met)
    loader = images_of(known, AddIndex(), num_workers=2, batch_size=4)
    assert len(loader) % 2 == 0 and np.array_equal(column(loader), expected)
    assert loader.stats().stages["operate"].calls == len(loader)


def test_uncompiled_operations_see_one_batch_after_the_other_in_one_thread(known, monkeypatch):
    seen, inside = [], BoundOperation.apply_samples

    def noted(self, batch, spec, draws):
        seen.append((type(self.operation), int(draws.samples[0]), threading.current_thread().name))
        return inside(self, batch, spec, draws)

    monkeypatch.setattr(BoundOperation, "apply_samples", noted)
    image = images_of(known, Invert(), Invert(False), Corner(), batch_size=4, num_workers=3)
    assert np.array_equal(column(image), PIXELS[:, :6, :6])
    threads = {kind: {name for one, _, name in seen if one is kind} for kind in (Invert, Corner)}
    assert threads[Corner] == {"ffcv_gpu-conductor"}  # behind an uncompiled one, it inherits its mode
    assert any("worker" in name for name in threads[Invert])
    firsts = [first for kind, first, _ in seen if kind is Corner]
    assert firsts == list(range(0, N, 4))


def test_results_and_kept_batches_do_not_depend_on_workers_and_lanes(known, monkeypatch):
    shared = Shared()
    label = [IntDecoder(), shared, AddIndex()]
    loader = images_of(known, Noise(), Mixed(), shared, label=label, batch_size=4)

    def epochs(workers, lane_bytes):
        monkeypatch.setattr("ffcv_gpu.device.cpu.LANE_BYTES", lane_bytes)
        loader.num_workers = workers
        loader.set_epoch(0)
        kept = [batch for _ in range(3) for batch in loader]
        return [np.concatenate([np.asarray(batch[place]) for batch in kept]) for place in (0, 1)]

    expected = epochs(1, 4 << 20)
    for workers in (2, 3, 12):
        for lane_bytes in (64, 4 << 20):  # lanes of one sample, or of a batch
            assert all(map(np.array_equal, epochs(workers, lane_bytes), expected))


class FailsAtThird(Corner):
    """Compiled, and fails for the file's row 9."""

    def generate_code(self):
        def fail(images, dst, indices):
            for n in range(len(images)):
                if indices[n] == 9:
                    raise OverflowError("on purpose")
                dst[n] = images[n, : dst.shape[1], : dst.shape[2]]
            return dst

        fail.with_indices = True
        return fail


@pytest.mark.usefixtures("no_thread_is_left")
def test_an_exception_in_a_worker_reaches_the_loop_in_its_turn(known):
    loader = images_of(known, FailsAtThird(), batch_size=4)
    for loader.num_workers in (1, 2, 4):
        running = iter(loader)
        for number in range(2):
            assert np.array_equal(next(running)[0], PIXELS[number * 4 : number * 4 + 4, :6, :6])
        with pytest.raises(OverflowError, match="on purpose") as caught:
            next(running)
        (note,) = caught.value.__notes__
        assert "step FailsAtThird()" in note and "batch 2 of epoch" in note
        assert not loader_threads()  # those of a GPU that `decode_jpegs` keeps stay


def test_normalised_behind_an_operation_in_a_launch_as_in_numpy(known):
    mean, std = np.array([125.0, 122.0, 113.0]), np.array([51.0, 52.0, 53.0])
    steps = [Invert(), NormalizeImage(mean, std, np.float16), ToTensor(), ToTorchImage()]
    loader = images_of(known, *steps, num_workers=2)
    expected = ((255 - PIXELS - mean) / std).astype(np.float16).transpose(0, 3, 1, 2)
    assert np.array_equal(column(loader), expected)
    assert "on the finished batch, in one thread: fused launch 1, as a table" in loader.explain()
    wider = images_of(known, AddIndex(), NormalizeImage(mean, std, np.float32), num_workers=2)  # int64
    rows = np.arange(N)[:, None, None, None]
    assert np.allclose(column(wider), (PIXELS + rows - mean) / std, atol=1e-5)


def test_a_forked_child_runs_operations_that_ran_in_the_parent(known):
    result = run_program(
        f"""
        import ffcv_gpu.loader.weights, numpy as np
        from tests.compat.operations import Noise, column, images_of
        ffcv_gpu.loader.weights.HERE_BYTES = 0
        made = images_of({str(known)!r}, Noise(), num_workers=3, batch_size=4)
        expected = column(made)
        running = iter(made)
        next(running)
        child = os.fork()
        if child == 0:
            made.set_epoch(0)
            sys.exit(0 if np.array_equal(column(made), expected) else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert result.returncode == 0 and result.stdout.split() == ["0"], result.stderr


def test_a_damaged_sample_is_replaced_before_an_operation_sees_it(known, tmp_path):
    damaged = tmp_path / "damaged.beton"
    data = bytearray(known.read_bytes())
    at = int(Reader(known).alloc_table["ptr"][5])
    data[at + 7] ^= 1
    damaged.write_bytes(data)
    loader = images_of(damaged, AddIndex(), on_error="skip", num_workers=3, batch_size=4)
    rows = np.arange(N)
    rows[5] = 6
    got = column(loader)
    assert np.array_equal(got, PIXELS[rows] + rows[:, None, None, None])
    assert [bad.sample for bad in loader.bad_samples()] == [5]
