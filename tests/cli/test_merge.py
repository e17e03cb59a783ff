"""``merge``: copies the samples of files in order; rejects files that do not belong together."""

from __future__ import annotations

import pytest

from ffcv_gpu.format import open_beton


def texts(path):
    beton = open_beton(path)
    return [
        beton.data[at : at + size].tobytes()
        for at, size in zip(beton.offsets("text"), beton.lengths("text"), strict=True)
    ]


def test_two_files_become_one(run, small, tmp_path):
    result = run("merge", small, small, small, "-o", tmp_path / "out.beton")
    assert result.exit_code == 0, result.output
    assert "out.beton: 42 samples" in result.stdout
    assert texts(tmp_path / "out.beton") == 3 * texts(small)
    assert run("verify", tmp_path / "out.beton", "--decode").stdout.splitlines()[-1] == "good"
    assert "3: 14 samples, 14 samples, 14 samples" in run("info", tmp_path / "out.beton").stdout


def test_a_file_of_ffcv_gets_checksums(run, reference_betons, tmp_path):
    assert run("merge", reference_betons / "jpg.beton", "-o", tmp_path / "out.beton").exit_code == 0
    result = run("verify", tmp_path / "out.beton")
    assert "24 payloads against their CRC32C" in result.stdout
    assert result.stdout.splitlines()[-1] == "good"


def test_nothing_is_overwritten_unasked(run, small, tmp_path):
    out = tmp_path / "out.beton"
    out.write_bytes(b"mine")
    result = run("merge", small, "-o", out)
    assert result.exit_code == 2 and "--overwrite replaces it" in result.stderr
    assert out.read_bytes() == b"mine"
    assert run("merge", small, "-o", out, "--overwrite").exit_code == 0
    assert texts(out) == texts(small)


@pytest.mark.parametrize(
    ("other", "says"),
    [("jpg.beton", "fields differ"), ("none", "cannot read {path}: No such file or directory")],
)
def test_what_does_not_fit_is_one_line_on_stderr(run, small, reference_betons, tmp_path, other, says):
    path = reference_betons / other
    result = run("merge", small, path, "-o", tmp_path / "out.beton")
    assert result.exit_code == (1 if other != "none" else 2)
    assert says.format(path=path) in result.stderr and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_sample_is_one_line_on_stderr(run, small, damaged, tmp_path):
    at = int(open_beton(small).offsets("text")[5])
    path = damaged(at)
    result = run("merge", small, path, "-o", tmp_path / "out.beton")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert f"{path}: sample 5, 20 bytes at byte {at}: CRC32C is" in result.stderr
    assert list(tmp_path.iterdir()) == [path]
