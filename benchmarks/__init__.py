"""The benchmark suite: ``python -m benchmarks NAME``; for the repository, not part of the wheel.

``bench_x.py`` says what is run against what (as data) and ``workers/`` runs it, each contender in a process
of its own. ``harness`` drives the processes in turns and sums up, ``results`` writes JSON, ``report`` makes
tables from JSON only, ``peers/`` knows other libraries and installs them aside.
"""
