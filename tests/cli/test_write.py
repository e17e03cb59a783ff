"""``write``: the content of the file is compared with the photos themselves."""

from __future__ import annotations

import io
import os
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image, ImageOps

from ffcv_gpu.format import JpegFlag, open_beton

# The order of ImageFolder: classes by name, then files by name.
NAMES = ["ant/0.jpg", "ant/1.jpg", "ant/2.jpg", "ant/3.jpg", "bee/0.jpg", "bee/1.jpg", "bee/2.jpg",
         "cat/0.jpg", "cat/1.jpg", "cat/png.png"]  # fmt: skip
LABELS = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.fixture
def write(run, photo_folder, tmp_path):
    def call(*options):
        path = tmp_path / "out.beton"
        result = run("write", photo_folder, path, "--no-progress", "--workers", "1", *options)
        assert result.exit_code == 0, result.output
        return open_beton(path), result

    return call


def payload(beton, i):
    start = int(beton.offsets("image")[i])
    return beton.data[start : start + int(beton.lengths("image")[i])].tobytes()


def test_jpegs_are_kept_and_the_rest_is_raw(write, photo_folder):
    beton, result = write()
    assert beton.num_samples == len(NAMES)
    assert beton.column("label").tolist() == LABELS
    for i, name in enumerate(NAMES[:-1]):
        assert payload(beton, i) == (photo_folder / name).read_bytes()
    assert payload(beton, 9) == np.asarray(Image.open(photo_folder / NAMES[9])).tobytes()
    assert "10 samples" in result.stdout
    assert "9 jpeg pass-through" in result.stdout


def test_crop_index(write, photo_folder):
    beton, result = write("--crop-index")
    flags = beton.facts("image")["flags"]
    assert (flags[:-1] & JpegFlag.CROP_INDEX).all() and "9 jpeg pass-through" in result.stdout
    for i, name in enumerate(NAMES[:-1]):
        pixels = [
            np.asarray(Image.open(source)) for source in (photo_folder / name, io.BytesIO(payload(beton, i)))
        ]
        assert np.array_equal(*pixels)


def test_a_beton_file_keeps_its_crop_index(run, write, photo_folder, tmp_path):
    write("--crop-index")
    for options in ((), ("--max-resolution", "64")):
        again = tmp_path / f"again{len(options)}.beton"
        assert run("write", tmp_path / "out.beton", again, *options).exit_code == 0
        facts = open_beton(again).facts("image")
        assert (facts["flags"][:-1] & JpegFlag.CROP_INDEX).all()


def test_modes_and_sizes(write, photo_folder):
    beton, _ = write("--mode", "jpg", "--max-resolution", "60", "--quality", "80")
    column = beton.column("image")
    assert (column["mode"] == 0).all()
    assert (np.maximum(column["width"], column["height"]) == 60).all()
    for i in range(len(NAMES)):
        assert Image.open(io.BytesIO(payload(beton, i))).size == (column["width"][i], column["height"][i])
    raw, _ = write("--mode", "raw", "--overwrite")
    assert (raw.column("image")["mode"] == 1).all()
    pixels = np.asarray(Image.open(photo_folder / NAMES[0])).astype(int)
    assert np.abs(np.frombuffer(payload(raw, 0), np.uint8).reshape(pixels.shape) - pixels).mean() < 1


def test_exif_apply_turns_the_photo(write, photo_folder):
    beton, _ = write("--exif", "apply")
    turned = ImageOps.exif_transpose(Image.open(photo_folder / NAMES[1]))
    record = beton.column("image")[1]
    assert (record["width"], record["height"]) == turned.size
    assert turned.size == (70, 90)
    stored = np.asarray(Image.open(io.BytesIO(payload(beton, 1)))).astype(int)
    assert np.abs(stored - np.asarray(turned)).mean() < 4


def test_proportion_and_page_size(write):
    beton, _ = write("--mode", "proportion", "--compress-probability", "0", "--page-size", "4MiB")
    assert beton.page_size == 4 << 20
    assert (beton.column("image")["mode"][9:] == 1).all()


def test_a_target_is_settled_and_reported(write):
    beton, result = write("--mode", "auto", "--target", "0.001", "--target-cores", "1", "--target-size", "32")
    settings = beton.section.info["fields"]["image"]["settings"]
    asked = {"images_per_second": 0.001, "cores": 1, "side": 32, "batch_size": 256}
    assert settings["target"] == asked
    assert settings["choice"]["compress_probability"] in (0.0, 1.0)
    assert "chosen for 'image':" in result.stdout


def test_a_target_out_of_reach_leaves_no_file(run, photo_folder, tmp_path):
    options = ("--mode", "auto", "--target", "1e12", "--target-cores", "1", "--target-size", "32")
    result = run("write", photo_folder, tmp_path / "a.beton", *options)
    assert result.exit_code == 1
    assert "cannot be reached here; the best would be" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_status_2(run, photo_folder, tmp_path):
    result = run("write", tmp_path / "none", tmp_path / "a.beton")
    assert result.exit_code == 2 and "No such file" in result.stderr
    result = run("write", photo_folder, tmp_path / "none" / "a.beton", "--no-progress")
    assert result.exit_code == 2 and "No such file" in result.stderr


def test_a_target_goes_with_auto(run, photo_folder, tmp_path):
    result = run("write", photo_folder, tmp_path / "a.beton", "--target", "100")
    assert result.exit_code == 2
    assert "--mode auto" in result.stderr


def test_chroma(write):
    beton, result = write("--mode", "jpg", "--subsampling", "4:2:2")
    assert "4:4:4" not in result.stdout
    assert beton.section.info["fields"]["image"]["settings"]["subsampling"] == "4:2:2"


def test_shuffle_mixes_the_same_way_each_time(write):
    first = write("--shuffle")[0].column("label").tolist()
    second = write("--shuffle", "--overwrite")[0].column("label").tolist()
    assert first == second != LABELS
    assert sorted(first) == LABELS


def test_workers_change_nothing(run, write, photo_folder, tmp_path):
    beton, _ = write()
    result = run("write", photo_folder, tmp_path / "two.beton", "--workers", "2", "--no-progress")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "two.beton").read_bytes() == beton.data.tobytes()


def test_class_names_reach_info(run, write):
    beton, _ = write()
    assert "3: ant, bee, cat" in run("info", beton.path).stdout


def test_an_existing_file_is_not_replaced_unasked(run, photo_folder, tmp_path):
    path = tmp_path / "kept.beton"
    path.write_bytes(b"precious")
    result = run("write", photo_folder, path, "--no-progress")
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr
    assert path.read_bytes() == b"precious"


def test_an_unreadable_image_leaves_nothing_behind(run, make_jpeg, tmp_path):
    folder = tmp_path / "photos" / "dog"
    folder.mkdir(parents=True)
    jpeg = make_jpeg(64, 64)
    (folder / "0.jpg").write_bytes(jpeg)
    (folder / "1.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    result = run("write", tmp_path / "photos", tmp_path / "out.beton", "--no-progress", "--workers", "1")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "1.jpg" in result.stderr or "sample 1" in result.stderr
    assert os.listdir(tmp_path) == ["photos"]


def test_a_folder_of_one_class_may_be_the_one_above(run, photo_folder, tmp_path, caplog):
    """All labels were 0, and nothing said so."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "train").symlink_to(photo_folder)
    assert run("write", photo_folder, tmp_path / "right.beton").exit_code == 0 and not caplog.messages
    assert run("write", tmp_path / "photos", tmp_path / "above.beton").exit_code == 0
    (warning,) = caplog.messages
    assert "photos are of one class, 'train'; is it the folder above" in warning


def test_a_folder_without_images(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for source in ("empty", "absent"):
        result = run("write", tmp_path / source, tmp_path / "out.beton", "--no-progress")
        assert result.exit_code in (1, 2)
        assert result.stderr.count("\n") == 1
        assert not (tmp_path / "out.beton").exists()


def test_a_parquet_file(run, tmp_path, make_jpeg):
    pa = pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    jpegs = [make_jpeg(30, 40 + k, k) for k in range(5)]
    images = pa.array([{"bytes": jpeg, "path": None} for jpeg in jpegs])
    parquet.write_table(pa.table({"img": images, "label": [4, 3, 2, 1, 0]}), tmp_path / "a.parquet")
    result = run("write", tmp_path / "a.parquet", tmp_path / "a.beton", "--no-progress")
    assert result.exit_code == 0, result.output
    beton = open_beton(tmp_path / "a.beton")
    assert beton.column("label").tolist() == [4, 3, 2, 1, 0]
    assert [payload(beton, k) for k in range(5)] == jpegs
    result = run("write", tmp_path / "a.parquet", tmp_path / "b.beton", "--shuffle")
    assert result.exit_code != 0 and "needs random access" in result.output


def test_columns_of_parquet_files(run, tmp_path, make_jpeg):
    pa = pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    path, out = tmp_path / "a.parquet", tmp_path / "a.beton"
    table = {"fine": [1, 2], "coarse": [3, 4]}
    parquet.write_table(pa.table({name: pa.array([make_jpeg(9, 9)] * 2) for name in "ab"} | table), path)
    failed = run("write", path, out)
    assert failed.exit_code == 1 and "(--image-column)" in failed.stderr
    failed = run("write", path, out, "--image-column", "b")
    assert failed.exit_code == 1 and "(--label-column)" in failed.stderr
    result = run("write", path, out, "--image-column", "b", "--label-column", "coarse", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert open_beton(out).column("label").tolist() == [3, 4]
    failed = run("write", tmp_path, tmp_path / "b.beton", "--label-column", "coarse")
    assert failed.exit_code == 2 and "are for parquet files" in failed.stderr


def test_what_is_not_parquet_is_bad_data(run, tmp_path):
    pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
    path, out = tmp_path / "a.parquet", tmp_path / "a.beton"
    assert run("write", path, out).exit_code == 2  # missing
    path.write_bytes(b"no parquet")
    failed = run("write", path, out)
    assert failed.exit_code == 1 and "a.parquet' as a parquet file" in failed.stderr


def test_parquet_files_by_a_pattern(run, tmp_path, make_jpeg):
    """Hugging Face's hub stores a split as train-00000-of-00294.parquet and so on."""
    pa = pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    jpegs = [make_jpeg(30, 40 + k, k) for k in range(4)]
    for name, rows in (("train-1", (2, 3)), ("train-0", (0, 1)), ("test-0", (0,)), ("odd[1]", (3,))):
        images = pa.array([{"bytes": jpegs[k], "path": None} for k in rows])
        parquet.write_table(pa.table({"img": images, "label": list(rows)}), tmp_path / f"{name}.parquet")
    for pattern, labels in (("train-*", [0, 1, 2, 3]), ("t*-[0]", [0, 0, 1]), ("odd[1]", [3])):
        arguments = ("--no-progress", "--overwrite", "--workers", "1")
        result = run("write", tmp_path / f"{pattern}.parquet", tmp_path / "a.beton", *arguments)
        assert result.exit_code == 0, result.output
        beton = open_beton(tmp_path / "a.beton")
        assert beton.column("label").tolist() == labels
        assert [payload(beton, k) for k in range(len(labels))] == [jpegs[k] for k in labels]
    for ending in ("parquet", "tar"):
        result = run("write", tmp_path / f"none-*.{ending}", tmp_path / "b.beton")
        assert result.exit_code == 2 and "no file matches" in result.output
        assert not (tmp_path / "b.beton").exists()


def test_webdataset_shards(run, tmp_path, make_jpeg):
    wds = pytest.importorskip("webdataset", reason="the extra 'webdataset' is not installed")
    jpegs = [make_jpeg(30, 40 + k, k) for k in range(5)]
    for shard, rows in enumerate(([0, 1, 2], [3, 4])):
        with wds.TarWriter(str(tmp_path / f"s{shard}.tar")) as sink:
            for k in rows:
                sink.write({"__key__": str(k), "jpg": jpegs[k], "cls": k})
    for shards in ("s{0..1}.tar", "s?.tar"):
        options = ("--no-progress", "--overwrite", "--workers", "2")
        result = run("write", tmp_path / shards, tmp_path / "a.beton", *options)
        assert result.exit_code == 0, result.output
        beton = open_beton(tmp_path / "a.beton")
        assert beton.column("label").tolist() == list(range(5))
        assert [payload(beton, k) for k in range(5)] == jpegs


@pytest.fixture
def shard(tmp_path, make_jpeg):
    """``shard("a.tar", label)``: write a tar file of one image and what its label's member says."""
    pytest.importorskip("webdataset", reason="the extra 'webdataset' is not installed")

    def make(name, label=b"7"):
        mode = {".gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", ".xz": "w:xz"}.get(name[-3:], "w")
        with tarfile.open(tmp_path / name, mode) as tar:
            for member, content in (("k.jpg", make_jpeg(9, 9)), ("k.cls", label)):
                about = tarfile.TarInfo(member)
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
        return tmp_path / name

    return make


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"])
def test_compressed_shards(run, shard, tmp_path, ending):
    result = run("write", shard(f"a.{ending}"), tmp_path / "a.beton", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert open_beton(tmp_path / "a.beton").column("label").tolist() == [7]


def test_samples_of_shards_without_a_label_are_named_or_skipped(run, tmp_path, make_jpeg):
    pytest.importorskip("webdataset", reason="the extra 'webdataset' is not installed")
    samples = {
        "0": ("jpg", "cls"),
        "1": ("jpg", "json"),
        "2": ("cls",),
        "3": ("jpg", "cls"),
        "4": ("PNG", "cls"),
    }
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key, members in samples.items():
            for member in members:
                content = {"jpg": make_jpeg(9, 9), "PNG": make_jpeg(8, 8), "json": b"{}"}.get(member, b"7")
                content = b"dog" if (key, member) == ("3", "cls") else content
                about = tarfile.TarInfo(f"{key}.{member}")
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
    out = tmp_path / "a.beton"
    failed = run("write", tmp_path / "a.tar", out, "--workers", "1")
    assert failed.exit_code == 1 and not out.exists()
    assert (
        "a.tar', sample '1': the pipeline returned a mapping without 'label'; its keys are" in failed.stderr
    )
    result = run("write", tmp_path / "a.tar", out, "--workers", "1", "--on-error", "skip")
    assert result.exit_code == 0, result.output
    beton = open_beton(out)
    assert beton.column("label").tolist() == [7, 7]
    assert beton.column("image")["height"].tolist() == [9, 8]
    reasons = [skip.reason for skip in beton.skipped]
    for reason, said in zip(reasons, ("without 'label'", "without 'image'", "b'dog' is not a"), strict=True):
        assert said in reason


def test_a_missing_shard_is_noticed_first(run, shard, tmp_path):
    shard("a.tar", b"no number")
    failed = run("write", tmp_path / "{a,b}.tar", tmp_path / "a.beton", "--workers", "1")
    assert failed.exit_code == 2
    assert failed.stderr == f"ffcv-gpu: {tmp_path}/b.tar: No such file or directory\n"


def test_an_error_in_a_writer_process_is_one_line(run, shard, tmp_path, monkeypatch):
    from ffcv_gpu.convert import webdataset

    for name in ("a.tar", "b.tar"):
        shard(name)
    # Only what is not an error of ours comes with its traceback.
    monkeypatch.setattr(webdataset, "_explained", lambda error, shard, seen: ValueError("bad"))
    monkeypatch.setattr(webdataset, "image_and_label", lambda dataset: dataset.to_tuple("png"))
    failed = run("write", tmp_path / "{a,b}.tar", tmp_path / "a.beton", "--workers", "2")
    assert failed.exit_code != 0 and "bad" in failed.stderr
    assert failed.stderr.count("\n") == 1 and "Traceback" not in failed.stderr


def test_an_empty_name_is_not_the_current_folder(run, photo_folder, tmp_path, monkeypatch):
    """As of `ffcv-gpu write "$DATA" out.beton`, if DATA is not set."""
    monkeypatch.chdir(photo_folder)
    failed = run("write", "", tmp_path / "a.beton")
    assert failed.exit_code == 2 and "SRC is empty" in failed.stderr
    assert not (tmp_path / "a.beton").exists()


# ---- names, sources, bad images, appended images, interrupted runs


def test_classes_and_sources_are_kept_and_shown(run, write):
    beton, _ = write()
    assert beton.class_names == ("ant", "bee", "cat")
    assert list(beton.source_ids) == NAMES
    text = run("info", beton.path).stdout
    assert "3: ant, bee, cat" in text and "ant/0.jpg, ant/1.jpg, ant/2.jpg, ..." in text


def test_sources_follow_their_images_when_shuffled(write):
    beton, _ = write("--shuffle")
    sources = list(beton.source_ids)
    assert sources != NAMES and sorted(sources) == NAMES
    assert [NAMES.index(name) for name in sources] != list(range(10))
    assert beton.column("label").tolist() == [LABELS[NAMES.index(name)] for name in sources]


@pytest.fixture
def with_bad(photo_folder, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(photo_folder, folder)
    (folder / "bee" / "1b.jpg").write_bytes(b"no image")
    (folder / "cat" / "empty.jpg").write_bytes(b"")
    return folder


def test_bad_images_end_it_or_are_skipped(run, with_bad, tmp_path):
    out = tmp_path / "out.beton"
    failed = run("write", with_bad, out)
    assert failed.exit_code == 1 and "bee/1b.jpg" in failed.stderr and failed.stderr.count("\n") == 1
    assert not out.exists()
    result = run("write", with_bad, out, "--on-error", "skip", "--workers", "2")
    assert result.exit_code == 0, result.output
    assert [line.split()[1] for line in result.stdout.splitlines() if "skipped" in line] == ["6", "10"]
    beton = open_beton(out)
    assert list(beton.source_ids) == NAMES and len(beton.skipped) == 2
    assert "2 samples could not be stored" in run("info", out).stdout


def test_more_images_are_added(run, photo_folder, tmp_path):
    out = tmp_path / "out.beton"
    assert run("write", photo_folder, out, "--append").exit_code == 2
    assert run("write", photo_folder, out).exit_code == 0
    again = run("write", photo_folder, out)
    assert again.exit_code == 2 and "--append adds to it" in again.stderr
    result = run("write", photo_folder, out, "--append", "--no-fsync")
    assert result.exit_code == 0, result.output
    beton = open_beton(out)
    assert list(beton.source_ids) == NAMES * 2 and beton.column("label").tolist() == LABELS * 2
    assert run("verify", out, "--decode").stdout.splitlines()[-1] == "good"
    (tmp_path / "other" / "dog").mkdir(parents=True)
    shutil.copy(photo_folder / "ant" / "0.jpg", tmp_path / "other" / "dog")
    wrong = run("write", tmp_path / "other", out, "--append")
    assert wrong.exit_code == 1 and "class names differ" in wrong.stderr
    assert open_beton(out).num_samples == 20


def test_a_run_that_was_cut_off_goes_on(run, with_bad, tmp_path):
    out, whole = tmp_path / "out.beton", tmp_path / "whole.beton"
    # A bad image ends the first run after six good ones; once it is fixed, the same command resumes.
    assert run("write", with_bad, out, "--resume", "--workers", "1").exit_code == 1
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".out.beton.journal", ".out.beton.partial", "photos"]
    for bad in ("bee/1b.jpg", "cat/empty.jpg"):
        shutil.copy(with_bad / "ant" / "0.jpg", with_bad / bad)
    assert run("write", with_bad, out, "--resume").exit_code == 0
    assert run("write", with_bad, whole).exit_code == 0
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.beton", "photos", "whole.beton"]


def test_a_file_is_written_again_with_smaller_images(write, run, tmp_path):
    whole, _ = write()
    small = tmp_path / "small.beton"
    result = run("write", tmp_path / "out.beton", small, "--max-resolution", "40", "--workers", "1")
    assert result.exit_code == 0, result.output
    beton = open_beton(small)
    column = beton.column("image")
    assert (np.maximum(column["height"], column["width"]) == 40).all()
    assert beton.column("label").tolist() == LABELS
    assert beton.class_names == whole.class_names and list(beton.source_ids) == NAMES


def test_a_file_is_copied_and_shuffled(write, run, tmp_path):
    write()
    same, mixed = tmp_path / "same.beton", tmp_path / "mixed.beton"
    for target, options in ((same, []), (mixed, ["--shuffle"])):
        result = run("write", tmp_path / "out.beton", target, "--workers", "1", *options)
        assert result.exit_code == 0, result.output
    assert same.read_bytes() == (tmp_path / "out.beton").read_bytes()
    names = list(open_beton(mixed).source_ids)
    assert names != NAMES and sorted(names) == sorted(NAMES)


def test_what_does_not_shrink_with_its_image_is_said(run, tmp_path, make_photo, caplog):
    from ffcv_gpu.fields import MaskField, RaggedField, RGBImageField
    from ffcv_gpu.writer import DatasetWriter

    fields = {
        "image": RGBImageField(),
        "mask": MaskField(),
        "boxes": RaggedField("f4", 4),
        "ids": RaggedField("i8"),
    }
    sample = make_photo(30, 40, seed=1), np.zeros((30, 40), np.uint8), [[1, 2, 3, 4]], [7]
    DatasetWriter(tmp_path / "a.beton", fields, num_workers=1, progress=False).from_indexed_dataset([sample])
    assert run("write", tmp_path / "a.beton", tmp_path / "b.beton").exit_code == 0
    assert "copied as they are" not in caplog.text
    result = run("write", tmp_path / "a.beton", tmp_path / "c.beton", "--max-resolution", "20")
    assert result.exit_code == 0 and "'mask', 'boxes': copied as they are" in caplog.text


def test_a_url_as_source_is_refused(run, tmp_path):
    result = run("write", "s3://bucket/train.beton", tmp_path / "a.beton")
    assert result.exit_code == 2 and "s3://bucket/train.beton: write reads local files only" in result.output
