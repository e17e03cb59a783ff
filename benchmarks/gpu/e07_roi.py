"""E7: decoding only a rectangle, or at half the size: is it correct, and is it faster?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mode

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.bench import Bench, Row, check, fact, timed, unless_refused
from benchmarks.gpu.decoders import INTERPOLATE, Batch, Handle, Job, Refusal, status_name
from benchmarks.gpu.pictures import FORMATS, Arena, Pictures, Size, size_of
from benchmarks.gpu.speed import by_batches, lanes_of, totals
from ffcv_gpu.crops import CROP_DRAWS, random_resized_crop
from ffcv_gpu.native.nvjpeg_types import nvjpegScaleFactor_t as ScaleFactor

__all__ = ["boxes_of", "run"]

Boxes = npt.NDArray[np.int64]
BLOCK = 16


def run(bench: Bench) -> Iterator[Row]:
    """Compare with a crop of the whole image, then time.

    Photographs of one subsampling: a mixture costs the engines more than the effect measured here (E15).
    """
    library, files = bench.gpu.library(), bench.photos()
    kinds = [size_of(file).subsampling for file in files]
    files = [file for file, kind in zip(files, kinds, strict=True) if kind == mode(kinds)]
    pictures = bench.rotation(bench.scale.batch, files=files)
    for flags in (0, INTERPOLATE):
        try:
            handle = Handle(library, "hardware", flags)
        except Refusal as refusal:
            yield fact("no engine", words=str(refusal))
            return
        for output in ("rgbi", "yuv"):
            base = f"{output}, flags {flags}"
            yield from by_batches(bench, f"{base}, whole", lanes_of(bench, handle, pictures, output))
            for aligned in (True, False) if output == "rgbi" else (True,):
                what = f"{base}, rectangles{', aligned' if aligned else ''}"
                boxes = [boxes_of(p.sizes, aligned=aligned, seed=k) for k, p in enumerate(pictures)]
                for rows in (_right(bench, handle, pictures[0], boxes[0], output, what),
                             _timed(bench, handle, pictures, boxes, output, what)):  # fmt: skip
                    yield from unless_refused(bench, what, rows)
    rows = _half(bench, Handle(library, "hardware", INTERPOLATE), pictures)
    yield from unless_refused(bench, "rgbi, half the size, compared", rows)


def boxes_of(sizes: Sequence[Size], *, aligned: bool, seed: int = 0) -> Boxes:
    """Draw y, x, height, width as random-resized-crop does, widened to whole blocks if `aligned`."""
    sides = np.array([(size.height, size.width) for size in sizes])
    draws = np.random.default_rng(seed).random((len(sizes), CROP_DRAWS))
    found = random_resized_crop(draws, *sides.T, (0.08, 1.0), (3 / 4, 4 / 3)).astype(np.int64)
    if aligned:
        starts, ends = found[:, :2] // BLOCK * BLOCK, -(-(found[:, :2] + found[:, 2:]) // BLOCK) * BLOCK
        found = np.hstack([starts, np.minimum(ends, sides) - starts])
    return found


def _params(
    handle: Handle,
    boxes: Boxes | None,
    count: int,
    output: str,
    scale: ScaleFactor = ScaleFactor.NVJPEG_SCALE_NONE,
) -> npt.NDArray[np.uintp]:
    found = np.zeros(count, np.uintp)
    for i in range(count):
        made = handle.make("nvjpegDecodeParamsCreate", handle.pointer)
        status = handle("nvjpegDecodeParamsSetOutputFormat", made, int(FORMATS[output]))
        if boxes is not None:
            y, x, high, wide = boxes[i].tolist()
            status = status or handle("nvjpegDecodeParamsSetROI", made, x, y, wide, high)
        if scale:
            status = status or handle("nvjpegDecodeParamsSetScaleFactor", made, int(scale))
        if status:
            raise Refusal("setting parameters", status)
        found[i] = made
    return found


def _cut(sizes: Sequence[Size], boxes: Boxes) -> list[Size]:
    return [
        Size(int(box[2]), int(box[3]), size.subsampling, size.components)
        for size, box in zip(sizes, boxes, strict=True)
    ]


def _right(
    bench: Bench, handle: Handle, pictures: Pictures, boxes: Boxes, output: str, what: str
) -> Iterator[Row]:
    """Compare a rectangle with a crop of the whole image; edges of one pixel are counted separately."""
    gpu, form = bench.gpu, FORMATS[output]
    whole, part = Arena(gpu, pictures.sizes, form), Arena(gpu, _cut(pictures.sizes, boxes), form)
    part.blank(gpu)
    batch, stream = Batch(handle, pictures.count, form), gpu.stream()
    batch.decode(Job.of(pictures, whole), gpu.handle(stream))
    bench.wait(stream)
    params = _params(handle, boxes, pictures.count, output)
    status = batch.decode(Job.of(pictures, part), gpu.handle(stream), params)
    bench.wait(stream)
    if status:
        yield fact(f"{what}: not possible", status=status_name(status))
        return
    big, small = gpu.download(whole.memory), gpu.download(part.memory)
    inside = ring = 0
    for i, box in enumerate(boxes.tolist()):
        y, x, high, wide = box
        cut = whole.image(big, i)[0][y : y + high]
        step = 3 if output == "rgbi" else 1
        apart = part.image(small, i)[0] != cut[:, step * x : step * (x + wide)]
        ring += int(apart.sum() - apart[1:-1, step:-step].sum())
        inside += int(apart[1:-1, step:-step].sum())
    spilled = part.spilled(small)
    yield check(f"{what}: the same pixels inside", inside == 0, must=False, differ=inside, of=small.size)
    yield check(f"{what}: the same pixels at the edge", ring == 0, must=False, differ=ring)
    yield check(f"{what}: inside its destination", spilled == 0, bytes=spilled)


def _timed(
    bench: Bench, handle: Handle, pictures: Sequence[Pictures], boxes: Sequence[Boxes], output: str, what: str
) -> Iterator[Row]:
    gpu, form = bench.gpu, FORMATS[output]
    batch, stream = Batch(handle, pictures[0].count, form), gpu.stream()
    jobs = [Job.of(p, Arena(gpu, _cut(p.sizes, b), form)) for p, b in zip(pictures, boxes, strict=True)]
    params = [_params(handle, b, len(b), output) for b in boxes]

    def turn() -> dict[str, float]:
        for job, given in zip(jobs, params, strict=True):
            if status := batch.decode(job, gpu.handle(stream), given):
                raise Refusal("nvjpegDecodeBatchedEx", status)
            bench.wait(stream)
        return totals(pictures)

    share = sum(float((b[:, 2] * b[:, 3]).sum()) for b in boxes) / 1e6
    whole = totals(pictures)["megapixels"]
    yield from timed(bench, what, turn, share_of_pixels=round(share / whole, 3))


def _half(bench: Bench, handle: Handle, pictures: Sequence[Pictures]) -> Iterator[Row]:
    """Decode at half the size, and compare with means of 2 x 2 pixels."""
    gpu, form, factor = bench.gpu, FORMATS["rgbi"], ScaleFactor.NVJPEG_SCALE_1_BY_2
    batch, stream, one = Batch(handle, pictures[0].count, form), gpu.stream(), pictures[0]
    whole = Arena(gpu, one.sizes, form)
    batch.decode(Job.of(one, whole), gpu.handle(stream))
    bench.wait(stream)
    jobs = [
        Job.of(p, Arena(gpu, [Size(-(-s.height // 2), -(-s.width // 2)) for s in p.sizes], form))
        for p in pictures
    ]
    params = _params(handle, None, one.count, "rgbi", factor)

    def turn() -> dict[str, float]:
        for job in jobs:
            if status := batch.decode(job, gpu.handle(stream), params):
                raise Refusal("nvjpegDecodeBatchedEx", status)
            bench.wait(stream)
        return totals(pictures)

    yield from timed(bench, "rgbi, half the size", turn)
    turn()
    big, small = gpu.download(whole.memory), gpu.download(jobs[0].arena.memory)
    apart = []
    for i, size in enumerate(one.sizes):
        high, wide = size.height // 2, size.width // 2
        image = whole.image(big, i)[0].reshape(size.height, size.width, 3)[: 2 * high, : 2 * wide]
        mean = image.reshape(high, 2, wide, 2, 3).mean(axis=(1, 3))
        found = jobs[0].arena.image(small, i)[0].reshape(-(-size.height // 2), -(-size.width // 2), 3)
        apart.append(float(np.abs(found[:high, :wide] - mean).mean()))
    yield fact(
        "half the size, difference from the mean of four pixels", mean=float(np.mean(apart)), worst=max(apart)
    )
