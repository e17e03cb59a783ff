"""The fake nvJPEG against NVIDIA's own, both wheels: all that the real one does without a GPU.

Parsing and the support query over whole, odd and broken files; parameters; buffers and allocators.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import simplejpeg

from ffcv_gpu.native import driver, nvjpeg
from tests import nvjpeg_probe
from tests.fake_nvjpeg import FakeNvjpeg

WHEELS = {
    "nvidia-nvjpeg": "nvidia/cu13/lib/libnvjpeg.so.13",
    "nvidia-nvjpeg-cu12": "nvidia/nvjpeg/lib/libnvjpeg.so.12",
}
FACTORS = {
    "410": (0x42, 0x11, 0x11),
    "410v": (0x24, 0x11, 0x11),
    "3x1": (0x31, 0x11, 0x11),
    "1x4": (0x14, 0x11, 0x11),
    "mixed": (0x22, 0x21, 0x11),
    "422 of 22": (0x22, 0x12, 0x12),
    "16 blocks": (0x44, 0x11, 0x11),
    "all 22": (0x22, 0x22, 0x22),
    "420 of 42": (0x42, 0x21, 0x21),
}


def corpus(make_jpeg: Callable[..., bytes], make_photo: Callable[..., Any]) -> dict[str, bytes]:
    """Whole files of every kind, then files with something wrong."""
    photo = make_photo(37, 53)
    files = {
        f"css {css}": simplejpeg.encode_jpeg(photo, 90, "RGB", css)
        for css in ("444", "422", "420", "440", "411")
    }
    files |= {f"exif {tag}": make_jpeg(16, 24, orientation=tag) for tag in range(1, 9)}
    files |= {
        "grey": make_jpeg(37, 53, mode="L"),
        "grey restart": make_jpeg(37, 53, mode="L", restart_marker_rows=1),
        "progressive": make_jpeg(37, 53, progressive=True),
        "restart": make_jpeg(64, 64, restart_marker_rows=1),
        "cmyk": make_jpeg(37, 53, mode="CMYK"),
        "rgb coded": make_jpeg(37, 53, keep_rgb=True),
        "tiny": make_jpeg(1, 1),
        "comment": make_jpeg(37, 53, comment=b"\xff\xc0\xff\xda"),
    }
    return files | damaged(files["css 420"])


def damaged(whole: bytes) -> dict[str, bytes]:
    frame, scan = whole.index(b"\xff\xc0"), whole.index(b"\xff\xda")

    def frame_byte(at: int, value: int) -> bytes:
        return whole[: frame + at] + bytes([value]) + whole[frame + at + 1 :]

    def factors(values: tuple[int, ...]) -> bytes:
        changed = bytearray(whole)
        changed[frame + 11 : frame + 20 : 3] = bytes(values)
        return bytes(changed)

    files = {f"factors {name}": factors(values) for name, values in FACTORS.items()}
    files |= {f"sof {code:x}": frame_byte(1, code) for code in (0xC1, 0xC3, 0xC5, 0xC9, 0xCA)}
    return files | {
        "empty": b"",
        "one byte": b"\xff",
        "start only": whole[:2],
        "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "cut in a table": whole[:30],
        "cut in the frame": whole[: frame + 6],
        "cut before the scan": whole[:scan],
        "cut in the scan's header": whole[: scan + 5],
        "cut in the scan": whole[: scan + 200],
        "no end": whole[:-2],
        "no scan": whole[:scan] + b"\xff\xd9",
        "junk after": whole + b"junk" * 10,
        "junk before": b"\0" + whole,
        "fill bytes": whole[:2] + b"\xff\xff\xff" + whole[2:],
        "twice": whole + whole,
        "two frames": whole[:frame] + whole[frame : frame + 19] + whole[frame:],
        "two components": frame_byte(9, 2),
        "height 0": whole[: frame + 5] + b"\0\0" + whole[frame + 7 :],
        "width 0": whole[: frame + 7] + b"\0\0" + whole[frame + 9 :],
        "12 bits": frame_byte(4, 12),
    }


@pytest.mark.skipif(driver.driver_version() != 0, reason="what is compared here is nvJPEG without a GPU")
@pytest.mark.parametrize("wheel", WHEELS)
def test_the_fake_answers_as_the_real_one(
    wheel: str,
    make_jpeg: Callable[..., bytes],
    make_photo: Callable[..., Any],
    tmp_path: Path,
) -> None:
    files = corpus(make_jpeg, make_photo)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    path = str(distribution(wheel).locate_file(WHEELS[wheel]))
    done = subprocess.run(
        [sys.executable, nvjpeg_probe.__file__, path, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    real = json.loads(done.stdout)

    version = nvjpeg.version(nvjpeg.bind(ctypes.CDLL(path)))
    with FakeNvjpeg(version=version) as fake:
        assert nvjpeg.version(fake) == version  # type: ignore[arg-type]
        handle = nvjpeg_probe.made(fake.nvjpegCreateSimple)
        said: dict[str, Any] = {name: nvjpeg_probe.headers(fake, handle, files[name]) for name in files}
        said["buffers"] = nvjpeg_probe.buffers(fake, handle)
        said["setters"] = nvjpeg_probe.setters(fake, handle)
    assert len(real) == len(files) + 2 > 40
    said = json.loads(json.dumps(said))
    assert {name for name in real if said[name] != real[name]} == set(), [
        (name, said[name], real[name]) for name in real if said[name] != real[name]
    ][:1]
