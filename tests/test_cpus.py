"""How many CPUs a process may use: its affinity, and the quota of its control group in both versions."""

from __future__ import annotations

import os

import pytest

from ffcv_gpu import cpus


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """``groups(lines, {file: text})``: the kernel's files, as this process would find them."""

    def make(lines, files):
        (tmp_path / "mine").write_text("".join(f"{line}\n" for line in lines))
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(cpus, "_MINE", tmp_path / "mine")
        monkeypatch.setattr(cpus, "_GROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))

    return make


@pytest.mark.parametrize(
    ("text", "quota", "usable"),
    [
        ("400000 100000\n", 4.0, 4),
        ("150000 100000\n", 1.5, 2),
        ("5000 100000\n", 0.05, 1),
        ("9900000 100000\n", 99.0, 64),
        ("max 100000\n", None, 64),
        ("nonsense\n", None, 64),
    ],
)
def test_the_quota_of_version_2(groups, text, quota, usable):
    groups(["0::/"], {"cpu.max": text})
    assert (cpus.cpu_quota(), cpus.usable_cpus()) == (quota, usable)


@pytest.mark.parametrize(("quota", "usable"), [("300000", 3), ("-1", 64)])
def test_the_quota_of_version_1(groups, quota, usable):
    files = {"cpu/docker/1/cpu.cfs_quota_us": quota, "cpu/docker/1/cpu.cfs_period_us": "100000"}
    groups(["4:memory:/other", "3:cpu,cpuacct:/docker/1", "0::/"], files)
    assert cpus.usable_cpus() == usable


def test_the_lowest_limit_of_all_groups_around_holds(groups):
    files = {"a/cpu.max": "800000 100000", "a/b/cpu.max": "max 100000", "a/b/c/cpu.max": "1200000 100000"}
    groups(["0::/a/b/c"], files)
    assert cpus.cpu_quota() == 8.0


def test_a_container_is_told_its_path_outside(groups):
    groups(["0::/kubepods/pod1/abc"], {"cpu.max": "200000 100000"})
    assert cpus.usable_cpus() == 2


def test_without_control_groups_the_affinity_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(cpus, "_MINE", tmp_path / "none")
    assert cpus.cpu_quota() is None
    assert cpus.usable_cpus() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("processes", "cpus_of_machine", "quota", "share"),
    [
        ("8", 64, "max", 8),
        ("8", 512, "max", 64),  # bound to 64 of 512 CPUs: that is its share
        ("3", 64, "max", 22),
        ("8", 64, "1600000", 2),  # a container's limit holds for all of its processes
        ("100", 64, "max", 1),
        ("1", 64, "max", 64),
        ("1", 64, "150000", 2),
        ("0", 64, "max", 64),
        ("many", 64, "max", 64),
        (None, 64, "max", 64),
    ],
)
def test_the_share_of_a_process_that_torchrun_started(
    groups, monkeypatch, processes, cpus_of_machine, quota, share
):
    groups(["0::/"], {"cpu.max": f"{quota} 100000"})
    monkeypatch.setattr(os, "cpu_count", lambda: cpus_of_machine)
    if processes is None:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert cpus.cpus_per_rank() == share
