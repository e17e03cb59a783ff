"""`decode_jpegs` on the CPU: memory used again and never too early, shared threads, forks, rectangles."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import simplejpeg
import torch

from ffcv_gpu.decode import DecodeStatus, decode_jpegs, threads, trim_memory
from ffcv_gpu.decode import cpu as module
from ffcv_gpu.decode.threads import shared_out
from ffcv_gpu.errors import BackendUnavailable, PipelineError
from ffcv_gpu.jpeg.crop_index import with_crop_index
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.native import turbojpeg3

ON_CPU = {"device": "cpu", "output": "numpy"}


@pytest.fixture(scope="module")
def jpegs(make_photo):
    """Of all sizes of memory: a block in common, a block's end, one's own; the system's for the smallest."""
    sizes = [(8, 9), (150, 150), (300, 400), (500, 699), (700, 800), (16, 16), (590, 590), (200, 161)]
    return [
        simplejpeg.encode_jpeg(make_photo(h, w, i), 90, "RGB", ("420", "444")[i % 2])
        for i, (h, w) in enumerate(sizes)
    ]


@pytest.fixture(scope="module")
def expected(jpegs):
    return [simplejpeg.decode_jpeg(data) for data in jpegs]


def same(images, expected):
    return all(np.array_equal(image, wanted) for image, wanted in zip(images, expected, strict=True))


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("workers", [1, 2, 3, 20, -1])
def test_pixels_whatever_the_threads(jpegs, expected, workers):
    for _ in range(3):  # in fresh memory, and in memory that was used before
        images, status = decode_jpegs(jpegs * 3, num_workers=workers, **ON_CPU)
        assert not status.any() and same(images, expected * 3)
        assert all(image.flags.writeable and image.flags.c_contiguous for image in images)


def test_images_of_a_call_do_not_overlap(jpegs):
    images, _ = decode_jpegs(jpegs * 5, num_workers=2, **ON_CPU)
    spans = sorted((address(image), address(image) + image.nbytes) for image in images)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_rows_do_not_begin_where_the_decoder_writes_past_the_cache(jpegs):
    images, _ = decode_jpegs(jpegs, **ON_CPU)
    assert {address(image) % 64 for image in images if image.nbytes >= module.SMALL_BYTES} == {module.BEGIN}


def test_bytes_are_decoded_where_they_lie(jpegs, expected, monkeypatch):
    seen = []
    backend = module.host_backend("turbo", "accurate")

    class Watched:
        def decode_files(self, files):
            return backend.decode_files(seen.append(address(file[1])) or file for file in files)

    monkeypatch.setattr("ffcv_gpu.decode.jpegs.host_backend", lambda *_: Watched())
    arrays = [np.frombuffer(bytearray(data), np.uint8) for data in jpegs]
    assert same(decode_jpegs(arrays, **ON_CPU)[0], expected)
    assert sorted(seen) == sorted(map(address, arrays))


def test_every_other_byte_of_an_array_is_an_image_too(jpegs, expected):
    spread = np.zeros(2 * len(jpegs[2]), np.uint8)
    spread[::2] = np.frombuffer(jpegs[2], np.uint8)
    assert same(decode_jpegs([spread[::2]], **ON_CPU)[0], expected[2:3])


@pytest.mark.parametrize("keep", [lambda a: a, lambda a: a[3:5, 2:], torch.from_numpy, memoryview])
def test_what_is_kept_is_never_written_again(jpegs, expected, keep):
    kept = [keep(image) for image in decode_jpegs(jpegs, **ON_CPU)[0]]
    for _ in range(4):
        decode_jpegs(jpegs[::-1], **ON_CPU)
    assert same([np.asarray(view) for view in kept], [np.asarray(keep(image)) for image in expected])


def test_memory_of_dropped_images_is_used_again(jpegs):
    trim_memory()
    large = [jpegs[4]]
    first, _ = decode_jpegs(large * 4, **ON_CPU)
    where = {address(image) for image in first}
    one = first[1]
    del first
    again, _ = decode_jpegs(large * 4, **ON_CPU)
    assert len({address(image) for image in again} & where) == 3
    assert address(one) not in {address(image) for image in again}


def test_what_is_kept_free_does_not_grow_and_can_be_given_back(jpegs):
    trim_memory()
    assert module._pool.free_bytes() == 0
    free = []
    for _ in range(5):
        decode_jpegs(jpegs * 4, num_workers=1, **ON_CPU)
        free.append(module._pool.free_bytes())
    assert 0 < free[0] <= module.KEEP_BYTES and set(free) == {free[0]}
    trim_memory()
    assert module._pool.free_bytes() == 0


def test_one_small_image_takes_little_memory(jpegs):
    (image,), _ = decode_jpegs([jpegs[1]], **ON_CPU)
    owner = image
    while getattr(owner, "base", None) is not None and isinstance(owner.base, np.ndarray):
        owner = owner.base
    assert owner.nbytes <= 1.13 * image.nbytes + 64


def test_garbage_among_good_ones(jpegs, expected):
    cut = jpegs[3][: len(jpegs[3]) // 2] + jpegs[3][-2:]  # good headers, an end, and half a scan
    mixed = [cut, *jpegs, b"", b"no JPEG at all", *jpegs]
    bad = [0, len(jpegs) + 1, len(jpegs) + 2]
    for rois in (None, [[1, 2, 3, 4]] * len(mixed)):
        images, status = decode_jpegs(mixed, rois=rois, **ON_CPU)
        assert np.flatnonzero(status).tolist() == bad and set(status[bad].tolist()) == {DecodeStatus.BAD_JPEG}
        assert [i for i, image in enumerate(images) if image is None] == bad
        good = [image for image in images if image is not None]
        wanted = [image if rois is None else image[1:4, 2:6] for image in expected * 2]
        assert same(good, wanted)


def test_many_threads_at_once(jpegs, expected):
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        held = []
        for _ in range(6):
            order = rng.permutation(len(jpegs))
            images, _ = decode_jpegs([jpegs[i] for i in order], num_workers=1 + seed % 3, **ON_CPU)
            held = [*held[-len(jpegs) :], *zip(images, order.tolist(), strict=True)]
            wrong.extend(i for image, i in held if not np.array_equal(image, expected[i]))

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert not wrong


def test_a_forked_child_decodes_too():
    code = """
        import os, sys, threading
        import numpy as np, simplejpeg
        from ffcv_gpu.decode import cpu, decode_jpegs, threads
        photo = np.random.default_rng(0).integers(0, 255, (400, 500, 3), np.uint8)
        files = [simplejpeg.encode_jpeg(photo, 90)] * 6
        wanted = simplejpeg.decode_jpeg(files[0])
        def good():
            images, status = decode_jpegs(files, device="cpu", output="numpy", num_workers=3)
            return not status.any() and all(np.array_equal(image, wanted) for image in images), images
        ok, kept = good()
        cpu._pool._lock.acquire(), threads._helpers._lock.acquire()  # as another thread may just do
        child = os.fork()
        if child == 0:
            empty = cpu._pool.free_bytes() == 0
            del kept  # comes back to the child's own pool
            print(ok and empty and cpu._pool.free_bytes() > 0 and good()[0] and good()[0], flush=True)
            os._exit(0)
        cpu._pool._lock.release(), threads._helpers._lock.release()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), good()[0])
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "0", "True"]


def test_a_thread_goes_on_when_the_main_one_has_ended():
    code = """
        import threading
        import numpy as np, simplejpeg
        from ffcv_gpu.decode import decode_jpegs
        from ffcv_gpu.decode.threads import InOrder
        files = [simplejpeg.encode_jpeg(np.zeros((90, 80, 3), np.uint8))] * 6
        main, ready = threading.current_thread(), threading.Event()
        def work():
            before = decode_jpegs(files, device="cpu", output="numpy", num_workers=3)[1]
            ready.set()
            main.join()
            after = decode_jpegs(files, device="cpu", output="numpy", num_workers=3)[1]
            done = []
            with InOrder(done.append, 3, 2) as pieces:
                pieces.finish(3)
            print(before.tolist(), after.tolist(), done)
        threading.Thread(target=work).start()
        ready.wait()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == f"{[0] * 6} {[0] * 6} [0, 1, 2]", done.stderr


# ---- rectangles


@pytest.fixture(params=["turbo", "turbo2", "turbo3"])
def backend(request):
    if request.param != "turbo":
        request.getfixturevalue({"turbo2": "libturbojpeg", "turbo3": "turbojpeg3"}[request.param])
    return request.param


@pytest.mark.parametrize("dct", ["accurate", "fast"])
def test_rectangles_are_those_of_the_whole_image(jpegs, backend, dct):
    rng = np.random.default_rng(3)
    whole = [simplejpeg.decode_jpeg(data, fastdct=dct == "fast") for data in jpegs] * 3
    sizes = np.array([image.shape[:2] for image in whole])
    spans = rng.integers(1, sizes + 1)
    spans[:4] = sizes[:4]  # all of it, too
    rois = np.concatenate([rng.integers(0, sizes - spans + 1), spans], axis=1)
    for _ in range(2):
        images, status = decode_jpegs(jpegs * 3, rois=rois, jpeg_backend=backend, dct=dct, **ON_CPU)
        assert not status.any()
        for image, wanted, (y, x, height, width) in zip(images, whole, rois.tolist(), strict=True):
            assert np.array_equal(image, wanted[y : y + height, x : x + width])


@pytest.fixture(scope="module")
def indexed(jpegs):
    """With an index for crops, but for the smallest, which is of one piece."""
    return [with_crop_index(data, scan_jpeg(data)) or data for data in jpegs]


@pytest.fixture
def parts(monkeypatch):
    """The sizes of what the decoders of a call are given."""
    seen, real = [], module.host_backend

    class Watched:
        def __init__(self, name, dct):
            self.inner = real(name, dct)

        def decode_files(self, files):
            return self.inner.decode_files(seen.append(file[3:5]) or file for file in files)

    monkeypatch.setattr("ffcv_gpu.decode.jpegs.host_backend", Watched)
    return seen


@pytest.mark.parametrize("dct", ["accurate", "fast"])
def test_rectangles_by_an_index_for_crops(jpegs, indexed, backend, dct, parts):
    rng = np.random.default_rng(4)
    whole = [simplejpeg.decode_jpeg(data, fastdct=dct == "fast") for data in jpegs] * 4
    mixed = [*indexed, *jpegs, *map(bytearray, indexed), *indexed]  # writable, too
    sizes = np.array([image.shape[:2] for image in whole])
    spans = rng.integers(1, sizes + 1) // rng.integers(1, 5, (len(mixed), 1)) + 1
    spans = np.minimum(spans, sizes)
    rois = np.concatenate([rng.integers(0, sizes - spans + 1), spans], axis=1)
    images, status = decode_jpegs(mixed, rois=rois, jpeg_backend=backend, dct=dct, **ON_CPU)
    assert not status.any() and len(parts) == len(mixed)
    for image, wanted, (y, x, height, width) in zip(images, whole, rois.tolist(), strict=True):
        assert np.array_equal(image, wanted[y : y + height, x : x + width])
    assert sum(size not in {image.shape[:2] for image in whole} for size in parts) > len(mixed) // 2


def test_without_rectangles_an_index_is_not_looked_for(indexed, expected, monkeypatch):
    monkeypatch.delattr(module, "has_true_crop_index")
    images, status = decode_jpegs(indexed, **ON_CPU)
    assert same(images, expected) and not status.any()


def test_damage_beside_the_rectangle_is_found_with_an_index_too(jpegs, indexed):
    """Whatever the damage: the status and the pixels of the file without an index."""
    rng, statuses, plain, data = np.random.default_rng(5), set(), jpegs[2], indexed[2]
    for trial in range(60):
        place = int(rng.integers(8, len(plain) - scan_jpeg(plain).scan_offset))  # from the end
        bit = b"\xff\xd9" if trial % 2 else bytes([plain[-place] ^ 1 << rng.integers(8), plain[1 - place]])
        two = [file[:-place] + bit + file[2 - place :] for file in (plain, data)]
        images, status = decode_jpegs(two, rois=[[10, 10, 40, 50]] * 2, **ON_CPU)
        assert status[0] == status[1] and (status[0] or np.array_equal(*images))
        statuses.add(int(status[0]))
    assert statuses == {DecodeStatus.GOOD, DecodeStatus.BAD_JPEG}


@pytest.mark.parametrize("fault", ["entries", "other scan", "name", "end"])
def test_an_index_that_does_not_fit_is_not_followed(indexed, expected, parts, fault):
    data = bytearray(indexed[2])
    at, scan = data.index(b"CROP\0\1"), scan_jpeg(bytes(data)).scan_offset
    if fault == "entries":
        data[at + 8 : at + 400] = np.random.default_rng(6).bytes(392)
    elif fault == "other scan":  # the segment is kept beside another picture, as jpegtran does
        other = indexed[2][scan:]
        data[scan:] = simplejpeg.encode_jpeg(expected[2][:, ::-1].copy(), 90, "RGB", "420")[-len(other) :]
    elif fault == "name":
        data[at + 5] = 9
    else:
        data += b"behind the end"
    images, status = decode_jpegs([data], rois=[[30, 40, 50, 60]], **ON_CPU)
    try:
        whole = simplejpeg.decode_jpeg(bytes(data))
    except ValueError:
        assert images == [None] and status[0] == DecodeStatus.BAD_JPEG
    else:
        assert np.array_equal(images[0], whole[30:80, 40:100])
    assert parts == [(300, 400)]


def test_a_part_that_the_decoder_refuses_is_decoded_whole(indexed, expected, monkeypatch, parts):
    monkeypatch.setattr(module, "cut_crop", lambda data, *_: (data[:-400], (0, 0, 96, 200)))
    images, status = decode_jpegs([indexed[2]], rois=[[30, 40, 50, 60]], **ON_CPU)
    assert not status.any() and np.array_equal(images[0], expected[2][30:80, 40:100])
    assert parts == [(96, 200), (300, 400)]


def test_whole_images_by_either_decoder(jpegs, expected, backend):
    images, status = decode_jpegs([*jpegs, b"\xff"], jpeg_backend=backend, **ON_CPU)
    assert same(images[:-1], expected) and status.tolist() == [0] * len(jpegs) + [1]


def test_only_one_whole_image_a_thread_is_in_memory(jpegs):
    trim_memory()
    images, _ = decode_jpegs([jpegs[4]] * 20, rois=[[5, 6, 7, 8]] * 20, num_workers=2, **ON_CPU)
    assert module._pool.free_bytes() <= 2 * 1.13 * 3 * 700 * 800 + 256
    assert len({address(image) for image in images}) == 20


def test_turbo3_is_asked_for_and_may_be_missing(jpegs, monkeypatch):
    monkeypatch.setattr(turbojpeg3, "library", lambda: None)
    module.host_backend.cache_clear()
    with pytest.raises(BackendUnavailable, match="libturbojpeg 3"):
        decode_jpegs(jpegs, jpeg_backend="turbo3", **ON_CPU)
    assert not decode_jpegs(jpegs, rois=[[0, 0, 1, 1]] * len(jpegs), **ON_CPU)[1].any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"jpeg_backend": "magic"}, "must be None, 'turbo', 'turbo2', 'turbo3' or 'nvjpeg', not 'magic'"),
        ({"jpeg_backend": "nvjpeg"}, "jpeg_backend='nvjpeg' decodes on a GPU"),
    ],
)
def test_backends_that_cannot_be(jpegs, arguments, words):
    with pytest.raises(PipelineError, match=words):
        decode_jpegs(jpegs, **arguments, **ON_CPU)


def test_a_decoder_of_the_cpu_decodes_there(jpegs, expected, monkeypatch, caplog):
    monkeypatch.setattr("ffcv_gpu.decode.arguments.require_device", lambda name: None)
    images, _ = decode_jpegs(jpegs, output="numpy", jpeg_backend="turbo")  # device="auto"
    assert same(images, expected) and not caplog.records
    with pytest.raises(PipelineError, match=r"jpeg_backend='turbo' decodes on the CPU, not on cuda:0"):
        decode_jpegs(jpegs, device=0, jpeg_backend="turbo")


# ---- threads


@pytest.mark.parametrize("workers", [1, 2, 5, 100])
def test_each_thing_is_handed_out_once(workers):
    taken = []
    shared_out(range(500), lambda some: taken.extend(list(some)), workers)
    assert sorted(taken) == list(range(500))
    shared_out([], lambda some: taken.extend(some), workers)
    assert len(taken) == 500


def test_a_thread_that_finds_none_free_does_all_itself():
    cpus = os.cpu_count() or 1
    begun, leave, taken = threading.Barrier(cpus + 2), threading.Event(), []

    def hold(some):
        for _ in some:
            begun.wait(20)
            leave.wait(20)

    holder = threading.Thread(target=shared_out, args=(range(cpus + 1), hold, cpus + 1))
    holder.start()
    begun.wait(20)  # all helpers are busy
    shared_out(range(9), taken.extend, 4)
    leave.set()
    holder.join()
    assert taken == list(range(9))


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_stops_all_and_is_told(workers):
    taken = []

    def work(some):
        for n in some:
            taken.append(n)
            time.sleep(0.0005)
            if n == 5:
                raise ValueError("five")

    with pytest.raises(ValueError, match="five"):
        shared_out(range(200_000), work, workers)
    assert len(taken) < 200_000


def test_a_thread_that_cannot_be_had_stops_those_that_were(monkeypatch):
    real, taken = threads._helpers.get(), []

    class Limited:
        left = 1

        def submit(self, run):
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("can't start new thread")
            return real.submit(run)

        def shutdown(self):
            real.shutdown()

    limited = Limited()
    monkeypatch.setattr(threads._helpers, "get", lambda: limited)

    def work(some):
        for n in some:
            taken.append(n)
            time.sleep(0.0005)

    with pytest.raises(RuntimeError, match="can't start"):
        shared_out(range(200_000), work, 3)
    count = len(taken)
    time.sleep(0.01)
    assert len(taken) == count < 200_000, "nobody is at work any more"
