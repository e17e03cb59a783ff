"""``python -m benchmarks NAME``: runs a benchmark, prints one table, writes one JSON file."""

from __future__ import annotations

import os
import sys

# `python -m` puts the repository's root first on the path, where our `kernels/` would shadow any other
# package of that name. `benchmarks` is imported already; ffcv_gpu is found where it is installed.
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != ROOT]

if __name__ == "__main__":
    # The process of one GPU experiment needs nothing else.
    if sys.argv[1:2] == ["gpu-child"]:
        from benchmarks.gpu.child import main

        sys.exit(main(sys.argv[2:]))
    from benchmarks.cli import main

    sys.exit(main())
