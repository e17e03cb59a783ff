"""``write --shard`` and ``merge``: many machines give the file that one gives."""

from __future__ import annotations

import shutil

import pytest

from ffcv_gpu.fields import BytesField, IntField
from ffcv_gpu.format import open_beton
from ffcv_gpu.writer import DatasetWriter

COUNT = 4


@pytest.fixture
def shard(run, photo_folder, tmp_path):
    """``shard(index, option, ...)``: the result of writing one of four shards of the photos."""

    def call(index, *options, source=photo_folder, name="a.beton"):
        return run(
            "write", source, tmp_path / name, "--shard", f"{index}/{COUNT}", "--workers", "1", *options
        )

    return call


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("options", [(), ("--shuffle", "--mode", "proportion")])
def test_merged_shards_are_what_one_command_writes(run, shard, photo_folder, tmp_path, options):
    for index in range(COUNT):
        result = shard(index, *options)
        assert result.exit_code == 0 and f"a-0000{index}-of-00004.beton: " in result.stdout, result.output
    assert files(tmp_path) == [f"a-0000{index}-of-00004.beton" for index in range(COUNT)]
    shards = sorted(tmp_path.glob("a-*-of-00004.beton"))
    assert run("merge", *shards, "-o", tmp_path / "merged.beton").exit_code == 0
    assert run("write", photo_folder, tmp_path / "whole.beton", *options).exit_code == 0
    assert (tmp_path / "merged.beton").read_bytes() == (tmp_path / "whole.beton").read_bytes()
    assert run("verify", tmp_path / "merged.beton", "--decode").stdout.splitlines()[-1] == "good"


def test_a_shard_that_is_there_is_told_and_shown(run, shard, tmp_path):
    assert shard(1).exit_code == 0
    (path,) = tmp_path.iterdir()
    before = path.stat()
    again = shard(1)
    assert (
        again.exit_code == 0
        and "3 samples" in again.stdout
        and "already written, nothing to do" in again.stdout
    )
    after = path.stat()  # reading may change the access time
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert "1 (from 0) of 4; `ffcv-gpu merge` joins the shards" in run("info", path).stdout
    other = shard(1, "--quality", "80")
    assert other.exit_code == 2 and "from another conversion (different fields)" in other.stderr
    assert run("verify", path).stdout.splitlines()[-1] == "good"


def test_a_shard_that_was_cut_off_goes_on(shard, photo_folder, tmp_path):
    source = tmp_path / "photos"
    shutil.copytree(photo_folder, source)
    photo = source / "cat" / "1.jpg"
    good = photo.read_bytes()
    photo.write_bytes(good[:100])
    failed = shard(3, source=source)
    assert failed.exit_code == 1 and "cat/1.jpg" in failed.stderr
    assert files(tmp_path) == [".a-00003-of-00004.beton.journal", ".a-00003-of-00004.beton.partial", "photos"]
    photo.write_bytes(good)
    assert shard(3, source=source).exit_code == 0
    assert shard(3, name="b.beton").exit_code == 0
    assert files(tmp_path) == ["a-00003-of-00004.beton", "b-00003-of-00004.beton", "photos"]
    assert (tmp_path / files(tmp_path)[0]).read_bytes() == (tmp_path / files(tmp_path)[1]).read_bytes()


def test_a_file_added_between_shards_is_noticed(run, shard, photo_folder, tmp_path):
    source = tmp_path / "photos"
    shutil.copytree(photo_folder, source)
    shard(0, source=source)
    (source / "ant" / "3.jpg").rename(source / "ant" / "4.jpg")
    for index in range(1, COUNT):
        shard(index, source=source)
    result = run("merge", *tmp_path.glob("a-*.beton"), "-o", tmp_path / "out.beton")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "a-00000-of-00004.beton and" in result.stderr
    assert "are not from one conversion (different listing of the source)" in result.stderr
    assert not (tmp_path / "out.beton").exists()


def test_missing_shards_are_one_line_on_stderr(run, shard, tmp_path):
    shard(2)
    result = run("merge", *tmp_path.iterdir(), "-o", tmp_path / "out.beton")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "shards 0, 1 and 3 of 4 are missing" in result.stderr


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (("--shard", "1"), 2, "--shard '1': give index/count, as in 17/512"),
        (("--shard", "1/x"), 2, "--shard '1/x'"),
        (("--shard", "4/4"), 1, "there is no shard 4 of 4"),
        (("--shard", "0/11"), 1, "10 samples are too few for 11 shards"),
        (("--shard", "0/2", "--overwrite"), 2, "--shard excludes --append and --overwrite"),
        (("--shard", "0/2", "--mode", "auto", "--target", "9"), 1, "each machine would settle the target"),
    ],
)
def test_wrong_options_are_refused(run, photo_folder, tmp_path, options, status, says):
    result = run("write", photo_folder, tmp_path / "a.beton", *options)
    assert result.exit_code == status and says in " ".join(result.stderr.split()), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_shards_of_tar_files(run, tmp_path, make_jpeg):
    wds = pytest.importorskip("webdataset", reason="the extra 'webdataset' is not installed")
    for tar in range(3):
        with wds.TarWriter(str(tmp_path / f"s{tar}.tar")) as sink:
            for k in range(3 * tar, 3 * tar + 3):
                sink.write({"__key__": str(k), "jpg": make_jpeg(30, 40 + k, k), "cls": k})
    for index in (0, 1, 1):
        options = ("--shard", f"{index}/2", "--workers", "1")
        result = run("write", tmp_path / "s{0..2}.tar", tmp_path / "a.beton", *options)
        assert result.exit_code == 0, result.output
    assert "already written" in result.stdout
    result = run("merge", *tmp_path.glob("a-*"), "-o", tmp_path / "a.beton")
    assert result.exit_code == 0, result.output
    assert open_beton(tmp_path / "a.beton").column("label").tolist() == list(range(9))
    assert run("verify", tmp_path / "a.beton", "--decode").stdout.splitlines()[-1] == "good"


def test_a_parquet_file_that_was_replaced_is_noticed(run, tmp_path, make_jpeg):
    pa = pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    path, out = tmp_path / "a.parquet", tmp_path / "a.beton"

    def shard(index, quality):
        jpegs = [make_jpeg(30, 40, k, quality=quality) for k in range(4)]
        parquet.write_table(pa.table({"img": pa.array(jpegs, pa.binary()), "label": [0, 1, 2, 3]}), path)
        result = run("write", path, out, "--shard", f"{index}/2", "--workers", "1")
        assert result.exit_code == 0, result.output
        return tmp_path / f"a-0000{index}-of-00002.beton"

    one, two = shard(0, 90), shard(1, 50)
    result = run("merge", one, two, "-o", out)
    assert result.exit_code == 1 and "(different content of the source)" in result.stderr
    two.unlink()
    assert run("merge", one, shard(1, 90), "-o", out).exit_code == 0
    assert open_beton(out).column("label").tolist() == [0, 1, 2, 3]


def test_a_shard_without_samples_is_shown_and_not_measured(run, tmp_path):
    """As one whose images were all bad."""
    empty = DatasetWriter(tmp_path / "a.beton", {"x": IntField(), "b": BytesField()}, on_error="skip")
    path = empty.from_indexed_dataset([(0, b""), (None, b"")], shard=(1, 2)).path
    shown = run("info", path)
    assert shown.exit_code == 0 and "1 sample could not be stored" in shown.stdout, shown.output
    measured = run("bench", path)
    assert measured.exit_code == 1 and "has no samples: nothing to measure" in measured.stderr
