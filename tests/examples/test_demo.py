"""`make demo`, as make calls it: with the photographs of installed packages, and with a user's folder."""

import os
import re
import subprocess
import sys

import cv2
import pytest


def run(root, out, *options):
    command = [sys.executable, root / "examples" / "demo.py", "--out", out, *options]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path, make_jpeg):
    for number in range(48):
        place = tmp_path / "photos" / ("wide" if number % 2 else "tall")
        place.mkdir(parents=True, exist_ok=True)
        size = (90, 140) if number % 2 else (150, 80)
        (place / f"{number}.jpg").write_bytes(make_jpeg(*size, seed=number))
    return tmp_path / "photos"


def check(text, out):
    assert (out / "photos.beton").stat().st_size > 1 << 20
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    assert sheet.shape[0] == 6 * 96 and sheet.std() > 20
    for word in ("fused launch 1", "decoded by turbo", "augmented images/s", "decode", "compose", "us/item"):
        assert word in text
    assert re.search(r"jpeg: turbo[23]? +\d+", text) and re.search(r"raw: from the file +\d+", text)
    first, last = map(float, re.search(r"loss fell from ([\d.]+) to ([\d.]+)", text).groups())
    assert last < first  # a few steps; how far it falls differs from run to run


def test_with_photographs_of_installed_packages(root, tmp_path):
    check(run(root, tmp_path / "out", "--steps", "40"), tmp_path / "out")


@pytest.mark.long
def test_with_a_folder_of_ones_own(root, tmp_path, folder):
    text = run(root, tmp_path / "out", "--steps", "40", "--data", folder)
    check(text, tmp_path / "out")
    assert "tall, wide" in text


@pytest.mark.long
def test_with_fewer_images_than_a_batch_and_few_steps(root, tmp_path, folder):
    for number in range(44):
        (folder / ("wide" if number % 2 else "tall") / f"{number}.jpg").unlink()
    text = run(root, tmp_path / "out", "--steps", "3", "--data", folder)
    assert "step   3 " in text and "tall, wide" in text


def test_bad_input_is_one_sentence(tmp_path, refusal, folder):
    assert "cannot read the image folder" in refusal("demo", "--data", tmp_path / "none", "--out", tmp_path)
    out = folder / "tall" / "0.jpg"
    assert "0.jpg" in refusal("demo", "--data", folder, "--out", out)
