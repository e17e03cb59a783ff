"""Execute every notebook of this folder and store its outputs; run by ``make notebooks``."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
#: what the first run on a machine may say on standard error, in any cell
COMPILING = "ffcv_gpu is compiling its kernels"


def execute(path: Path, work: Path) -> nbformat.NotebookNode:
    """Return the notebook at `path` with fresh outputs; run in the folder `work`.

    That kernels are being compiled, which only a first run on a machine says, is left out.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell fails; names the cell.
    """
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": work}}
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources=place, coalesce_streams=True
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day would differ from run to run
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_compiling(output)]
    return notebook


def _is_compiling(output: nbformat.NotebookNode) -> bool:
    lines = output.text.splitlines() if output.get("name") == "stderr" else []
    return bool(lines) and all(line.startswith(COMPILING) for line in lines)


def main() -> None:
    """Execute the notebooks in place."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(execute(path, FOLDER), path)
        print(f"executed {path.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
