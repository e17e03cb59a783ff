"""``python tests/fuzz/fuzz_pipelines.py FIRST COUNT [CHECK ...]``: check the cases of COUNT seeds.

Of failures alike, the first is made smaller and printed. The last lines tell which steps were used, and what
loaders said about those that they refused.
"""

from __future__ import annotations

import logging
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fuzz.checks import CHECKS, REFUSED_ON_GPU, Wrong
from tests.fuzz.recipes import Case, File, Found, brief, generated, written


def failure(name: str, case: Case, files: dict[str, File]) -> BaseException | None:
    """Return what a check raises."""
    try:
        CHECKS[name](case, files)
    except Exception as error:  # noqa: BLE001 (of any kind: this is what is looked for)
        return error
    return None


def kind_of(error: BaseException | None) -> str:
    """Return what failures of one cause have in common; values that differ are all alike."""
    text = "" if isinstance(error, Wrong) or error is None else brief(error)
    return f"{type(error).__name__} {re.sub('[-0-9.e]+', '#', text)[:60]}"


def cost(case: Case) -> tuple[Any, ...]:
    """Return how far a case is from the simplest one."""
    heads = ["SimpleRGBImageDecoder", "CenterCropRGBImageDecoder", case.head[0]]
    plain = [case.field != "image", case.order != "SEQUENTIAL", case.epoch, case.batch_size != 16]
    return len(case.steps), *plain, heads.index(case.head[0])


def simpler(case: Case) -> Iterator[Case]:
    """Yield cases to try in place of this one."""
    for n in range(len(case.steps)):
        yield replace(case, steps=case.steps[:n] + case.steps[n + 1 :])
    yield replace(case, order="SEQUENTIAL")
    yield replace(case, epoch=0)
    yield replace(case, batch_size=16)
    if case.field != "label":
        yield replace(case, field="image")
        yield replace(case, head=("SimpleRGBImageDecoder", (), {}), file="one")
        yield replace(case, head=("CenterCropRGBImageDecoder", ((5, 4), 1.0), {}))


def shrunk(name: str, case: Case, files: dict[str, File]) -> Case:
    """Return a smaller case that fails alike."""
    kind = kind_of(failure(name, case, files))
    while True:
        for other in simpler(case):
            if cost(other) < cost(case) and kind_of(failure(name, other, files)) == kind:
                case = other
                break
        else:
            return case


def fuzz(seeds: Sequence[int], names: Sequence[str], files: dict[str, File]) -> Counter[str]:
    """Check cases, print failures, and return how many there were of each kind."""
    seen: Counter[str] = Counter()
    used: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for seed in seeds:
        try:
            case = generated(seed, files)
        except Found as error:
            seen[f"making it: {kind_of(error.__cause__)}"] += 1
            print(f"\n=== seed {seed}, {error}", flush=True)
            traceback.print_exception(error.__cause__, limit=-3, chain=False, file=sys.stdout)
            continue
        refused += case.refused
        used.update(name for name, _, _ in case.recipes)
        for name in names:
            error = failure(name, case, files)
            kind = f"{name}: {kind_of(error)}"
            seen[kind] += error is not None
            if error is not None and seen[kind] == 1:
                small = shrunk(name, case, files)
                print(f"\n=== seed {seed}, {name}\n{case}\n--- smallest: {small}", flush=True)
                traceback.print_exception(failure(name, small, files), limit=-3, chain=False, file=sys.stdout)
    print("\nused:", dict(used.most_common()))
    for title, messages in (("refused", refused), ("refused on a GPU", REFUSED_ON_GPU)):
        print(title, *(f"{times:6} {text}" for text, times in messages.most_common()), sep="\n")
    return +seen


def main(first: int, count: int, names: Sequence[str]) -> int:
    """Write the files, fuzz, and return how many kinds of failures there were."""
    logging.disable(logging.WARNING)  # about fills and the like
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz(range(first, first + count), names or list(CHECKS), written(Path(folder)))
    print(f"\n{count} cases in {time.monotonic() - begun:.0f} s; failures: {dict(found) or 'none'}")
    return len(found)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
