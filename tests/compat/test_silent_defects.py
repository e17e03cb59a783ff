"""What passes silently in FFCV 1.0.2 (each was tried there), and is noticed or impossible here."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg

from ffcv_gpu.errors import DecodeError, FormatError, ReadError, SampleError
from ffcv_gpu.fields import BytesField, IntField, RGBImageField
from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.loader.dataset import Dataset
from ffcv_gpu.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor
from ffcv_gpu.writer import DatasetWriter

N = 12


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


# ---- a damaged JPEG gives a black or stale image


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
    monkeypatch.setattr("ffcv_gpu.loader.intake.corrupt_rows", lambda staged: [])
    with pytest.raises(DecodeError, match=r"sample 5, field 'image'.*cannot decode"):
        list(Loader(jpegs, 4, drop_last=False))


# ---- empty byte fields corrupt their neighbours


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


# ---- two long field names with the same first 16 letters shift all later columns


def test_names_that_ffcv_would_cut_to_the_same_are_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "names.beton"
    fields = {"segmentation_mask_left": IntField(), "segmentation_mask_right": IntField()}
    with pytest.raises(ValueError, match=r"segmentation_mask_left.*16"):
        write(path, fields, [(1, 2)])
    assert not path.exists()


# ---- sides above 65535 wrap


@pytest.mark.parametrize("shape", [(1, 65536, 3), (70000, 1, 3)])
def test_an_image_too_long_for_the_format_is_refused(tmp_path, shape):
    path = tmp_path / "long.beton"
    samples = [(np.zeros((1, 65535, 3), np.uint8),), (np.zeros(shape, np.uint8),)]
    with pytest.raises(SampleError, match="65535"):
        write(path, {"image": RGBImageField(write_mode="raw")}, samples)
    assert not path.exists()
    write(path, {"image": RGBImageField(write_mode="raw")}, samples[:1])
    assert Dataset(str(path), {}, os_cache=True).payloads("image").widths.tolist() == [65535]


# ---- filter() on a loader with indices returns the wrong samples


def test_filter_on_a_subset_keeps_rows_of_the_file(jpegs):
    loader = Loader(jpegs, 4, drop_last=False, indices=[9, 2, 7, 4])
    kept = loader.filter("label", lambda label: label % 2 == 1)
    assert kept.indices.tolist() == [9, 7]
    assert [label for _, labels in kept for label in labels[:, 0].tolist()] == [9, 7]


# ---- the pipeline list is emptied of its decoder, so a second Loader silently crops differently


def test_a_list_of_steps_serves_any_number_of_loaders(jpegs):
    image = [RandomResizedCropRGBImageDecoder((16, 16)), RandomHorizontalFlip(), ToTensor()]
    label = [IntDecoder(), ToTensor()]
    pipelines = {"image": image, "label": label}
    before = [list(image), list(label), dict(pipelines)]
    batches = [next(iter(Loader(jpegs, N, seed=1, pipelines=pipelines)))[0] for _ in range(2)]
    assert batches[0].shape == (N, 16, 16, 3)
    assert np.array_equal(batches[0], batches[1])
    assert [image, label, pipelines] == before


# ---- an interrupted write is read as a valid file


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


# ---- shapes and types that depend on the batch


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
