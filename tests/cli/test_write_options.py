"""Options of ``write`` that are refused: before anything is written."""

from __future__ import annotations

import os

import pytest


@pytest.mark.parametrize(
    "options",
    [("--page-size", "lots"), ("--page-size", "3MiB"), ("--mode", "png"), ("--quality", "0"),
     ("--compress-probability", "1.5")],
)  # fmt: skip
def test_wrong_options_are_refused(run, photo_folder, tmp_path, options):
    result = run("write", photo_folder, tmp_path / "out.beton", "--no-progress", "--workers", "1", *options)
    assert result.exit_code in (1, 2)
    assert result.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--compress-probability 0.3", "--mode proportion"),
        ("--mode smart --compress-probability 0.5", "--mode proportion"),
        ("--smart-threshold 9", "--mode smart"),
        ("--mode auto --target-cores 2", "--target"),
        ("--mode auto --target-size 64", "--target"),
        ("--target 100", "--mode auto"),
    ],
)
def test_options_that_the_mode_does_not_use_are_refused(run, photo_folder, tmp_path, options, named):
    result = run("write", photo_folder, tmp_path / "out.beton", *options.split())
    assert result.exit_code == 2 and named in result.stderr
    assert os.listdir(tmp_path) == []
