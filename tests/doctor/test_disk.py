"""Reading for the doctor: what is measured comes from the reader given, and from all payloads drawn."""

from __future__ import annotations

import numpy as np
import pytest

from ffcv_gpu.doctor.disk import BUDGET_BYTES, RANGES, measure_disk
from ffcv_gpu.doctor.survey import survey
from ffcv_gpu.readers import PositionedReader
from tests.doctor.conftest import SlowDisk


def test_two_disks_of_two_speeds(photo_file, disk_clock):
    facts = survey(str(photo_file), {})
    plain = PositionedReader(str(photo_file))
    slow, slower = (measure_disk(facts, 2, SlowDisk(plain, rate, disk_clock.sleep)) for rate in (10e6, 2e6))
    assert slow.cold == pytest.approx(1 / 10e6)
    assert slower.cold == pytest.approx(1 / 2e6)  # threads of one disk do not make it faster
    assert slower.cold_one_thread == pytest.approx(1 / 2e6)
    assert slower.warm < slow.cold


def test_the_facts_of_a_file(photo_file):
    facts = survey(str(photo_file), {})
    assert (facts.samples, facts.image, facts.longest_side) == (64, "image", 420)
    assert facts.file_bytes == photo_file.stat().st_size
    assert facts.jpeg.all()
    assert (facts.pixels == 340 * 420).all()
    assert facts.bytes_per_sample == facts.image_bytes.mean()
    assert facts.rows_of_pixels(1.0, 5, 5) == [0, 15, 31, 47, 63]
    assert len(facts.rows_of_pixels(1.0, 4, 64)) == 7
    assert RANGES * facts.lengths.max() < BUDGET_BYTES


def test_every_payload_drawn_is_read_once_cold(photo_file):
    facts, seen = survey(str(photo_file), {}), []

    class Recorder(SlowDisk):
        def read_into(self, offsets, lengths, out):
            seen.append(offsets)
            super().read_into(offsets, lengths, out)

    measure_disk(facts, 3, Recorder(PositionedReader(str(photo_file)), 1e9))
    assert sorted(np.concatenate(seen)) == sorted(facts.offsets)
    assert len(seen) == 4  # one thread, then three
