"""The JPEGs of a .beton file in the containers that other libraries read: a folder, tar shards."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.files import written
from ffcv_gpu.format import open_beton

__all__ = ["CLASSES", "folder_of", "shards_of"]

#: number of class folders, and minimal number of shards, that samples are distributed over
CLASSES, SHARDS = 8, 8


def payloads(beton: Path) -> Iterator[bytes]:
    """Yield the stored bytes of every sample's image."""
    found = open_beton(beton)
    for offset, length in zip(found.offsets("image").tolist(), found.lengths("image").tolist(), strict=True):
        yield found.data[offset : offset + length].tobytes()


def folder_of(beton: Path) -> Path:
    """Return a folder of class folders with one ``.jpg`` per sample, written unless it exists."""

    def write(folder: Path) -> None:
        for label in range(CLASSES):
            (folder / f"class{label}").mkdir(parents=True)
        for number, data in enumerate(payloads(beton)):
            (folder / f"class{number % CLASSES}" / f"{number:06}.jpg").write_bytes(data)

    return written(beton.with_suffix(".folder"), write)


def shards_of(beton: Path, workers: int) -> list[Path]:
    """Return tar shards with ``.jpg`` and ``.cls`` of every sample, written unless they exist.

    Their number is a multiple of the workers': WebDataset distributes whole shards, the same number to each.
    """
    count = -(-SHARDS // workers) * workers

    def write(folder: Path) -> None:
        folder.mkdir()
        tars = [tarfile.open(folder / f"{shard:03}.tar", "w") for shard in range(count)]  # noqa: SIM115
        for number, data in enumerate(payloads(beton)):
            for suffix, content in (("jpg", data), ("cls", b"%d" % (number % CLASSES))):
                member = tarfile.TarInfo(f"{number:06}.{suffix}")
                member.size = len(content)
                tars[number % count].addfile(member, io.BytesIO(content))
        for tar in tars:
            tar.close()

    return sorted(written(beton.with_suffix(f".shards-{count}"), write).iterdir())
