"""Execute every notebook of this folder and store its outputs; run by ``make notebooks``."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent


def execute(path: Path, work: Path) -> nbformat.NotebookNode:
    """Return the notebook at `path` with fresh outputs; run in the folder `work`.

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
    return notebook


def main() -> None:
    """Execute the notebooks in place."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(execute(path, FOLDER), path)
        print(f"executed {path.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
