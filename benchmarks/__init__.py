"""The benchmark suite: ``python -m benchmarks NAME``; for the repository, not part of the wheel.

``bench_x.py`` declares what is compared, ``workers/`` runs it, each contender in a separate process.
``harness`` runs the processes in turns and summarises, ``record`` is the JSON, ``report`` and ``views`` make
tables from it alone, ``peers/`` installs other libraries in separate environments. ``gpu/`` is for a GPU.
"""
