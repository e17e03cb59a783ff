"""C6: hundreds of thousands of images, in random batches with some bad images: is any pixel wrong?

Each photograph is decoded once and compared with libjpeg-turbo, and from then on with that first result, on
the GPU. An image in a batch with a bad one may take another decoder, so C1's limits apply instead of
equality.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.bench import Bench, Row, check
from benchmarks.gpu.c1_parity import MAX, MEAN
from benchmarks.gpu.pictures import difference, greatest, pixels
from benchmarks.gpu.variants import DAMAGES, damaged

__all__ = ["run"]

#: one batch in `BAD_BATCHES` has up to `BAD_IMAGES` bad images
BAD_BATCHES, BAD_IMAGES = 8, 3
#: batches per row
REPORTED = 100


def run(bench: Bench) -> Iterator[Row]:
    """Decode until `many` images are done, or the time is over."""
    from ffcv_gpu import decode_jpegs

    files = bench.photos()
    right, status = decode_jpegs(files, device=bench.gpu.name)
    apart = [difference([bench.gpu.host(image)], [found]) for image, file in zip(right, files, strict=True)
             if image is not None and (found := pixels(file)) is not None]  # fmt: skip
    worst = greatest(apart)
    near = worst["mean"] <= MEAN and worst["max"] <= MAX
    yield check("each photograph is libjpeg-turbo's", near and not status.any() and len(apart) == len(files),
                images=len(files), **worst)  # fmt: skip
    rng = np.random.default_rng(0)
    images = bad = lost = far = 0
    mean = 0.0
    sample = bench.images(1)[0]
    while images < bench.scale.many:
        for _ in range(REPORTED if not bench.gpu.rehearsal else 4):
            chosen = rng.integers(0, len(files), bench.scale.batch)
            batch = [files[i] for i in chosen]
            spoilt = _spoil(batch, sample, rng)
            found, status = decode_jpegs(batch, device=bench.gpu.name)
            good = [k for k in range(len(batch)) if k not in spoilt]
            missing = [k for k in good if found[k] is None]
            lost += len(missing)
            shown = [k for k in good if found[k] is not None]
            most, average = bench.gpu.apart([found[k] for k in shown], [right[chosen[k]] for k in shown])
            far, mean = max(far, most), max(mean, average)
            images, bad = images + len(good), bad + len(spoilt)
        yield check(
            "every image of every batch is right", not lost and far <= MAX and mean <= MEAN, images=images,
            bad_images_among_them=bad, without_pixels=lost, greatest_difference=far,
            greatest_mean_of_a_batch=round(mean, 5),
        )  # fmt: skip


def _spoil(batch: list[bytes], image: Any, rng: np.random.Generator) -> Sequence[int]:
    """Put bad files into some batches; return their positions."""
    if rng.integers(BAD_BATCHES):
        return ()
    places = rng.choice(len(batch), min(len(batch) - 1, int(rng.integers(1, BAD_IMAGES + 1))), replace=False)
    for place in places.tolist():
        kind = DAMAGES[int(rng.integers(len(DAMAGES)))]
        batch[place] = damaged(batch[place], image, kind, seed=int(rng.integers(1 << 30)))
    return list(places.tolist())
