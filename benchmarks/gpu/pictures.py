"""JPEGs in memory for nvJPEG, its destinations, and libjpeg-turbo's pixels for comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg

from benchmarks.gpu.device import Bytes, Gpu, Memory
from ffcv_gpu.errors import DecodeError
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.native.nvjpeg_types import nvjpegOutputFormat_t as Format

__all__ = ["FORMATS", "GUARD", "Arena", "Pictures", "Size", "difference", "greatest", "pixels", "reference",
           "size_of"]  # fmt: skip

FORMATS = {name.removeprefix("NVJPEG_OUTPUT_").lower(): value for name, value in Format.__members__.items()}
#: guard bytes after every plane; value that destinations are filled with beforehand
GUARD, BLANK = 256, 0x5A
ALIGN = 256
#: (across, down) by nvjpegChromaSubsampling_t
STEPS = {0: (1, 1), 1: (2, 1), 2: (2, 2), 3: (1, 2), 4: (4, 1), 5: (4, 2), 6: (1, 1), 7: (2, 4)}

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Size:
    """What determines the size of a destination."""

    height: int
    width: int
    subsampling: int = 0
    components: int = 3


def size_of(data: bytes, default: Size = Size(64, 64)) -> Size:
    """Read it from the headers; `default` if there are none."""
    try:
        header = scan_jpeg(data if b"\xff\xd9" in data[-2:] else data + b"\xff\xd9")
    except DecodeError:
        return default
    return Size(header.height, header.width, header.subsampling, header.components)


def planes(output: int, size: Size) -> list[tuple[int, int]]:
    """Return rows and bytes per row of each plane of a format."""
    across, down = STEPS.get(size.subsampling, (1, 1))
    chroma = (-(-size.height // down), -(-size.width // across))
    if output in (Format.NVJPEG_OUTPUT_RGBI, Format.NVJPEG_OUTPUT_BGRI):
        return [(size.height, 3 * size.width)]
    if output in (Format.NVJPEG_OUTPUT_RGB, Format.NVJPEG_OUTPUT_BGR):
        return [(size.height, size.width)] * 3
    if output == Format.NVJPEG_OUTPUT_Y:
        return [(size.height, size.width)]
    more = 0 if size.components == 1 else size.components - 1
    return [(size.height, size.width), *[chroma] * more]


@dataclass(frozen=True)
class Pictures:
    """The compressed images of one batch; arrays are int64 (n,)."""

    files: tuple[bytes, ...]
    blob: Bytes
    addresses: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    sizes: tuple[Size, ...]

    @classmethod
    def of(cls, gpu: Gpu, files: Sequence[bytes], *, pinned: bool = True) -> Pictures:
        """Copy files to host memory, one after the other."""
        lengths = np.array([len(file) for file in files], np.int64)
        blob = (gpu.pinned if pinned else gpu.pageable)(int(lengths.sum()))
        blob[: int(lengths.sum())] = np.frombuffer(b"".join(files), np.uint8)
        addresses = int(blob.ctypes.data) + np.cumsum(lengths) - lengths
        return cls(tuple(files), blob, addresses, lengths, tuple(size_of(file) for file in files))

    @property
    def count(self) -> int:
        return len(self.files)

    @property
    def facts(self) -> dict[str, float]:
        """Megapixels and megabytes of the batch."""
        return {"megapixels": sum(s.height * s.width for s in self.sizes) / 1e6,
                "megabytes": float(self.lengths.sum()) / 1e6}  # fmt: skip

    def data(self, i: int) -> Bytes:
        """Return a view of the bytes of image i."""
        start = int(self.addresses[i]) - int(self.blob.ctypes.data)
        return self.blob[start : start + int(self.lengths[i])]


class Arena:
    """A destination for every image of a batch, with guard bytes after each plane.

    Attributes
    ----------
    table
        uintp (n, 8): rows are ``nvjpegImage_t``
    memory
    """

    def __init__(self, gpu: Gpu, sizes: Sequence[Size], output: int) -> None:
        self.output, self.sizes = int(output), tuple(sizes)
        self.table = np.zeros((len(sizes), 8), np.uintp)
        at, self._places = 0, []
        for i, size in enumerate(sizes):
            rows = []
            for k, (high, wide) in enumerate(planes(output, size)):
                pitch = -(-wide // ALIGN) * ALIGN
                rows.append((at, high, wide, pitch))
                self.table[i, k], self.table[i, 4 + k] = at, pitch
                at += -(-(high * pitch + GUARD) // ALIGN) * ALIGN
            self._places.append(rows)
        self.memory: Memory = gpu.memory(at)
        self.table[:, :4] += np.where(self.table[:, 4:] > 0, np.uintp(self.memory.address), np.uintp(0))

    def image(self, memory: Bytes, i: int) -> list[Pixels]:
        """Return the planes of image i in a downloaded arena, as views."""
        return [
            memory[at : at + high * pitch].reshape(high, pitch)[:, :wide]
            for at, high, wide, pitch in self._places[i]
        ]

    def untouched(self, memory: Bytes, i: int) -> bool:
        """Return whether nothing was written to image i, in an arena that was blank."""
        return all(bool((plane == BLANK).all()) for plane in self.image(memory, i))

    def spilled(self, memory: Bytes) -> int:
        """Count bytes written outside the planes, in an arena that was blank."""
        mine = np.zeros(memory.size, np.bool_)
        for rows in self._places:
            for at, high, wide, pitch in rows:
                mine[at : at + high * pitch].reshape(high, pitch)[:, :wide] = True
        return int((memory[~mine] != BLANK).sum())

    def blank(self, gpu: Gpu, value: int = BLANK) -> None:
        """Fill the arena and wait."""
        gpu.fill(self.memory, value)
        gpu.synchronize()


def reference(data: bytes, output: int, *, interpolate: bool) -> list[Pixels] | None:
    """Return the planes that libjpeg-turbo decodes, or None if it (or our call of it) cannot."""
    from benchmarks.gpu.host_device import tests_package

    tests_package()
    from tests.fake_nvjpeg_images import Refused, parse, render

    try:
        return render(data, parse(data, "end"), output, interpolate=interpolate)
    except (Refused, ValueError):
        return None


def pixels(data: bytes) -> Pixels | None:
    """Return RGB (height, width, 3) as libjpeg-turbo decodes it, or None if it cannot."""
    try:
        decoded: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None
    return decoded


def difference(found: Sequence[Pixels], wanted: Sequence[Pixels]) -> dict[str, float]:
    """Return the mean and max difference of pixels, and the share that differs by more than 2."""
    if [p.shape for p in found] != [p.shape for p in wanted]:
        return {"mean": 255.0, "max": 255.0, "share_over_2": 1.0}
    apart = np.concatenate(
        [np.abs(a.astype(np.int16) - b).ravel() for a, b in zip(found, wanted, strict=True)]
    )
    return {
        "mean": round(float(apart.mean()), 4),
        "max": float(apart.max()),
        "share_over_2": round(float((apart > 2).mean()), 6),
    }


def greatest(apart: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the maximum of each value over some differences; {} if there are none."""
    return {key: max(one[key] for one in apart) for key in apart[0]} if apart else {}
