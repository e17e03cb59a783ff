"""E18: runs the cells of the notebook about decoding on this GPU, and keeps their pictures."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.bench import Bench, Row, fact

__all__ = ["run"]

NOTEBOOK = "notebooks/decode_profile.ipynb"


def run(bench: Bench) -> Iterator[Row]:
    """Execute the cells as a script, without Jupyter; yield the output of each as a row."""
    os.environ["MPLBACKEND"] = "agg"
    from matplotlib import pyplot

    bench.gpu.use()
    names: dict[str, Any] = {}
    cells = json.loads((bench.root / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    for number, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile("".join(cell["source"]), f"{NOTEBOOK}, cell {number}", "exec"), names)
        for figure in pyplot.get_fignums():
            bench.work.mkdir(parents=True, exist_ok=True)
            pyplot.figure(figure).savefig(bench.work / f"decode_profile-{number}-{figure}.png")
        pyplot.close("all")
        yield fact(f"cell {number} ran", lines=said.getvalue().splitlines())
