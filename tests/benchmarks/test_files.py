"""Files that are written once: complete or absent, even if several processes write them."""

from __future__ import annotations

import pytest

from benchmarks.files import written


def test_what_is_there_is_not_written_again(tmp_path):
    assert written(tmp_path / "deep" / "a.txt", lambda part: part.write_text("once")).read_text() == "once"
    assert written(tmp_path / "deep" / "a.txt", lambda part: part.write_text("twice")).read_text() == "once"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("folder", [False, True])
def test_what_fails_leaves_nothing(tmp_path, folder):
    def write(part):
        if folder:
            part.mkdir()
            part = part / "inside"
        part.write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        written(tmp_path / "a", write)
    assert list(tmp_path.iterdir()) == []


def test_another_process_may_have_been_faster(tmp_path):
    def write(part):
        for folder in (part, tmp_path / "a"):
            folder.mkdir()
            (folder / "inside").write_text(folder.name)

    assert (written(tmp_path / "a", write) / "inside").read_text() == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
