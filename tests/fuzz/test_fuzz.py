"""The kept corpus at every run; a bounded time of fuzzing, with atheris, in the long one."""

from __future__ import annotations

import ctypes
import faulthandler
import importlib.util
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
#: of fuzzing, for each target, in the long run
SECONDS = int(os.environ.get("FFCV_GPU_FUZZ_SECONDS", "60"))


@pytest.fixture(scope="module")
def targets():
    spec = importlib.util.spec_from_file_location("fuzz_targets", HERE / "targets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["format", "jpeg"])
def test_the_corpus_is_read_or_refused_and_nothing_else(targets, name):
    check = targets.TARGETS[name]
    seeds = sorted((HERE / "corpus" / name).iterdir())
    outcomes = {seed.name: check(seed.read_bytes()) for seed in seeds}
    # Seeds are good files; the others once found a mistake, or reached something new.
    good = {"format": "opened", "jpeg": "read"}[name]
    assert {outcomes[n] for n in outcomes if n.startswith("seed-")} == {good}
    assert len(outcomes) >= 9


@pytest.mark.parametrize("name", ["format", "jpeg"])
def test_changed_seeds_are_read_or_refused_and_nothing_else(targets, name):
    """Without atheris too: some hundred blind changes, the same at every run."""
    check, rng, outcomes = targets.TARGETS[name], random.Random(0), Counter()
    seeds = [path.read_bytes() for path in sorted((HERE / "corpus" / name).glob("seed-*"))]
    for _ in range(400):
        content = bytearray(rng.choice(seeds))
        for _ in range(rng.choice([1, 1, 2, 5])):
            at = rng.randrange(len(content))
            content[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, content[at] ^ 1 << rng.randrange(8)])
        outcomes[check(bytes(content[: rng.choice([len(content), rng.randrange(len(content))])]))] += 1
    assert outcomes["refused"] > 50 and len(outcomes) > 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_byte_too_many_would_be_noticed(targets):
    """The guard page behind a JPEG does end a process that reads on."""
    pid = os.fork()
    if pid == 0:
        faulthandler.disable()
        ctypes.string_at(targets.GUARDED.put(b"abc").ctypes.data, 4)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) < 0


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize("name", ["format", "jpeg"])
def test_fuzzing_finds_nothing(name, tmp_path, capsys):
    pytest.importorskip("atheris", reason="fuzzing needs atheris: pip install atheris")
    command = [
        sys.executable,
        str(HERE / "fuzz.py"),
        name,
        f"-max_total_time={SECONDS}",
        "-print_final_stats=1",
    ]
    (tmp_path / "found").mkdir()
    done = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/", str(tmp_path / "found")], capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    (runs,) = re.findall(r"stat::number_of_executed_units: (\d+)", done.stderr)
    with capsys.disabled():
        print(f"\nfuzz {name}: {int(runs):,} inputs in {SECONDS} s ({int(runs) / SECONDS:,.0f}/s)")
    assert int(runs) > 1000
