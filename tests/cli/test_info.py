"""What ``info`` says, against what was put in and what FFCV and Pillow say of the same."""

from __future__ import annotations

import io
import json
import statistics

import numpy as np
import pytest
from PIL import Image


def summary(run, path, *more):
    result = run("info", path, "--json", *more)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def fields(run, small):
    return {field["name"]: field for field in summary(run, small)["fields"]}


def test_counts_and_sizes_are_those_of_the_samples(fields, samples):
    images = [row[0] for row in samples]
    jpegs, pixels = images[::2], images[1::2]
    assert (fields["image"]["jpeg"], fields["image"]["raw"]) == (len(jpegs), len(pixels))
    assert fields["image"]["jpeg_bytes"] == sum(map(len, jpegs))
    assert fields["image"]["raw_bytes"] == sum(image.nbytes for image in pixels)
    assert fields["vector"]["payload_bytes"] == 24 * len(samples)
    assert fields["text"]["bytes_per_sample"] == {"min": 0, "median": 26.0, "max": 52}
    assert fields["label"]["values"] == {"min": 0, "max": 2}
    assert [field["type"] for field in fields.values()] == [
        "RGBImageField", "IntField", "FloatField", "NDArrayField", "BytesField"
    ]  # fmt: skip


def test_resolutions_are_those_of_the_samples(fields, samples):
    sides = [(np.asarray(i).shape[:2] if k % 2 else Image.open(io.BytesIO(i)).size[::-1])
             for k, (i, *_) in enumerate(samples)]  # fmt: skip
    for axis, name in enumerate(("height", "width")):
        values = [side[axis] for side in sides]
        expected = {"min": min(values), "median": statistics.median(values), "max": max(values)}
        assert fields["image"][name] == expected
    longer, (edges, counts) = [max(side) for side in sides], fields["image"]["longer_side"].values()
    for low, high, number in zip(edges[:-1], edges[1:], counts, strict=True):
        assert sum(low <= side < high for side in longer) == number


def test_what_the_jpegs_are(fields, samples):
    chroma = [0 if i % 3 else 2 for i in range(0, len(samples), 2)]
    expected = {"4:4:4": chroma.count(0), "4:2:0": chroma.count(2)}
    assert fields["image"]["subsampling"] == expected
    assert fields["image"]["encoding"] == {"baseline": len(chroma)}
    assert fields["image"]["rotated"] == 1
    assert fields["image"]["facts"] == {"source": "noted in the file", "jpegs": len(chroma)}


def test_a_rotated_png_is_counted_by_the_writer_and_by_info(run, make_photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for number in range(3):
        image = Image.fromarray(make_photo(20, 30, number))
        image.save(tmp_path / "photos" / "a" / f"{number}.png", **({} if number else {"exif": exif}))
    for way, left in (("ignore", 1), ("apply", 0)):
        path = tmp_path / f"{way}.beton"
        result = run("write", tmp_path / "photos", path, "--exif", way)
        says = "1 image with an EXIF rotation" if left else "1 image was rotated by its EXIF orientation"
        assert says in result.stdout
        (image, _) = summary(run, path)["fields"]
        assert (image["raw"], image["rotated"]) == (3, left)


def test_the_parts_are_the_whole(run, small):
    found = summary(run, small)
    parts = found["bytes_by_part"]
    assert sum(parts.values()) == small.stat().st_size
    assert 0 <= parts["padding between parts"] < found["page_size"]
    assert parts["payloads"] == sum(field["payload_bytes"] for field in found["fields"])
    assert found["checksums"] is True
    assert found["bytes"] == small.stat().st_size


def test_a_person_reads_the_same(run, small):
    text = run("info", small).stdout
    for words in ("14", "7 JPEG, 7 raw", "float32 (2, 3)", "4:2:0", "baseline", "--exif apply", "CRC32C"):
        assert words in text


@pytest.mark.parametrize("name", ["jpg", "raw", "scalars"])
def test_files_of_ffcv(run, reference_betons, name):
    path = reference_betons / f"{name}.beton"
    found = summary(run, path)
    assert found["checksums"] is False
    assert found["samples"] == 24
    for field in found["fields"]:
        if name == "jpg" and "jpeg" in field:
            # FFCV's own JPEGs: OpenCV's, baseline 4:2:0, said by the reference pages.
            assert (field["jpeg"], field["raw"]) == (24, 0)
            assert field["subsampling"] == {"4:2:0": 24}
            assert field["encoding"] == {"baseline": 24}
            assert field["facts"]["source"] == "headers read now"
        if name == "raw" and "jpeg" in field:
            assert (field["jpeg"], field["raw"]) == (0, 24)
            assert field["width"]["max"] * field["height"]["max"] == 192 * 160
    assert "a plain FFCV file" in run("info", path).stdout


CUSTOM = '''
import numpy as np
from ffcv_gpu.fields import IntField

class Doubled(IntField):
    """An integer, stored twice as large."""
'''


def test_a_field_of_ones_own(run, tmp_path, monkeypatch):
    from ffcv_gpu.writer import DatasetWriter

    (tmp_path / "own_fields_of_a_user.py").write_text(CUSTOM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    from own_fields_of_a_user import Doubled

    fields = {"twice": Doubled()}
    DatasetWriter("own.beton", fields, num_workers=1, progress=False).from_indexed_dataset([(3,), (5,)])
    without = run("info", "own.beton")
    assert without.exit_code == 2
    assert "--custom-field twice=package.module:Class" in without.stderr
    assert run("bench", "own.beton").stderr == without.stderr.replace("info", "bench")
    found = summary(run, "own.beton", "--custom-field", "twice=own_fields_of_a_user:Doubled")
    assert found["fields"][0]["type"] == "Doubled"
    assert found["fields"][0]["values"] == {"min": 3, "max": 5}
    for wrong in ("twice", "twice=own_fields_of_a_user:Nothing", "twice=no_such_module_here:Doubled"):
        assert run("info", "own.beton", "--custom-field", wrong).exit_code == 2


def test_large_numbers_and_what_is_no_number(run, tmp_path):
    from ffcv_gpu.fields import FloatField, IntField
    from ffcv_gpu.writer import DatasetWriter

    nan, infinity = float("nan"), float("inf")
    path = tmp_path / "a.beton"
    fields = {"id": IntField(), "some": FloatField(), "none": FloatField(), "far": FloatField()}
    rows = [(1_281_166, 0.5, nan, -infinity), (7, nan, nan, 2.0)]
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(rows)
    text = run("info", path).stdout
    for shown in ("7 to 1,281,166", "0.5 to 0.5, 1 NaN", " 2 NaN", "-inf to 2"):
        assert shown in text
    found = run("info", path, "--json").stdout
    assert "NaN" not in found and "Infinity" not in found  # neither is JSON
    values = [field["values"] for field in json.loads(found)["fields"][1:]]
    assert values == [
        {"min": 0.5, "max": 0.5, "nan": 1},
        {"min": None, "max": None, "nan": 2},
        {"min": None, "max": 2.0},
    ]
