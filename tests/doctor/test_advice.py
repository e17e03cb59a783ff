"""The advice taken: files written as it says have the sizes that it says, and decode as fast as it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ffcv_gpu.doctor import Setup, judge, measure
from ffcv_gpu.doctor.advice import FILE_KNOBS, LOADER_KNOBS, advise, first_of_each_knob
from ffcv_gpu.doctor.costs import measure_costs
from ffcv_gpu.doctor.report import report
from ffcv_gpu.doctor.survey import survey
from ffcv_gpu.doctor.trial import run_trial
from tests.doctor.conftest import BATCH, SIDE, write

SETUP = Setup(BATCH, 1, SIDE)


def all_changes(found):
    """Every change that is thought of, whether it pays or not, by what it says."""
    diagnosis = judge(found, SETUP)
    nothing = replace(diagnosis.prediction, images_per_second=0.0)
    parts = found.costs, found.disk, found.survey, diagnosis.situation, SIDE, nothing
    return {change.what: change for change in advise(*parts)}


@pytest.fixture(scope="module")
def photos(make_photo):
    """The pixels of `photo_file`'s images, as they were before they were JPEGs."""
    return [make_photo(340, 420, i) for i in range(64)]


@pytest.fixture(scope="module")
def fine_jpegs(make_jpeg):
    return [make_jpeg(340, 420, i, quality=80, subsampling="4:4:4") for i in range(64)]


@pytest.fixture(scope="module")
def fine_file(fine_jpegs, tmp_path_factory):
    return write(tmp_path_factory.mktemp("fine") / "fine.beton", fine_jpegs)


@pytest.fixture(scope="module")
def fine_found(fine_file):
    return measure(fine_file, SETUP)


TAKEN = [
    (
        "all JPEG (4:2:0), re-encoded from pixels at jpeg_quality=75",
        {"write_mode": "jpg", "jpeg_quality": 75},
    ),
    ("max_resolution=192, JPEG, jpeg_quality=90", {"write_mode": "jpg", "max_resolution": 192}),
    ("max_resolution=256, write_mode='raw'", {"write_mode": "raw", "max_resolution": 256}),
    (
        "write_mode='proportion', compress_probability=0.5 (the rest raw, same size)",
        {"write_mode": "proportion", "compress_probability": 0.5},
    ),
]


def decode_seconds(*files):
    """The least that decoding an image of each file took, of trials in turn: others use this machine too."""
    trials = [[run_trial(str(f), SETUP, range(64), batch_size=64) for f in files] for _ in range(4)]
    return [min(trial.each("decode") for trial in of_one) for of_one in zip(*trials, strict=True)]


def payload_change(path, before):
    return int(survey(str(path), {}).lengths.sum()) - int(before.lengths.sum())


@pytest.mark.parametrize(("what", "settings"), TAKEN)
def test_a_file_written_so_has_the_size(found, photos, tmp_path, what, settings):
    change = all_changes(found)[what]
    really = payload_change(write(tmp_path / "a.beton", photos, **settings), found.survey)
    assert abs(really) > 1e5
    assert change.file_bytes - found.survey.file_bytes == pytest.approx(really, rel=0.2)


def test_coarser_chroma_has_the_size(fine_found, fine_jpegs, tmp_path):
    chroma = fine_found.costs.chroma
    assert (chroma.share, chroma.quality) == (1.0, 80)
    change = next(c for c in all_changes(fine_found).values() if c.knob == "subsampling")
    assert change.what.startswith("subsampling='4:2:0', jpeg_quality=80: 100% of the JPEGs")
    path = write(tmp_path / "a.beton", fine_jpegs, subsampling="4:2:0", jpeg_quality=80)
    really = payload_change(path, fine_found.survey)
    assert really < -0.1 * fine_found.survey.lengths.sum()
    assert change.file_bytes - fine_found.survey.file_bytes == pytest.approx(really, rel=0.1)


@pytest.mark.long  # compares real speeds
def test_coarser_chroma_decodes_as_fast_as_predicted(fine_found, fine_file, fine_jpegs, tmp_path):
    path = write(tmp_path / "a.beton", fine_jpegs, subsampling="4:2:0", jpeg_quality=80)
    fine, plain = decode_seconds(fine_file, path)
    costs, facts = fine_found.costs, fine_found.survey
    said = float(costs.decode_seconds(facts.pixels, costs.chroma.bytes_ratio * facts.image_bytes).mean())
    now = float(costs.own_decode * costs.decode_seconds(facts.pixels, facts.image_bytes).mean())
    assert plain / fine < 0.95
    assert 1 / 1.5 < (said / now) / (plain / fine) < 1.5


@pytest.mark.long
@pytest.mark.parametrize(("what", "settings"), [TAKEN[0], TAKEN[1]])
def test_a_file_written_so_decodes_as_fast_as_predicted(photo_file, photos, tmp_path, what, settings):
    costs, facts = measure_costs(survey(str(photo_file), {}), SETUP), survey(str(photo_file), {})
    path = write(tmp_path / "a.beton", photos, **settings)
    before, after = decode_seconds(photo_file, path)
    made = survey(str(path), {})
    said = costs.decode_seconds(made.pixels, made.image_bytes).mean()
    now = costs.decode_seconds(facts.pixels, facts.image_bytes).mean()
    assert after / before < 0.95
    assert 1 / 2 < (said / now) / (after / before) < 2


def test_no_advice_on_chroma_where_it_is_coarse(found):
    assert found.costs.chroma is None
    assert found.costs.own_decode == 1.0
    assert not any(change.knob == "subsampling" for change in all_changes(found).values())


def test_shrinking_fine_images_says_how_to_lose_the_chroma(fine_found):
    smaller = [change.what for change in all_changes(fine_found).values() if "JPEG, " in change.what]
    assert smaller
    assert all(what.endswith("subsampling='4:2:0'") for what in smaller)


def test_a_report_shows_the_best_of_each_knob_and_names_the_idle_ones(found):
    diagnosis = judge(found, SETUP)
    shown = first_of_each_knob(diagnosis.changes)
    assert [change.knob for change in shown][:1] == [diagnosis.changes[0].knob]
    for knob in (*FILE_KNOBS, *LOADER_KNOBS):
        own = [change for change in diagnosis.changes if change.knob == knob]
        seen = [change for change in shown if change.knob == knob]
        assert len(seen) <= 2
        if own:
            assert own[0] in seen
            assert min(c.file_bytes for c in seen) < 1.06 * min(c.file_bytes for c in own)
    text = report(diagnosis)
    idle = text.split("would gain less than 5%: ")[1].splitlines()[0].split(", ")
    assert {*idle, *(change.knob for change in shown)} == {*FILE_KNOBS, *LOADER_KNOBS}
    assert {"subsampling", "cache mode"} <= set(idle)
    assert all(change.what in text for change in shown)
    if found.gpu is None:
        assert "decode batch (on a GPU): not measured here" in text
