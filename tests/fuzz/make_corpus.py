"""Write the kept corpus anew: ``python tests/fuzz/make_corpus.py``; small files that reach every branch.

Inputs that once found a mistake (found-...) and some that reached something new (cov-...) stay beside them.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from ffcv_gpu.fields import BytesField, FloatField, IntField, JSONField, NDArrayField, RGBImageField
from ffcv_gpu.format import MIN_PAGE_SIZE, sealing, section
from ffcv_gpu.writer import DatasetWriter, builder, encoder, merge_files

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from targets import no_sum, without_zeros  # noqa: E402


def jpeg(mode: str = "RGB", size: tuple[int, int] = (9, 7), **options: object) -> bytes:
    """Return a small JPEG of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, len(Image.new(mode, (1, 1)).getbands())))
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8).squeeze(), mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def jpegs() -> list[bytes]:
    """Return one JPEG of each kind."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    kinds: list[dict[str, object]] = [
        {}, {"mode": "L"}, {"mode": "CMYK"}, {"subsampling": "4:4:4", "quality": 5}, {"subsampling": "4:2:2"},
        {"progressive": True}, {"restart_marker_rows": 1}, {"keep_rgb": True}, {"exif": exif},
        {"comment": b"x" * 30, "quality": 100, "optimize": True},
    ]  # fmt: skip
    return [jpeg(**kind) for kind in kinds]


def betons(folder: Path) -> list[bytes]:
    """Return files with and without pages, names, parts."""
    path = folder / "a"
    options = {"num_workers": 1, "progress": False, "fsync": False, "on_error": "skip"}
    scalars = {"label": IntField(), "score": FloatField()}
    DatasetWriter(path, scalars, MIN_PAGE_SIZE, class_names=["a", "b"], **options).from_indexed_dataset(
        [(0, 0.5), (1, 1.5)], source_ids=str
    )
    found = [path.read_bytes()]
    fields = {
        "image": RGBImageField(), "array": NDArrayField("<f4", (2,)), "doc": JSONField(), "text": BytesField()
    }  # fmt: skip
    samples = [(jpeg(size=(3, 3)), np.zeros(2, "<f4"), {}, b""), (None, 0, 0, 0),
               (np.ones((2, 2, 3), np.uint8), np.ones(2, "<f4"), {"a": 1}, b"text")]  # fmt: skip
    DatasetWriter(path, fields, MIN_PAGE_SIZE, **options).from_indexed_dataset(samples)
    found.append(path.read_bytes())
    DatasetWriter(path, {"text": BytesField()}, MIN_PAGE_SIZE, **options).from_indexed_dataset(
        [(b"abc",), (b"",)]
    )
    merge_files([path], folder / "b", fsync=False)
    found.append((folder / "b").read_bytes())
    return found


def plain(content: bytes) -> bytes:
    """Return the file as FFCV would have left it: without the section."""
    table = int.from_bytes(content[16:24], "little")
    end = table - 32 - int.from_bytes(content[table - 32 : table - 24], "little")
    return content[:16] + end.to_bytes(8, "little") + content[24:end] + content[table:]


def main() -> None:
    """Write both corpora."""
    inputs = []
    with tempfile.TemporaryDirectory() as folder:
        files = betons(Path(folder))
        inputs += [without_zeros(content, 0) for content in files]
        inputs += [without_zeros(plain(content), 0) for content in files]
        with (
            mock.patch.object(sealing, "crc32c", no_sum),
            mock.patch.object(section, "crc32c", no_sum),
            mock.patch.object(encoder, "crc32c", no_sum),
            mock.patch.object(builder, "crc32c", no_sum),
            mock.patch("ffcv_gpu.format.faults.crc32c", no_sum),
        ):
            inputs += [without_zeros(content, 1) for content in betons(Path(folder))]
    for name, contents in (("format", inputs), ("jpeg", jpegs())):
        for number, content in enumerate(contents):
            (HERE / "corpus" / name / f"seed-{number}").write_bytes(content)


if __name__ == "__main__":
    main()
