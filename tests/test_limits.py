"""JPEGs with too many pixels: refused wherever one is decoded, before memory of their size is touched."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from ffcv_gpu import DecodeStatus, decode_jpegs
from ffcv_gpu.cli.checking import PAYLOAD, check_payloads
from ffcv_gpu.convert.beton import BetonDataset
from ffcv_gpu.errors import DecodeError, FormatError, PipelineError, SampleError
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.fields.decoders import CenterCropRGBImageDecoder, PadRGBImageDecoder
from ffcv_gpu.format import Beton
from ffcv_gpu.limits import MAX_PIXELS, max_pixels, too_many_pixels
from ffcv_gpu.loader import Loader
from ffcv_gpu.writer import DatasetWriter
from tests.fields.stored import Stored

N, BAD = 6, 3
SAYS = r"65500 x 65500 pixels are more than 178,956,970, .* set FFCV_GPU_MAX_PIXELS=4290250000 in the env"


def jpeg(height: int = 16, width: int = 16, *, claims: tuple[int, int] | None = None) -> bytes:
    """Return a JPEG of one colour; `claims` are height and width in its header."""
    data = bytearray(simplejpeg.encode_jpeg(np.full((height, width, 3), 90, np.uint8), 90))
    if claims:
        frame = data.index(b"\xff\xc0") + 5
        data[frame : frame + 4] = struct.pack(">HH", *claims)
    return bytes(data)


BOMB = jpeg(claims=(65500, 65500))


def resident(what: str) -> int:
    """Return VmRSS, or VmHWM, its highest value, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


@pytest.fixture
def little_memory():
    """Fail if more than 300 MB become resident; a large allocation that nobody touches costs nothing."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident("VmRSS")
    yield
    assert resident("VmHWM") - before < 300e6


@pytest.fixture
def file(tmp_path, monkeypatch):
    """``file((height, width), ...)``: a plain FFCV file; its records from BAD on claim these sizes."""

    def make(*claims):
        path = tmp_path / "claims.beton"
        fields = {"image": RGBImageField(), "label": IntField()}
        DatasetWriter(path, fields, page_size=1 << 21, progress=False).from_indexed_dataset(
            [(jpeg(), i) for i in range(N)]
        )
        monkeypatch.setattr(Beton, "_read_section", lambda beton: None)  # no checksums, as in FFCV's files
        layout = BetonDataset(path)._file.beton.layout
        records = np.memmap(path, layout.dtype, "r+", layout.metadata_offset, (N,))
        for row, (height, width) in enumerate(claims, start=BAD):
            records["f0"]["height"][row], records["f0"]["width"][row] = height, width
        records.flush()
        return path

    return make


def loader(path, head=None, **options):
    image = [head or CenterCropRGBImageDecoder((8, 8), 1.0)]
    return Loader(path, 3, pipelines={"image": image}, num_workers=1, **options)


def test_the_limit_is_pillows_or_the_environments(monkeypatch):
    from PIL import Image

    assert MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS == max_pixels()
    assert not too_many_pixels(1, MAX_PIXELS) and too_many_pixels(1, MAX_PIXELS + 1)
    monkeypatch.setenv("FFCV_GPU_MAX_PIXELS", "100")
    assert not too_many_pixels(10, 10)
    assert "11 x 10 pixels are more than 100" in too_many_pixels(10, 11)
    monkeypatch.setenv("FFCV_GPU_MAX_PIXELS", "1e9")
    with pytest.raises(PipelineError, match="FFCV_GPU_MAX_PIXELS='1e9' in the environment must be a whole"):
        max_pixels()


@pytest.mark.parametrize("more", [{}, {"rois": [[0, 0, 2, 2]] * 3}], ids=["whole", "rois"])
def test_decode_jpegs(little_memory, more):
    files = [jpeg(), BOMB, jpeg()]
    images, status = decode_jpegs(files, device="cpu", output="numpy", num_workers=1, **more)
    assert status.tolist() == [0, DecodeStatus.BAD_JPEG, 0]
    assert images[1] is None and images[2][0, 0].tolist() == images[0][0, 0].tolist()
    with pytest.raises(DecodeError, match=f"image 1 .*{SAYS}"):
        decode_jpegs(files, device="cpu", output="numpy", on_error="raise", **more)


def test_the_limit_can_be_raised(monkeypatch):
    files = [jpeg(16, 16), jpeg(16, 17)]
    monkeypatch.setenv("FFCV_GPU_MAX_PIXELS", "256")
    assert decode_jpegs(files, device="cpu", output="numpy")[1].tolist() == [0, DecodeStatus.BAD_JPEG]
    monkeypatch.setenv("FFCV_GPU_MAX_PIXELS", "272")
    assert not decode_jpegs(files, device="cpu", output="numpy")[1].any()


@pytest.mark.parametrize("check", ["decode", "header"])
@pytest.mark.parametrize("mode", [None, "raw", "jpg"])
def test_the_writer_refuses_them(little_memory, mode, check):
    for more in ({}, {"max_resolution": 64}):
        with pytest.raises(SampleError, match=f"unreadable image: JPEG, byte .*{SAYS}"):
            Stored(RGBImageField(mode, check=check, **more), BOMB)


def test_the_writer_makes_no_jpeg_that_the_loader_would_refuse(monkeypatch):
    monkeypatch.setenv("FFCV_GPU_MAX_PIXELS", "100")
    pixels = np.zeros((10, 11, 3), np.uint8)
    with pytest.raises(SampleError, match=r"a JPEG of 11 x 10 pixels .*for the Loader; or give max_res"):
        Stored(RGBImageField("jpg"), pixels)
    Stored(RGBImageField("jpg", max_resolution=10), pixels)
    Stored(RGBImageField("raw"), pixels)


@pytest.mark.parametrize("on_error", ["raise", "blank", "skip"])
def test_a_record_that_claims_too_much_is_refused_when_the_loader_is_made(file, little_memory, on_error):
    path = file((65500, 65500))
    with pytest.raises(FormatError, match=rf"claims\.beton: sample 3, field 'image': {SAYS}.*; or leave"):
        loader(path, on_error=on_error)
    rest = [i for i in range(N) if i != BAD]
    made = loader(path, indices=rest, on_error=on_error, drop_last=False)
    assert np.concatenate([labels for _, labels in made]).ravel().tolist() == rest
    made.indices = np.arange(N)
    with pytest.raises(FormatError, match="sample 3, field 'image'"):
        next(iter(made))


def test_a_blank_image_takes_no_memory_whatever_its_record_claims(file, little_memory):
    made = loader(file((13_000, 13_000)), on_error="blank", drop_last=False)
    images = np.concatenate([images for images, _ in made])
    assert np.flatnonzero(images.reshape(N, -1).any(axis=1)).tolist() == [0, 1, 2, 4, 5]
    assert [entry.sample for entry in made.bad_samples()] == [BAD]


def test_images_are_not_padded_to_it(file, little_memory):
    """One tall and one wide image, neither of which is large, would ask for images of 13 GB."""
    with pytest.raises(PipelineError, match="would pad the images of 'image' to 65535 x 65535 pixels"):
        loader(file((65535, 16), (16, 65535)), PadRGBImageDecoder())


def test_verify_does_not_decode_them(tmp_path, little_memory):
    (tmp_path / "file").write_bytes(BOMB)
    payload = np.zeros(1, PAYLOAD)
    payload["length"], payload["height"], payload["width"] = len(BOMB), 65500, 65500
    ((_, bad),) = check_payloads(str(tmp_path / "file"), payload, 1)
    assert "65500 x 65500 pixels are more than" in bad[0].reason
