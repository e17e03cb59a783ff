"""A file of 20 GB in a process of 2 GB: it loads about as fast as the disk reads it from end to end."""

import faulthandler
import json
import mmap
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.writer import DatasetWriter

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
LIMIT, SIDE = 2 * 10**9, 512
COUNT = 20 * 10**9 // (3 * SIDE**2)
SCRIPT = Path(__file__).with_name("load_under_limit.py")
#: of the plain read of the whole file, on a machine that has other things to do as well
LEAST_SHARE = 0.8


class Repeated:
    """One noisy image over and over, with its number as label."""

    def __init__(self):
        self._image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)

    def __len__(self):
        return COUNT

    def __getitem__(self, i):
        return self._image, i


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    folder = tmp_path_factory.mktemp("big")
    if shutil.disk_usage(folder).free < 30 * 10**9:
        pytest.skip("needs 30 GB of disk")
    faulthandler.cancel_dump_traceback_later()  # writing takes longer than a test may hang
    path = folder / "big.beton"
    fields = {"image": RGBImageField("raw"), "label": IntField()}
    DatasetWriter(path, fields, num_workers=2, progress=False).from_indexed_dataset(Repeated())
    yield path
    path.unlink()


def forget(path):
    """Write the file out and drop it from the page cache."""
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def plain_read(path, flags=0):
    """Return the bytes a second of reading the file from end to end, 8 MiB at a time."""
    forget(path)
    file, buffer, done = os.open(path, os.O_RDONLY | flags), mmap.mmap(-1, 8 << 20), 0
    start = time.perf_counter()
    while (got := os.preadv(file, [buffer], done)) == len(buffer):
        done += got
    os.close(file)
    return (done + got) / (time.perf_counter() - start)


def test_twenty_gigabytes_in_two(big, capsys):
    size = big.stat().st_size
    assert size > 20 * 10**9
    rates = {"plain read": plain_read(big), "plain direct read": plain_read(big, os.O_DIRECT)}
    results = {}
    for order in ("SEQUENTIAL", "QUASI_RANDOM"):
        forget(big)
        command = [sys.executable, str(SCRIPT), str(big), order, str(LIMIT)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr
        assert "payload by payload" not in done.stderr
        results[order] = json.loads(done.stdout)
        rates[order] = size / results[order]["seconds"]
    rates["plain read again"] = plain_read(big)
    with capsys.disabled():
        print(f"\n{size / 1e9:.1f} GB under a limit of {LIMIT / 1e9:.0f} GB:")
        print("".join(f"  {name:<18} {rate / 1e6:6.0f} MB/s\n" for name, rate in rates.items()), end="")
        print("".join(f"  {name}: {result}\n" for name, result in results.items()))
    for order, result in results.items():
        assert result["peak_bytes"] < LIMIT
        assert rates[order] > LEAST_SHARE * min(rates["plain read"], rates["plain read again"])
