"""What the engine's calls hold: images of one kind of surface, a state for each kind."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import simplejpeg

from ffcv_gpu.native.nvjpeg_types import nvjpegBackend_t as Backend
from tests.jpeg.nvjpeg_bench import CPU, ENGINE, ONE_CPU, plain

#: by simplejpeg's words
GROUPS = [{"444", "Gray"}, {"422"}, {"420"}, {"440"}]


def sampling(data):
    return simplejpeg.decode_jpeg_header(data)[3]


def group_of(data):
    return next(k for k, group in enumerate(GROUPS) if sampling(data) in group)


@pytest.fixture(scope="module")
def every_sampling(make_jpeg, make_photo):
    """24 JPEGs: 4:2:0, 4:4:4, 4:2:2 and 4:4:0 in turn, but one of them grey."""
    files, sizes = plain(make_jpeg, 18)
    for k in range(6):
        photo = make_photo(20 + k, 30, k)
        files.insert(4 * k + 3, simplejpeg.encode_jpeg(photo, 90, "RGB", "440"))
        sizes.insert(4 * k + 3, (20 + k, 30))
    assert Counter(map(sampling, files)) == {"420": 6, "444": 6, "422": 5, "Gray": 1, "440": 6}
    return files, sizes


@pytest.mark.parametrize("facts", [True, False], ids=["facts", "scanned"])
def test_a_call_holds_images_of_one_group(bench, every_sampling, facts):
    files, sizes = every_sampling
    one = bench(engines=7, batch_size=24)
    calls, pictures = one.watch(), one.pictures(files, sizes, facts=facts)
    pictures.check(pictures.submit(one.backend).wait())
    assert sorted(group_of(call.files[0]) for call in calls) == [0, 1, 2, 3]
    for call in calls:
        assert {sampling(data) for data in call.files} <= GROUPS[group_of(call.files[0])]
    assert Counter(data for call in calls for data in call.files) == Counter(files)
    assert one.backend.counts == {ENGINE: 24}


def test_groups_have_states_and_places_of_their_own_and_are_not_waited_for(bench, every_sampling):
    one = bench(engines=7, batch_size=24)
    calls, pictures = one.watch(), one.pictures(*every_sampling)
    pictures.check(pictures.submit(one.backend).wait())
    assert len({call.state for call in calls}) == 4
    assert [call.flying for call in calls] == [0, 1, 2, 3]
    targets = [target for call in calls for target in call.targets]
    assert len(set(targets)) == len(targets), "two images with one destination"


def test_only_a_second_call_of_a_group_is_waited_for(bench, every_sampling):
    """Six images of most groups, three to a call."""
    one = bench(engines=1, batch_size=3)
    calls, pictures = one.watch(), one.pictures(*every_sampling)
    pictures.check(pictures.submit(one.backend).wait())
    assert [group_of(call.files[0]) for call in calls] == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert not any(call.flying_of_state for call in calls)
    assert [call.flying for call in calls] == [0, 0, 0, 1, 0, 1, 0, 1, 0]


def test_a_bad_image_costs_its_group_alone_a_second_try(bench, every_sampling):
    files, sizes = every_sampling
    for place in range(4):
        one = bench(engines=7, batch_size=24)
        one.fake.bad_image(files[place], backends=(Backend.NVJPEG_BACKEND_HARDWARE,))
        pictures = one.pictures(files, sizes)
        pictures.check(pictures.submit(one.backend).wait())
        again = sum(group_of(data) == group_of(files[place]) for data in files)
        assert one.backend.counts == {
            ENGINE: 24 - again, ONE_CPU: again, "jpeg: tried again": again, "jpeg: failed batches": 1
        }  # fmt: skip


def test_a_state_is_prepared_anew_for_another_number_of_images_only(bench, make_jpeg):
    one = bench(engines=7, batch_size=24, slots=1)
    prepared = [one.calls("nvjpegDecodeBatchedInitialize")]
    for count in (24, 24, 20, 20, 24):
        pictures = one.pictures(*plain(make_jpeg, count, alike=True))
        pictures.check(pictures.submit(one.backend).wait())
        prepared.append(one.calls("nvjpegDecodeBatchedInitialize"))
    assert np.diff(prepared).tolist() == [0, 0, 1, 0, 1]


# ---- kinds


@pytest.mark.parametrize("engines", [7, 0])
@pytest.mark.parametrize("sentinel", [True, False], ids=["sentinel", "trusting"])
def test_jpegs_of_rgb_are_decoded_by_the_cpu(bench, make_jpeg, engines, sentinel):
    """No decoder of nvJPEG gives them their colours."""
    one = bench(engines=engines, batch_size=8, sentinel=sentinel)
    files = [make_jpeg(30, 20, k, keep_rgb=True, progressive=k > 3) for k in range(8)]
    pictures = one.pictures(files, [(30, 20)] * 8)
    pictures.check(pictures.submit(one.backend).wait())
    assert one.backend.counts == {CPU: 8}


def test_extended_frames_take_the_engine(bench, make_jpeg):
    files, sizes = plain(make_jpeg, 6)
    extended = [data.replace(b"\xff\xc0\x00", b"\xff\xc1\x00", 1) for data in files]
    assert extended != files
    one = bench(engines=7)
    pictures, as_ever = one.pictures(extended, sizes), one.pictures(files, sizes)
    pictures.check(pictures.submit(one.backend).wait())
    assert one.backend.counts[ENGINE] == 6
    assert np.array_equal(pictures.expected, as_ever.expected)


def test_the_engine_s_smallest_and_largest_sides(bench, make_jpeg):
    one = bench(engines=7)
    sizes = [(1, 1), (1, 16_384), (16_384, 1), (1, 16_385)]
    pictures = one.pictures([make_jpeg(*size) for size in sizes], sizes)
    pictures.check(pictures.submit(one.backend).wait())
    assert one.backend.counts[ENGINE] == 3
    assert "jpeg: failed batches" not in one.backend.counts
