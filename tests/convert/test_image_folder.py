"""A folder of images as torchvision sees it, and all the way into a file."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from ffcv_gpu.convert.image_folder import EXTENSIONS, ImageFolder
from ffcv_gpu.errors import ReadError
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.format import open_beton
from ffcv_gpu.writer import DatasetWriter

NAMES = [
    "n02/b.JPEG",
    "n02/a.jpeg",
    "n02/sub/c.jpg",
    "n02/sub.x/a.png",
    "n02/sub/a/deep.webp",
    "n02/notes.txt",
    "N01/z.PNG",
    "N01/Z.png",
    "n10/é.bmp",
    "n1/1.tif",
    "n1/10.tiff",
    "n1/2.ppm",
    "n1/archive.jpg.gz",
]


@pytest.fixture
def folder(tmp_path, make_jpeg):
    for k, name in enumerate(NAMES):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_jpeg(8, 8, k))
    (tmp_path / "root" / "stray.jpg").write_bytes(b"")
    return tmp_path / "root"


def test_order_and_classes_are_torchvisions(folder, torchvision):
    reference = torchvision.datasets.ImageFolder(str(folder))
    ours = ImageFolder(folder)
    assert [ours[k] for k in range(len(ours))] == reference.samples
    assert list(ours.classes) == reference.classes
    assert ours.targets.tolist() == reference.targets
    assert set(EXTENSIONS) == set(torchvision.datasets.folder.IMG_EXTENSIONS)


def test_links_are_followed(folder, torchvision):
    (folder / "linked").symlink_to(folder / "n1", target_is_directory=True)
    reference = torchvision.datasets.ImageFolder(str(folder))
    assert [ImageFolder(folder)[k] for k in range(len(reference))] == reference.samples


def test_names_that_begin_with_a_dot_are_skipped(folder, caplog):
    """Not as torchvision does: Macs leave such files, and they are no images."""
    before = ImageFolder(folder)
    for name in ("n1/._1.tif", "n1/.DS_Store", "n02/sub/.thumbs/c.jpg", ".Trashes/a/1.jpg", "._n1"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0\5\x16\7")
    caplog.clear()
    after = ImageFolder(folder)
    assert after.source_ids == before.source_ids and after.classes == before.classes
    assert after.ignored == before.ignored and ".DS_Store" not in caplog.text


def test_files_with_other_endings_are_counted_and_named_once(folder, caplog):
    assert ImageFolder(folder).ignored == {".txt": 1, ".gz": 1}
    (folder / "n02" / "notes.txt").unlink()
    (folder / "n1" / "archive.jpg.gz").unlink()
    caplog.clear()
    assert ImageFolder(folder).ignored == {} and not caplog.records
    for name in ("n1/a.gif", "N01/b.GIF", "n02/sub/c.avif", "n02/README", "stray.gif"):
        (folder / name).write_bytes(b"")
    assert ImageFolder(folder).ignored == {".gif": 2, "": 1, ".avif": 1}
    (record,) = caplog.records
    assert "do not end like images: 2 .gif, 1 " in record.message and "1 without ending" in record.message
    for number in range(9):
        (folder / "n1" / f"a.{number}").write_bytes(b"")
    assert len(ImageFolder(folder).ignored) == 12 and ", and 7 other endings; " in caplog.text


def test_other_endings(folder):
    assert [p for p, _ in map(ImageFolder(folder / "..", extensions=(".txt",)).__getitem__, range(1))] == [
        str(folder / ".." / "root" / "n02" / "notes.txt")
    ]


def test_it_is_written_byte_for_byte(folder, tmp_path):
    dataset = ImageFolder(folder)
    path = tmp_path / "a.beton"
    fields = {"image": RGBImageField(), "label": IntField()}
    DatasetWriter(path, fields, class_names=dataset.classes, num_workers=2).from_indexed_dataset(dataset)
    beton, raw = open_beton(path), path.read_bytes()
    assert beton.section.info["class_names"] == sorted({name.split("/")[0] for name in NAMES})
    assert np.array_equal(beton.column("label"), dataset.targets)
    for k, (source, _) in enumerate(map(dataset.__getitem__, range(len(dataset)))):
        offset, length = int(beton.offsets("image")[k]), int(beton.lengths("image")[k])
        with open(source, "rb") as file:
            assert raw[offset : offset + length] == file.read()


def test_a_name_that_is_not_utf_8(folder, tmp_path, make_jpeg):
    path = os.path.join(os.fsencode(folder), b"n1", b"caf\xe9.jpg")
    with open(path, "wb") as file:
        file.write(make_jpeg(8, 8))
    dataset = ImageFolder(folder)
    writer = DatasetWriter(tmp_path / "a.beton", {"image": RGBImageField(), "label": IntField()})
    writer.from_indexed_dataset(dataset)
    assert "n1/caf\\xe9.jpg" in list(open_beton(tmp_path / "a.beton").source_ids)


def test_folders_that_are_none(folder, tmp_path):
    with pytest.raises(ReadError, match="No such file"):
        ImageFolder(tmp_path / "nothing")
    with pytest.raises(ReadError, match="no sub-folders"):
        ImageFolder(folder / "n1")
    (folder / "empty").mkdir()
    with pytest.raises(ReadError, match=r"empty' has no images .*remove it, or, .*extensions="):
        ImageFolder(folder)


def test_a_folder_that_cannot_be_listed_is_an_error(folder, monkeypatch):
    """And not a class with fewer images."""
    real = os.scandir

    def scandir(path):
        if str(path).endswith("sub.x"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ReadError, match=r"cannot read the image folder '.*n02/sub.x': Permission denied"):
        ImageFolder(folder)


def test_it_says_what_it_is(folder):
    assert repr(ImageFolder(folder)).endswith("11 images, 4 classes")
