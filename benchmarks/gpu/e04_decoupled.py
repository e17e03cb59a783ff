"""E4: the engines with the decoupled calls, by threads and pages: is that faster than batches?"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu.bench import Bench, Row, fact
from benchmarks.gpu.decoders import INTERPOLATE, Handle, Refusal
from benchmarks.gpu.speed import by_batches, by_singles, lanes_of

__all__ = ["run"]


def run(bench: Bench) -> Iterator[Row]:
    """Measure the batched call for comparison, then states in threads, then all in one thread."""
    try:
        handle = Handle(bench.gpu.library(), "hardware", INTERPOLATE)
    except Refusal as refusal:
        yield fact("no engine", words=str(refusal))
        return
    pictures = bench.rotation(bench.scale.batch)
    lanes = lanes_of(bench, handle, pictures, count=2)
    yield from by_batches(bench, f"batched, two states, batch {bench.scale.batch}", lanes)
    for threads in (True, False):
        for states in bench.scale.threads:
            for pages in (2, 1):
                where = "a thread each" if threads else "one thread"
                case = f"{states} states, {where}, {pages} pages"
                yield from by_singles(bench, case, handle, "hardware", pictures, states=states,
                                      threads=threads, pages=pages)  # fmt: skip
