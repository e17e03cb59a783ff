"""Files whose JPEGs have an index for crops: written, looked at, loaded, written again."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg

from ffcv_gpu.convert.beton import BetonDataset
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.fields.decoders import (
    CenterCropRGBImageDecoder,
    RandomResizedCropRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv_gpu.format import JpegFlag, open_beton
from ffcv_gpu.jpeg.crop_index import without_crop_index
from ffcv_gpu.jpeg.cropped import Cropped
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.loader import Loader, OrderOption, gpu_fill
from ffcv_gpu.loader.gpu_fill import PartFiller
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.transforms import RandomHorizontalFlip, ToDevice, ToTensor, ToTorchImage
from ffcv_gpu.writer import DatasetWriter, merge_files
from tests.small_file import damaged, epoch, same

N = 20


def samples(make_photo):
    """JPEGs of all subsamplings; every fourth image is raw, every seventh is too small for an index."""
    for i in range(N):
        photo = make_photo(90 + i, 230 - i, i) if i % 7 else make_photo(7, 60, i)
        kind = ("420", "422", "444")[i % 3]
        yield simplejpeg.encode_jpeg(photo, 90, colorsubsampling=kind) if i % 4 else photo, i


def write(path, made, **settings):
    fields = {"image": RGBImageField(**settings), "label": IntField()}
    report = DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(made)
    return path, report


@pytest.fixture(scope="module")
def plain(tmp_path_factory, make_photo):
    return write(tmp_path_factory.mktemp("plain") / "plain.beton", list(samples(make_photo)))[0]


@pytest.fixture(scope="module")
def indexed(tmp_path_factory, make_photo):
    return write(
        tmp_path_factory.mktemp("index") / "indexed.beton", list(samples(make_photo)), crop_index=True
    )[0]


def pipelines(device, decoder=RandomResizedCropRGBImageDecoder):
    there = [ToDevice("cuda:0")] if device else []
    image = [decoder((40, 48)), RandomHorizontalFlip(), ToTensor(), *there, ToTorchImage()]
    return {"image": image}


def loaded(path, device, **options):
    settings = {"order": OrderOption.RANDOM, "seed": 5, "drop_last": False, "num_workers": 2, **device}
    made = {"pipelines": pipelines(device), **options}
    return Loader(path, 6, **{**settings, **made})


def test_the_same_batches(device, plain, indexed):
    one, other = loaded(indexed, device), loaded(plain, device)
    for _ in range(2):
        same(epoch(one), epoch(other))
    assert one.stats().counts == other.stats().counts


def test_a_gpu_can_decode_rows_too(gpu, plain, indexed, monkeypatch):
    gpu()
    there, sent = {"device": "cuda:0"}, []
    expected = epoch(loaded(plain, there))
    real = PartFiller.encoded

    def watched(self):
        encoded, starts = real(self)
        images, jpeg = self._image("image"), self._layout.images["image"].jpeg
        whole = (images.heights * images.widths)[jpeg].sum()
        narrower = np.count_nonzero(3 * encoded.widths < encoded.pitches)
        sent.append(((encoded.heights * encoded.widths).sum(), whole, narrower))
        return encoded, starts

    monkeypatch.setattr(PartFiller, "encoded", watched)
    with monkeypatch.context() as patch:
        patch.setattr(gpu_fill, "CROPS_ON_GPU", False)
        same(epoch(loaded(indexed, there)), expected)
    assert all(got == whole for got, whole, _ in sent)
    sent.clear()
    for options in (
        {},
        {"cpu_share": 0.5},
        {"paranoid": True},
        {"os_cache": False},
        {"gpu_memory_gb": 0.0005},
    ):
        same(epoch(loaded(indexed, there, **options)), expected)
    got, whole, narrower = map(sum, zip(*sent, strict=True))
    assert 0 < got < 0.9 * whole and narrower > 10


@pytest.mark.usefixtures("turbojpeg3")
@pytest.mark.parametrize("jpeg_backend", ["turbo", "turbo3"])
def test_the_same_batches_by_both_libraries(plain, indexed, jpeg_backend):
    same(
        epoch(loaded(indexed, {}, jpeg_backend=jpeg_backend)), epoch(loaded(plain, {}, jpeg_backend="turbo"))
    )


def test_whole_images_several_crops_and_fast_dct(make_photo, tmp_path):
    made = [(simplejpeg.encode_jpeg(make_photo(64, 56, i), 90), i) for i in range(8)]
    paths = [write(tmp_path / f"{on}.beton", made, crop_index=on)[0] for on in (False, True)]
    crops = {"image": [CenterCropRGBImageDecoder((24, 24), 0.5)], "label": None,
             "other": PipelineSpec("image", RandomResizedCropRGBImageDecoder((24, 24)))}  # fmt: skip
    for options in ({"pipelines": {"image": [SimpleRGBImageDecoder()]}}, {"pipelines": crops},
                    {"dct": "fast"}):  # fmt: skip
        same(*(epoch(loaded(path, {}, **options)) for path in paths))


def test_only_what_crops_need_is_decoded(indexed, monkeypatch):
    seen = []
    real = Cropped._decode_cut

    def watched(self, encoded, *more):
        cut, parts = real(self, encoded, *more)
        seen.append((cut.size, encoded.offsets.size))
        return cut, parts

    monkeypatch.setattr(Cropped, "_decode_cut", watched)
    epoch(loaded(indexed, {}))
    cut, all_of_them = map(sum, zip(*seen, strict=True))
    assert all_of_them == N - N // 4 and 0 < cut <= all_of_them
    assert "decoded by turbo" in loaded(indexed, {}, jpeg_backend="turbo").explain()


def test_what_the_file_says(indexed, plain):
    beton, other = open_beton(indexed), open_beton(plain)
    facts, without = beton.facts("image"), other.facts("image")
    for i in range(N):
        expected = i % 4 != 0 and i % 7 != 0
        assert facts["flags"][i] == without["flags"][i] | (JpegFlag.CROP_INDEX if expected else 0), i
        one, was = (BetonDataset(path, decode=False)[i][0] for path in (indexed, plain))
        if expected:
            assert without_crop_index(one, scan_jpeg(one).scan_offset) == was != one
        else:
            assert np.array_equal(one, was)


def test_encoded_images_get_one_too(tmp_path, make_photo):
    made = [(make_photo(100, 80, i), i) for i in range(3)]
    path, _ = write(tmp_path / "a.beton", made, write_mode="jpg", crop_index=True, max_resolution=90)
    assert (open_beton(path).facts("image")["flags"] & JpegFlag.CROP_INDEX).all()
    other, _ = write(tmp_path / "b.beton", made, write_mode="jpg", max_resolution=90)
    for (image, _), (expected, _) in zip(BetonDataset(path), BetonDataset(other), strict=True):
        assert np.array_equal(image, expected)


def test_any_number_of_workers_writes_the_same_file(tmp_path, make_photo, indexed):
    path, fields = tmp_path / "a.beton", {"image": RGBImageField(crop_index=True), "label": IntField()}
    DatasetWriter(path, fields, num_workers=3, progress=False).from_indexed_dataset(list(samples(make_photo)))
    assert path.read_bytes() == indexed.read_bytes()


def test_written_again_and_merged_it_stays(tmp_path, indexed):
    stored, again = BetonDataset(indexed, decode=False), tmp_path / "again.beton"
    DatasetWriter(again, stored.fields, num_workers=1, progress=False).from_indexed_dataset(stored)
    assert again.read_bytes() == indexed.read_bytes()
    merge_files([indexed, indexed], tmp_path / "twice.beton")
    flags = open_beton(tmp_path / "twice.beton").facts("image")["flags"]
    assert np.count_nonzero(flags & JpegFlag.CROP_INDEX) == 2 * 13


class OwnImages(RGBImageField):
    """A field of the user's, which stays what it is."""

    @staticmethod
    def from_binary(binary):
        return OwnImages()


def test_a_dataset_does_not_replace_the_users_field(tmp_path, make_photo):
    fields, path = {"image": OwnImages("jpg", crop_index=True)}, tmp_path / "own.beton"
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset([(make_photo(60, 50),)])
    dataset = BetonDataset(path, custom_fields={"image": OwnImages})
    assert type(dataset.fields["image"]) is OwnImages


def stale(indexed, other):
    """A JPEG with the index of the file's sample 1, as jpegtran leaves it in a file that it has changed."""
    data, at = BetonDataset(indexed, decode=False)[1][0], other.index(b"\xff\xda")
    index = data[data.index(b"\xff\xef") : data.index(b"\xff\xda")]
    return other[:at] + index + other[at:]


def test_an_index_that_another_program_left_is_not_trusted(tmp_path, indexed, make_photo):
    other = simplejpeg.encode_jpeg(make_photo(91, 129, 99), 70)
    for crop_index in (False, True):
        path, _ = write(tmp_path / f"{crop_index}.beton", [(stale(indexed, other), 0)], crop_index=crop_index)
        assert bool(open_beton(path).facts("image")["flags"][0] & JpegFlag.CROP_INDEX) == crop_index
        got = epoch(loaded(path, {}, drop_last=False))[0]
        expected, _ = write(tmp_path / f"{crop_index}-plain.beton", [(other, 0)])
        assert np.array_equal(got, epoch(loaded(expected, {}, drop_last=False))[0])


def test_nor_is_it_beside_those_that_can_be(device, tmp_path, plain, indexed, make_photo):
    """It even fits: a photograph of the same size and kind."""
    other = simplejpeg.encode_jpeg(make_photo(91, 229, 99), 70, colorsubsampling="422")
    one, _ = write(tmp_path / "stale.beton", [(stale(indexed, other), 0)] * 8)
    two, _ = write(tmp_path / "plain.beton", [(other, 0)] * 8)
    same(epoch(loaded([indexed, one], device)), epoch(loaded([plain, two], device)))


def test_damage_is_found_by_its_checksum(device, indexed, tmp_path):
    bad = damaged(indexed, tmp_path, (5, "image"))
    made = loaded(bad, device, on_error="skip")
    epoch(made)
    assert [(entry.sample, entry.kind) for entry in made.bad_samples()] == [(5, "checksum")]


def test_a_file_of_both(device, plain, indexed):
    one, other = loaded([plain, indexed], device), loaded([plain, plain], device)
    same(epoch(one), epoch(other))
