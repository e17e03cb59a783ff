"""The benchmark suite: ``python -m benchmarks NAME``; for the repository, not part of the wheel.

``bench_x.py`` says what is run against what (as data) and ``workers/`` runs it, each contender in a process
of its own. ``harness`` drives the processes in turns and sums up, ``record`` is the JSON, ``report`` makes
tables from it alone, ``peers/`` knows other libraries and installs them aside. ``gpu/`` asks a GPU.
"""
