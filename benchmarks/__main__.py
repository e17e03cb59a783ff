"""``python -m benchmarks NAME``: runs a benchmark, prints one table, writes one JSON file."""

from __future__ import annotations

import os
import sys

# `python -m` puts the repository's root first on the path, where our `kernels/` would shadow any other
# package of that name. The modules below are found through this package, ffcv_gpu where it is installed.
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != ROOT]

from benchmarks.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
