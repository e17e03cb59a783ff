"""Facts of JPEGs found on the way: read once, kept, and none for what no GPU may see."""

from __future__ import annotations

import numpy as np
import pytest

from ffcv_gpu.jpeg.scan import NO_FACTS, scan_jpegs
from ffcv_gpu.loader import facts as module
from ffcv_gpu.loader.facts import FactsStore


@pytest.fixture
def images(make_jpeg):
    files = [make_jpeg(20, 30, 0), make_jpeg(20, 30, 1, progressive=True), b"no JPEG", make_jpeg(8, 9, 2)]
    lengths = np.array([len(file) for file in files])
    stored = np.frombuffer(b"".join(files), np.uint8)
    return stored, np.cumsum(lengths) - lengths, lengths, np.array([20, 20, 20, 8]), np.array([30, 30, 30, 7])


def test_headers_are_read_once(images, monkeypatch):
    stored, offsets, lengths, heights, widths = images
    scanned = []

    def counting(stored, offsets, lengths):
        scanned.extend(offsets.tolist())
        return scan_jpegs(stored, offsets, lengths)

    monkeypatch.setattr(module, "scan_jpegs", counting)
    store, samples = FactsStore(10), np.array([7, 2, 3, 9])
    first = store.look_up(samples, stored, offsets, lengths, heights, widths)
    again = store.look_up(samples[::-1], stored, offsets[::-1], lengths[::-1], heights[::-1], widths[::-1])
    assert sorted(scanned) == offsets.tolist()
    assert np.array_equal(first, again[::-1])
    good = scan_jpegs(stored, offsets, lengths).facts
    assert np.array_equal(first[:2], good[:2])
    assert first[2].tolist() == first[3].tolist() == NO_FACTS  # no JPEG; not of the size recorded
