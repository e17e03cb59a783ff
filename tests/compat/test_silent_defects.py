"""What passes silently in FFCV 1.0.2 (each was tried there), and is noticed or impossible here.

`DEFECTS` is the whole list; the tests of most are here, of some where the thing itself is tested.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.errors import DecodeError, FormatError, ReadError, SampleError
from ffcv_gpu.fields import BytesField, IntField, RGBImageField
from ffcv_gpu.fields.decoders import (
    IntDecoder,
    RandomResizedCropRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv_gpu.loader import Loader
from ffcv_gpu.pipeline.compiler import Compiler
from ffcv_gpu.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor
from ffcv_gpu.writer import DatasetWriter

N = 12

HERE = "compat/test_silent_defects.py"
QUIRKS, DETERMINISM = "loader/test_ffcv_quirks.py", "loader/test_determinism.py"
#: number: what happens in FFCV, (where its test is, the beginning of the test's name)
DEFECTS = {
    1: ("a damaged JPEG is a black or stale image", (HERE, "a_damaged_jpeg_is_named_and_never_a_black")),
    2: ("empty byte fields corrupt their neighbours", (HERE, "empty_byte_strings_leave_their_neighbours")),
    3: ("names alike in 16 letters shift all later columns", (HERE, "names_that_ffcv_would_cut")),
    4: ("sides above 65535 wrap", (HERE, "an_image_too_long_for_the_format_is_refused")),
    5: ("filter() on a subset gives other samples", (HERE, "filter_on_a_subset_keeps_rows_of_the_file")),
    6: ("a list of steps loses its decoder", (HERE, "a_list_of_steps_serves_any_number_of_loaders")),
    7: ("an interrupted write is read as a whole file", (HERE, "an_interrupted_write_leaves_no_file")),
    8: ("a batch that is kept is overwritten", ("loader/test_loader.py", "kept_batches_stay_what_they")),
    9: ("no seed reaches the augmentations", (DETERMINISM, "nothing_else_matters")),
    10: ("QUASI_RANDOM depends on earlier epochs", (DETERMINISM, "nor_do_earlier_epochs")),
    11: ("Squeeze() drops the axis of a batch of one", (HERE, "squeeze_never_drops_the_batch_axis")),
    12: ("float16 comes out as int16", (HERE, "float16_is_float16_without_further_steps")),
    13: ("1.7 is stored as 1", ("fields/test_basics.py", "what_ffcv_would_cut_or_crash_on")),
    14: ("the rest of a row of bytes is undefined", (QUIRKS, "a_table_out_of_order_and_entries")),
    15: ("ghost entries repeat one sample, drop another", (QUIRKS, "a_table_out_of_order_and_entries")),
    16: ("a lost entry gives another sample's bytes", (QUIRKS, "a_lost_entry_is_refused")),
    17: ("MixupToOneHot changes its input", ("transforms/test_mixup.py", "one_hot_keeps_both_shares")),
    18: ("filter() forgets custom fields and orders", ("loader/test_filter.py", "everything_else_is_kept")),
    19: ("a crop outside its image reads other memory", ("compat/test_crops.py", "a_crop_outside_its")),
    20: ("torch's and numba's threads are set for all", (HERE, "threads_of_other_libraries_are_left")),
    21: ("shuffle_indices shuffles the caller's array", ("writer/test_dataset_writer.py", "shuffling")),
    22: ("a WebDataset pipeline of None is no error", ("convert/test_webdataset.py", "a_bad_pipeline_is")),
}


@pytest.mark.parametrize("number", DEFECTS)
def test_each_has_its_test(root: Path, number: int) -> None:
    what, (file, name) = DEFECTS[number]
    assert f"def test_{name}" in (root / "tests" / file).read_text(encoding="utf-8"), what


def write(path, fields, samples, **more):
    DatasetWriter(path, fields, num_workers=1, progress=False, **more).from_indexed_dataset(samples)
    return path


@pytest.fixture
def jpegs(tmp_path, make_photo):
    images = [simplejpeg.encode_jpeg(make_photo(48, 64, seed), 90) for seed in range(N)]
    fields = {"image": RGBImageField(), "label": IntField()}
    return write(tmp_path / "jpegs.beton", fields, [(image, i) for i, image in enumerate(images)])


def payload(path, name, sample):
    payloads = Dataset(str(path), {}, os_cache=True).payloads(name)
    return int(payloads.offsets[sample]), int(payloads.lengths[sample])


# ---- 1: a damaged JPEG gives a black or stale image


@pytest.mark.parametrize("where", ["header", "scan", "tail"])
def test_a_damaged_jpeg_is_named_and_never_a_black_image(jpegs, where):
    offset, length = payload(jpegs, "image", 5)
    begin = {"header": 0, "scan": length // 2, "tail": length - 200}[where]
    data = bytearray(jpegs.read_bytes())
    data[offset + begin : offset + begin + 100] = bytes(100)
    jpegs.write_bytes(data)
    with pytest.raises((ReadError, DecodeError), match=r"sample 5, field 'image'"):
        list(Loader(jpegs, 4, drop_last=False))


def test_without_checksums_the_decoder_still_notices_a_lost_scan(jpegs, monkeypatch):
    """As in a file that FFCV wrote: no sums."""
    offset, length = payload(jpegs, "image", 5)
    data = bytearray(jpegs.read_bytes())
    data[offset + length // 3 : offset + length] = bytes(length - length // 3)
    jpegs.write_bytes(data)
    monkeypatch.setattr("ffcv_gpu.loader.intake.corrupt_rows", lambda *_: [])
    with pytest.raises(DecodeError, match=r"sample 5, field 'image'.*cannot decode"):
        list(Loader(jpegs, 4, drop_last=False))


# ---- 2: empty byte fields corrupt their neighbours


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("lengths", [[0, 5, 0, 0, 7, 3], [4, 0, 4, 0, 4, 0], [0] * 6])
def test_empty_byte_strings_leave_their_neighbours_alone(tmp_path, lengths, os_cache):
    values = [bytes([65 + i]) * length for i, length in enumerate(lengths)]
    others = [bytes([97 + i]) * 9 for i in range(6)]
    fields = {"text": BytesField(), "other": BytesField()}
    path = write(tmp_path / "bytes.beton", fields, list(zip(values, others, strict=True)))
    pipelines = {name: [fields[name].get_decoder_class()()] for name in fields}
    ((text, other),) = Loader(path, 6, os_cache=os_cache, pipelines=pipelines)
    assert [bytes(row).rstrip(b"\0") for row in text] == values
    assert [bytes(row) for row in other] == others


# ---- 3: two long field names with the same first 16 letters shift all later columns


def test_names_that_ffcv_would_cut_to_the_same_are_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "names.beton"
    fields = {"segmentation_mask_left": IntField(), "segmentation_mask_right": IntField()}
    with pytest.raises(ValueError, match=r"segmentation_mask_left.*16"):
        write(path, fields, [(1, 2)])
    assert not path.exists()


# ---- 4: sides above 65535 wrap


@pytest.mark.parametrize("shape", [(1, 65536, 3), (70000, 1, 3)])
def test_an_image_too_long_for_the_format_is_refused(tmp_path, shape):
    path = tmp_path / "long.beton"
    samples = [(np.zeros((1, 65535, 3), np.uint8),), (np.zeros(shape, np.uint8),)]
    with pytest.raises(SampleError, match="65535"):
        write(path, {"image": RGBImageField(write_mode="raw")}, samples)
    assert not path.exists()
    write(path, {"image": RGBImageField(write_mode="raw")}, samples[:1])
    assert Dataset(str(path), {}, os_cache=True).payloads("image").widths.tolist() == [65535]


# ---- 5: filter() on a loader with indices returns the wrong samples


def test_filter_on_a_subset_keeps_rows_of_the_file(jpegs):
    loader = Loader(jpegs, 4, drop_last=False, indices=[9, 2, 7, 4])
    kept = loader.filter("label", lambda label: label % 2 == 1)
    assert kept.indices.tolist() == [9, 7]
    assert [label for _, labels in kept for label in labels[:, 0].tolist()] == [9, 7]


# ---- 6: the pipeline list is emptied of its decoder, so a second Loader silently crops differently


def test_a_list_of_steps_serves_any_number_of_loaders(jpegs):
    image = [RandomResizedCropRGBImageDecoder((16, 16)), RandomHorizontalFlip(), ToTensor()]
    label = [IntDecoder(), ToTensor()]
    pipelines = {"image": image, "label": label}
    before = [list(image), list(label), dict(pipelines)]
    batches = [next(iter(Loader(jpegs, N, seed=1, pipelines=pipelines)))[0] for _ in range(2)]
    assert batches[0].shape == (N, 16, 16, 3)
    assert np.array_equal(batches[0], batches[1])
    assert [image, label, pipelines] == before


# ---- 7: an interrupted write is read as a valid file


class _Interrupted:
    """A dataset whose power goes off in the middle."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        if i == 7:
            raise KeyboardInterrupt
        return np.zeros((32, 32, 3), np.uint8), i


def test_an_interrupted_write_leaves_no_file_of_that_name(tmp_path):
    path = tmp_path / "half.beton"
    fields = {"image": RGBImageField(), "label": IntField()}
    with pytest.raises(BaseException):  # noqa: B017 (whatever the writer makes of the interruption)
        write(path, fields, _Interrupted())
    assert not path.exists()


def test_a_file_whose_end_is_missing_is_refused(jpegs):
    whole = jpegs.read_bytes()
    for share in (0.999, 0.9, 0.5, 0.1):
        jpegs.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises((FormatError, ReadError)):
            Loader(jpegs, 4)


# ---- 11, 12: shapes and types that depend on the batch


@pytest.mark.parametrize("batch_size", [1, 5])
def test_squeeze_never_drops_the_batch_axis(jpegs, batch_size):
    """Also in batches of one, and in a last batch of one."""
    pipelines = {"image": None, "label": [IntDecoder(), ToTensor(), Squeeze()]}
    shapes = [batch[0].shape for batch in Loader(jpegs, batch_size, drop_last=False, pipelines=pipelines)]
    assert sum(shape[0] for shape in shapes) == N and all(len(shape) == 1 for shape in shapes)


def test_float16_is_float16_without_further_steps(jpegs):
    decoder = RandomResizedCropRGBImageDecoder((16, 16))
    norm = NormalizeImage(np.zeros(3), np.full(3, 255.0), np.float16)
    (images, _) = next(iter(Loader(jpegs, 4, pipelines={"image": [decoder, norm]})))
    assert images.dtype == np.float16 and 0 <= images.min() <= images.max() <= 1


# ---- 20: a Loader sets the thread counts of torch and numba for the whole process


def test_threads_of_other_libraries_are_left_alone(jpegs):
    import numba
    import torch

    before = torch.get_num_threads(), numba.get_num_threads()
    list(Loader(jpegs, 4, num_workers=1))
    Loader(jpegs, 4, num_workers=before[0] + 1)
    Compiler.set_num_threads(before[0] + 3)
    assert (torch.get_num_threads(), numba.get_num_threads()) == before


# ---- not silent, but seen in the accuracy of whoever switches: which arithmetic decodes JPEGs


@pytest.mark.parametrize("dct", ["fast", "accurate"])
def test_dct_says_which_arithmetic_decodes(jpegs, make_photo, dct):
    (images,) = Loader(jpegs, N, pipelines={"image": [SimpleRGBImageDecoder()], "label": None}, dct=dct)
    for seed, image in enumerate(images[0]):
        data = simplejpeg.encode_jpeg(make_photo(48, 64, seed), 90)
        assert np.array_equal(image, simplejpeg.decode_jpeg(data, fastdct=dct == "fast"))
