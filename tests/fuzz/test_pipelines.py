"""Random pipelines, the same at every run; many more, of other seeds, in the long one."""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.checks import CHECKS
from tests.fuzz.recipes import Case, generated

#: of `fuzz_pipelines`, in the long run
CASES = int(os.environ.get("FFCV_GPU_FUZZ_CASES", "600"))
OTHERS = [name for name in CHECKS if name != "apart"]

#: what once was wrong
KNOWN = [
    Case("one", "mask", ("RandomResizedCropRGBImageDecoder", ((16, 16), (1, 1), (0.1, 9)), {}),
         (("RandomTranslate", (1, 0), {}),), 16, 28),
    Case("one", "image", ("SimpleRGBImageDecoder", (), {}),
         (("NormalizeImage", (120, 60, "float32"), {}), ("RandomHorizontalFlip", (), {}),
          ("Convert", ("float16",), {}), ("Cutout", (5, -1.5), {}))),
]  # fmt: skip


@pytest.mark.parametrize("first", range(0, 36, 12))
def test_pipelines_are_their_steps_one_after_the_other(files, first):
    lengths = []
    for seed in range(first, first + 12):
        case = generated(seed, files)
        lengths.append(len(case.steps))
        for name in ("apart", OTHERS[seed % len(OTHERS)]):
            try:
                CHECKS[name](case, files)
            except Exception as error:
                error.add_note(f"{name}, seed {seed}: {case}")
                raise
    assert max(lengths) > 4


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("case", KNOWN, ids=["shrunken mask", "mirror between lookups"])
def test_what_once_was_wrong(files, case, name):
    CHECKS[name](case, files)


@pytest.mark.long
@pytest.mark.timeout(CASES * 5 + 600)
def test_fuzzing_pipelines_finds_nothing():
    faulthandler.cancel_dump_traceback_later()  # takes longer than a test may hang
    program = Path(__file__).with_name("fuzz_pipelines.py")
    done = subprocess.run([sys.executable, program, "1000", str(CASES)], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    assert f"{CASES} cases" in done.stdout
