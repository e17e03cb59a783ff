"""How much memory the host can still give: the kernel's word, and the control group's."""

import pytest

from ffcv_gpu.device import host_memory


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setattr(host_memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(host_memory, "GROUP", tmp_path)
    return tmp_path


def test_the_kernel_says_it(host):
    (host / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:    1234 kB\nCached: 5 kB\n")
    assert host_memory.available_bytes() == 1234 * 1024


@pytest.mark.parametrize(
    ("limit", "found"), [("max\n", 4096 * 1024), ("1000000\n", 400_000), ("500000\n", 0)]
)
def test_a_container_has_less(host, limit, found):
    (host / "meminfo").write_text("MemAvailable:    4096 kB\n")
    (host / "memory.max").write_text(limit)
    (host / "memory.current").write_text("600000\n")
    (host / "memory.stat").write_text("anon 600000\nactive_file 0\ninactive_file 0\n")
    assert host_memory.available_bytes() == found


def test_files_in_the_page_cache_are_given_up(host):
    (host / "meminfo").write_text("MemAvailable:    4096 kB\n")
    (host / "memory.max").write_text("1000000\n")
    (host / "memory.current").write_text("900000\n")
    (host / "memory.stat").write_text("file 500000\nshmem 100000\nactive_file 100000\ninactive_file 300000\n")
    assert host_memory.available_bytes() == 500_000


def test_a_control_group_of_version_1(host):
    (host / "meminfo").write_text("MemAvailable:    4096 kB\n")
    group = host / "memory"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text("1000000\n")
    (group / "memory.usage_in_bytes").write_text("900000\n")
    (group / "memory.stat").write_text(
        "active_file 7\ntotal_active_file 100000\ntotal_inactive_file 300000\n"
    )
    assert host_memory.available_bytes() == 500_000
    (group / "memory.limit_in_bytes").write_text("9223372036854771712\n")  # no limit
    assert host_memory.available_bytes() == 4096 * 1024


def test_without_either_there_is_a_number(host):
    assert host_memory.available_bytes() > 0


def test_here_it_is_less_than_there_is():
    assert 0 < host_memory.available_bytes() < 1 << 50
