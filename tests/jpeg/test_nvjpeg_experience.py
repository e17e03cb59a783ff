"""Kinds of JPEG that the engine refuses: found out by the backend, which then spares their batches."""

from __future__ import annotations

import gc
import logging

import numpy as np
import pytest

from ffcv_gpu.jpeg.nvjpeg import NvjpegBackend
from ffcv_gpu.jpeg.nvjpeg.experience import PROOFS, Experience, kinds_of
from ffcv_gpu.jpeg.routing import Route
from ffcv_gpu.jpeg.scan import scan_jpegs
from ffcv_gpu.native.nvjpeg_types import nvjpegBackend_t as Backend
from tests.jpeg.nvjpeg_bench import ENGINE, ONE_CPU, plain

REFUSED = 1  # 4:2:2


def of_kind(data: bytes) -> bool:
    """Whether a JPEG is 4:2:2."""
    stored = np.frombuffer(data, np.uint8)
    facts = scan_jpegs(stored, np.zeros(1, np.int64), np.array([stored.size])).facts
    return bool(facts["subsampling"][0] == REFUSED)


def test_a_kind_that_the_engine_refuses_costs_the_others_nothing_any_more(bench, make_jpeg, caplog):
    one = bench(engines=7, batch_size=24, slots=1)
    pictures = one.pictures(*plain(make_jpeg, 24))
    refused = int((pictures.encoded.facts["subsampling"] == REFUSED).sum())
    one.fake.bad_image(of_kind, backends=(Backend.NVJPEG_BACKEND_HARDWARE,))
    with caplog.at_level(logging.WARNING):
        for _ in range(2 + PROOFS):
            pictures.check(pictures.submit(one.backend).wait())
    before = dict(one.backend.counts)
    assert before["jpeg: failed batches"] > 2
    for _ in range(2):
        pictures.check(pictures.submit(one.backend).wait())
    counts = one.backend.counts
    assert counts["jpeg: failed batches"] == before["jpeg: failed batches"]
    assert counts[ENGINE] - before[ENGINE] == 2 * (24 - refused)
    assert counts[ONE_CPU] - before[ONE_CPU] == 2 * refused  # too few for a batch of GPU Huffman
    told = [record.message for record in caplog.records if "refuses a kind" in record.message]
    kinds = set(kinds_of(pictures.encoded.facts, pictures.encoded.heights, pictures.encoded.widths)[
        pictures.encoded.facts["subsampling"] == REFUSED
    ].tolist())  # fmt: skip
    assert len(told) == len(kinds) and all(f"frame 0xC0, subsampling {REFUSED} of" in words for words in told)


def test_what_was_learned_outlives_the_backend(bench, make_jpeg):
    """As with a loader for validation that is made anew for each epoch."""
    one = bench(engines=7, batch_size=24, slots=1)
    pictures = one.pictures(*plain(make_jpeg, 24))
    one.fake.bad_image(of_kind, backends=(Backend.NVJPEG_BACKEND_HARDWARE,))
    for _ in range(2 + PROOFS):
        pictures.check(pictures.submit(one.backend).wait())
    del one.backend
    gc.collect()
    one.backend = NvjpegBackend(one.gpu, batch_size=30, library=one.fake.as_library())
    pictures.check(pictures.submit(one.backend).wait())
    assert "jpeg: failed batches" not in one.backend.counts


def test_an_image_that_only_the_engine_refuses_condemns_no_kind(bench, make_jpeg):
    """Its kind was decoded before; each batch with it is tried again, as ever."""
    files, sizes = plain(make_jpeg, 24, alike=True)
    one = bench(engines=7, batch_size=24, slots=1)
    good, bad = one.pictures(files, sizes), one.pictures(files, sizes)
    good.check(good.submit(one.backend).wait())
    one.fake.bad_image(files[4], backends=(Backend.NVJPEG_BACKEND_HARDWARE,))
    for _ in range(2 * PROOFS):
        bad.check(bad.submit(one.backend).wait())
    assert one.backend.counts["jpeg: failed batches"] == 2 * PROOFS
    assert one.backend.counts[ENGINE] == 24


def test_images_that_nothing_of_nvjpeg_decodes_condemn_no_kind(bench, make_jpeg):
    files, sizes = plain(make_jpeg, 24, alike=True)
    one = bench(engines=7, batch_size=24, slots=1)
    pictures = one.pictures(files, sizes)
    one.fake.bad_image(files[4])
    for _ in range(2 * PROOFS):
        pictures.check(pictures.submit(one.backend).wait())
    assert one.calls("nvjpegDecodeBatched") == 2 * PROOFS  # never split


def test_accidents_are_forgotten() -> None:
    experience = Experience()
    kinds = np.array([1, 1, 2, 3])
    experience.failed(kinds)
    assert [places.tolist() for places in experience.calls(kinds)] == [[0, 1, 2, 3]]
    experience.failed(kinds)
    assert sorted(places.tolist() for places in experience.calls(kinds)) == [[0, 1], [2], [3]]
    for _ in range(PROOFS - 1):
        experience.failed(kinds[:2])
    experience.took(np.array([1, 2, 3]))
    experience.failed(kinds[:2])
    assert [places.tolist() for places in experience.calls(kinds)] == [[0, 1, 2, 3]]
    routes = np.full(4, Route.ENGINE, np.int8)
    assert experience.corrected(routes, kinds) is routes


def test_only_the_engines_share_is_sent_elsewhere() -> None:
    experience = Experience()
    for _ in range(PROOFS):
        experience.failed(np.array([5]))
    routes = np.array([Route.ENGINE, Route.ENGINE, Route.DECOUPLED_HYBRID], np.int8)
    found = experience.corrected(routes, np.array([5, 6, 5]))
    assert found.tolist() == [Route.GPU_HUFFMAN, Route.ENGINE, Route.DECOUPLED_HYBRID]


@pytest.mark.parametrize(
    ("change", "same"),
    [({"flags": 32}, True), ({"flags": 1}, False), ({"subsampling": -1}, False), ({"components": 1}, False),
     ({"encoding": 0xC1}, False), ({"exif_orientation": 6}, True)],
)  # fmt: skip
def test_what_makes_a_kind(make_jpeg, change, same):
    data = np.frombuffer(make_jpeg(40, 50), np.uint8)
    facts = scan_jpegs(data, np.zeros(1, np.int64), np.array([data.size])).facts
    other = facts.copy()
    for name, value in change.items():
        other[name] = value
    sides = np.array([40]), np.array([50])
    assert (kinds_of(facts, *sides) == kinds_of(other, *sides)).all() == same
    assert kinds_of(facts, np.array([32]), np.array([63])) == kinds_of(facts, *sides)
    assert kinds_of(facts, np.array([31]), np.array([63])) != kinds_of(facts, *sides)
