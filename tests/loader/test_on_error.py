"""``on_error=``: raise, blank, skip or a callable, the same on the CPU and on a (fake) GPU."""

from __future__ import annotations

import errno
import logging
import os

import numpy as np
import pytest

from ffcv_gpu.errors import DecodeError, PipelineError, ReadError
from ffcv_gpu.fields import BytesField, ImageField, MaskField, RaggedField
from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder
from ffcv_gpu.fields.ragged import RaggedDecoder
from ffcv_gpu.format import open_beton
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.loader.faults import Fault
from ffcv_gpu.loader.policy import ErrorPolicy, Exclusions
from ffcv_gpu.trace import StageClock
from ffcv_gpu.transforms import ToDevice, ToTensor
from ffcv_gpu.writer import DatasetWriter
from tests.small_file import MEAN, STD, N, damaged, epoch, loader_threads, same, small_pipelines

BAD = ((4, "image"), (7, "image"), (9, "vector"))
KEPT = sorted(set(range(N)) - {sample for sample, _ in BAD})


def loader(path, device, batch_size=5, pipelines=None, **options):
    if pipelines is None:
        pipelines = small_pipelines("cuda:0" if device else None)
    settings = {"seed": 2, "drop_last": False, "num_workers": 2, "pipelines": pipelines, **device}
    return Loader(path, batch_size, **{**settings, **options})


@pytest.fixture
def bad(small, tmp_path):
    return damaged(small, tmp_path, *BAD)


# ---- what comes out


def test_blank_puts_zeros_before_normalisation_and_keeps_all_else(device, bad, good):
    images, labels, vectors = (column.copy() for column in good)
    images[[4, 7]] = ((0 - MEAN) / STD).astype(np.float32)[:, None, None]
    vectors[9] = 0
    made = loader(bad, device, on_error="blank")
    for _ in range(2):
        same(epoch(made), [images, labels, vectors])
    counts = made.stats().counts
    assert counts["bad sample: blank"] == 2 * 3 and counts["bad sample found: checksum"] == 3
    assert "bad sample: replaced" not in counts


def replaced(order, bad):
    """The next good one of the order for each bad sample, its beginning behind its end."""
    shown = []
    for at, sample in enumerate(order):
        follow = [*order[at:], *order[:at]]
        shown.append(next(other for other in follow if other not in bad) if sample in bad else sample)
    return shown


@pytest.mark.parametrize("order", [OrderOption.SEQUENTIAL, OrderOption.RANDOM])
@pytest.mark.parametrize("batch_size", [1, 4, N])
def test_skip_shows_the_next_good_sample(device, bad, good, order, batch_size):
    made = loader(bad, device, batch_size, order=order, on_error="skip")
    for number in range(2):
        plain = (
            range(N) if order is OrderOption.SEQUENTIAL else np.random.default_rng(2 + number).permutation(N)
        )
        expected = replaced(list(plain), {4, 7, 9})
        same(epoch(made), [column[expected] for column in good])
    counts = made.stats().counts
    assert counts["bad sample: replaced"] == 2 * 3 and counts["bad sample found: checksum"] == 3


def test_skip_does_not_depend_on_the_number_of_ranks(device, bad, good):
    order = replaced(np.random.default_rng(2).permutation(N).tolist(), {4, 7, 9})
    for world_size in (1, 2, 3):
        share = []
        for rank in range(world_size):
            ranks = {"rank": rank, "world_size": world_size, "order": OrderOption.RANDOM, "on_error": "skip"}
            share.append(epoch(loader(bad, device, 3, **ranks))[1].tolist())
        assert len({len(part) for part in share}) == 1
        dealt = [part[k] for k in range(len(share[0])) for part in share]
        assert dealt[:N] == order


def test_a_callable_decides_for_each_error(device, bad, good):
    seen = []

    def decide(error):
        seen.append((type(error), error.sample, error.field, error.offset))
        return "skip" if error.sample == 7 else "blank"

    made = loader(bad, device, on_error=decide)
    labels = epoch(made)[1].tolist()
    assert labels == [8 if i == 7 else i for i in range(N)]
    beton = open_beton(bad)
    assert sorted(seen, key=lambda entry: entry[1]) == [
        (ReadError, sample, field, int(beton.offsets(field)[sample])) for sample, field in BAD
    ]
    assert {(entry.sample, entry.verdict) for entry in made.bad_samples()} == {
        (4, "blank"), (7, "skip"), (9, "blank"),
    }  # fmt: skip


@pytest.mark.usefixtures("no_thread_is_left")
def test_a_callable_may_raise_and_must_answer(device, bad):
    with pytest.raises(ReadError, match="sample 4, field 'image'"):
        epoch(loader(bad, device, on_error=lambda error: "raise"))
    with pytest.raises(PipelineError, match=r"must return 'raise', 'blank' or 'skip', not None.*sample 4"):
        epoch(loader(bad, device, on_error=lambda error: None))
    with pytest.raises(ZeroDivisionError):
        epoch(loader(bad, device, on_error=lambda error: 1 // 0))
    assert not loader_threads()


def test_raise_is_the_default_and_names_everything(device, bad):
    beton = open_beton(bad)
    offset, length = int(beton.offsets("image")[4]), int(beton.lengths("image")[4])
    words = f"damaged.beton: sample 4, field 'image': payload of {length} bytes at byte {offset} "
    with pytest.raises(ReadError, match=words) as caught:
        epoch(loader(bad, device))
    assert (caught.value.sample, caught.value.field, caught.value.offset) == (4, "image", offset)


def test_what_was_bad_is_listed_warned_of_and_counted(device, bad, caplog):
    made = loader(bad, device, on_error="blank")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            epoch(made)
    entries = made.bad_samples()
    assert [(entry.sample, entry.field, entry.kind) for entry in entries] == [
        (sample, field, "checksum") for sample, field in BAD
    ]
    assert all("does not match its checksum" in entry.reason for entry in entries)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 3 and all("replaced by zeros" in text for text in warnings)


@pytest.mark.parametrize("value", ["ignore", None, 3])
def test_other_words_are_refused(small, value):
    with pytest.raises(PipelineError, match="on_error must be 'raise', 'blank', 'skip' or a callable"):
        loader(small, {}, on_error=value)


# ---- other kinds of fault


@pytest.fixture
def no_jpeg(small, tmp_path, monkeypatch):
    """Samples 4 and 6 hold no JPEG, and no checksum says so: as in a plain FFCV file."""
    monkeypatch.setattr("ffcv_gpu.loader.intake.corrupt_rows", lambda *_: [])
    return damaged(small, tmp_path, (4, "image"), (6, "image"), at=0)


def test_garbage_first_and_the_good_ones_are_bit_equal(device, no_jpeg, good):
    made = loader(no_jpeg, device, 3, on_error="blank", order=OrderOption.RANDOM)
    for number in range(3):
        order = np.random.default_rng(2 + number).permutation(N)
        images, labels, _ = epoch(made)
        assert labels.tolist() == order.tolist()
        fine = ~np.isin(order, [4, 6])
        assert np.array_equal(images[fine], good[0][order[fine]])
    assert {(entry.sample, entry.kind) for entry in made.bad_samples()} == {(4, "decode"), (6, "decode")}


def fuzzed(path, folder, seed):
    """A copy of the file in which every other JPEG was cut, blotted, zeroed, or had bytes flipped."""
    rng, data = np.random.default_rng(seed), np.fromfile(path, np.uint8)
    beton = open_beton(path)
    for number, sample in enumerate(range(0, N, 4)):
        start, length = int(beton.offsets("image")[sample]), int(beton.lengths("image")[sample])
        payload = data[start : start + length]
        at, how = int(rng.integers(length)), (number + seed) % 4
        if how == 0:
            payload[at:] = 0
        elif how == 1:
            payload[at : at + 50] = rng.integers(0, 256, payload[at : at + 50].size)
        elif how == 2:
            payload[:at] = 0
        else:
            payload[rng.integers(0, length, 20)] ^= np.uint8(1 << rng.integers(8))
    target = folder / f"fuzzed{seed}.beton"
    data.tofile(target)
    return target


@pytest.mark.parametrize("on_error", ["blank", "skip"])
def test_whatever_a_jpeg_was_made_the_others_are_bit_equal(
    device, small, tmp_path, good, monkeypatch, on_error
):
    """Without checksums: a decoder may take a damaged JPEG for a good one, but may not harm another."""
    monkeypatch.setattr("ffcv_gpu.loader.intake.corrupt_rows", lambda *_: [])
    for seed in range(6):
        made = loader(fuzzed(small, tmp_path, seed), device, 6, on_error=on_error)
        for _ in range(2):
            images, labels, _ = epoch(made)
            fine = np.flatnonzero((labels == np.arange(N)) & (labels % 4 != 0))
            assert fine.size == N - 6 and np.array_equal(images[fine], good[0][fine])
        assert made.bad_samples() and all(entry.sample % 4 == 0 for entry in made.bad_samples())


@pytest.mark.usefixtures("no_thread_is_left")
def test_after_an_error_the_same_loader_goes_on(device, no_jpeg, good):
    made = loader(no_jpeg, device, 3, indices=[*range(4), 4, *range(7, N)])
    for _ in range(3):
        with pytest.raises(DecodeError, match=r"sample 4, field 'image'.* cannot decode"):
            epoch(made)
        assert not loader_threads()
    same(epoch(loader(no_jpeg, device, 3, indices=range(7, N))), [column[7:] for column in good])


def test_a_file_of_garbage_alone_ends_with_an_error(device, small, tmp_path):
    everything = damaged(small, tmp_path, *((sample, "vector") for sample in range(N)))
    with pytest.raises(ReadError, match=r"none of the 23 samples of the epoch is good; loader.bad_samples"):
        epoch(loader(everything, device, on_error="skip"))


@pytest.fixture
def failing_disk(monkeypatch):
    """Makes reads that touch certain bytes fail with EIO."""
    ranges, real = [], os.preadv

    def preadv(descriptor, buffers, offset, *more):
        end = offset + sum(len(buffer) for buffer in buffers)
        if any(offset < stop and start < end for start, stop in ranges):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, buffers, offset, *more)

    monkeypatch.setattr(os, "preadv", preadv)
    return ranges


@pytest.mark.parametrize("cache_gb", [0, None], ids=["payloads", "pages"])
def test_a_block_that_the_disk_does_not_give(device, small, good, failing_disk, cache_gb):
    beton = open_beton(small)
    for sample in (6, 7):
        start = int(beton.offsets("image")[sample])
        failing_disk.append((start + 9, start + 10))
    options = {"os_cache": False, "cache_gb": cache_gb}
    with pytest.raises(
        ReadError, match=r"sample 6, field 'image'.*cannot be read.*Input/output error"
    ) as caught:
        epoch(loader(small, device, **options))
    assert caught.value.sample == 6 and isinstance(caught.value.__cause__, ReadError)
    made = loader(small, device, on_error="skip", **options)
    same(epoch(made), [column[replaced(range(N), {6, 7})] for column in good])
    assert {(entry.sample, entry.kind) for entry in made.bad_samples()} == {(6, "read"), (7, "read")}
    assert made.filter("image", lambda _: True).indices.tolist() == sorted(set(range(N)) - {6, 7})
    failing_disk.clear()  # the disk recovers: a failed read is not held against a sample
    same(epoch(made), good)


def test_a_disk_that_gives_nothing_is_not_taken_for_bad_samples(device, small, failing_disk):
    failing_disk.append((0, 1 << 40))
    with pytest.raises(ReadError) as caught:
        epoch(loader(small, device, 1, on_error="skip", os_cache=False, cache_gb=0))
    assert any("reads of this batch failed" in note for note in caught.value.__notes__)


KINDS = {
    "grey": ImageField(),
    "rgba": ImageField(4),
    "deep": ImageField(3, "uint16"),
    "real": ImageField(2, "float32"),
    "mask": MaskField(),
    "boxes": RaggedField("float32", 4),
    "text": BytesField(),
}


class EveryKind:
    def __init__(self, make_photo):
        self._photos = [make_photo(30 + i % 3, 34, seed=i) for i in range(9)]

    def __len__(self):
        return 9

    def __getitem__(self, i):
        photo = self._photos[i]
        real = photo[..., :2].astype(np.float32) / 7
        rgba = np.concatenate([photo, photo[..., :1]], 2)
        boxes = np.arange(4.0 * (1 + i % 3), dtype=np.float32).reshape(-1, 4) + 1
        text = np.full(5 + i, 65 + i, np.uint8)
        return photo[..., 1], rgba, photo.astype(np.uint16) * 257, real, photo[..., 2] // 9, boxes, text


def test_blanks_of_every_kind_of_field(device, tmp_path, make_photo):
    path = tmp_path / "kinds.beton"
    DatasetWriter(path, KINDS, num_workers=1, progress=False, page_size=1 << 21).from_indexed_dataset(
        EveryKind(make_photo)
    )
    bad = damaged(path, tmp_path, *((k, name) for k, name in enumerate(KINDS)))
    crop = [CenterCropRGBImageDecoder((20, 20), 0.9), ToTensor()]
    plain = {
        **dict.fromkeys(("grey", "rgba", "mask", "deep", "real"), crop),
        "boxes": [RaggedDecoder(pad_to=3)],
    }
    there = {key: [*crop, ToDevice("cuda:0")] for key in ("grey", "rgba", "mask")} if device else {}
    expected = [column.copy() for column in epoch(loader(path, {}, pipelines=plain))]
    for k, column in enumerate(expected):
        assert column[k].any()
        column[k] = 0
    options = {name: value for name, value in device.items() if name != "device"}
    made = loader(bad, options, 4, pipelines={**plain, **there}, on_error="blank")
    same(epoch(made), expected)
    assert made.stats().counts["bad sample: blank"] == len(KINDS)


# ---- elsewhere


def test_what_a_decoder_of_one_s_own_reads_cannot_be_blanked():
    policy = ErrorPolicy("blank", N, StageClock())
    error = ReadError("sample 3 is bad")
    error.sample, error.field = 3, "own"
    with pytest.raises(ReadError, match="sample 3 is bad") as caught:
        policy.judge([Fault(0, "checksum", error)], Exclusions(), {"own"})
    assert any("user-defined decoder" in note for note in caught.value.__notes__)


def test_the_list_of_bad_samples_is_bounded_and_the_count_is_not(caplog):
    clock = StageClock()
    policy = ErrorPolicy("skip", 5000, clock)
    for sample in range(1500):
        error = DecodeError(f"sample {sample}")
        error.sample, error.field = sample, "image"
        policy.judge([Fault(0, "decode", error)], Exclusions(), ())
    assert len(policy.bad_samples()) == 1000 and len(policy.skipped_rows()) == 1500
    assert clock.snapshot().counts["bad sample found: decode"] == 1500
    assert len(caplog.records) == 20 and "further ones are only listed" in caplog.records[-1].getMessage()


def test_filter_leaves_out_what_cannot_be_looked_at(bad, monkeypatch):
    monkeypatch.setattr("ffcv_gpu.loader.policy.MAX_LISTED", 0)  # however many there are
    made = loader(bad, {}, on_error="skip", pipelines=small_pipelines() | {"label": None})
    assert made.filter("vector", lambda vector: vector[0] > 8).indices.tolist() == list(range(10, N))
    pipelines = {"image": None, "label": None}
    kept = loader(bad, {}, on_error="blank", pipelines=pipelines).filter("vector", lambda v: v[0] < 3)
    assert kept.indices.tolist() == [0, 1, 2, 9]  # zeros stand for sample 9


def test_a_field_that_is_not_used_is_not_read(bad):
    images_only = {"label": None, "vector": None}
    made = loader(bad, {}, pipelines={**small_pipelines(), **images_only}, on_error="blank")
    for _ in made:
        pass
    assert {entry.sample for entry in made.bad_samples()} == {4, 7}
