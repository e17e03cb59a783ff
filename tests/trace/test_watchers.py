"""NVTX ranges and torch's profiler: what they get to see, and that nothing is called when they are off."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from ffcv_gpu.trace import StageClock, watchers


class Domain:
    """Stands for nvtx's domain when a tool listens: keeps what it is told."""

    def __init__(self):
        self.said = []

    def get_event_attributes(self, message, payload):
        return message, payload

    def push_range(self, attributes):
        self.said.append(("push", *attributes))

    def pop_range(self):
        self.said.append(("pop",))


@pytest.fixture
def domain(monkeypatch):
    found, asked = Domain(), []
    module = types.ModuleType("nvtx")
    module.get_domain = lambda name: (asked.append(name), found)[1]
    monkeypatch.setitem(sys.modules, "nvtx", module)
    watchers.nvtx_watcher.cache_clear()
    yield found
    watchers.nvtx_watcher.cache_clear()
    assert asked == ["ffcv_gpu"]


def test_nvtx_ranges_are_nested_as_the_spans_are(domain):
    clock = StageClock()
    with clock.of_batch(7, 2).span("read", items=3), clock.span("check", items=1):
        pass
    with pytest.raises(KeyError), clock.span("decode"):
        raise KeyError
    assert domain.said == [
        ("push", "read", 7), ("push", "check", None), ("pop",), ("pop",), ("push", "decode", None), ("pop",)
    ]  # fmt: skip
    assert clock.snapshot().stages["read"].items == 3


@pytest.mark.usefixtures("single_batches")
def test_the_loader_makes_ranges(domain, make_loader):
    list(make_loader(num_workers=1))
    pushed = [said[1:] for said in domain.said if said[0] == "push"]
    assert {("decode", batch) for batch in range(6)} <= set(pushed)
    assert sum(said[0] == "pop" for said in domain.said) == len(pushed)


def test_without_a_tool_the_real_package_is_not_called():
    nvtx = pytest.importorskip("nvtx")
    watchers.nvtx_watcher.cache_clear()
    assert type(nvtx.get_domain("ffcv_gpu")).__name__ == "DummyDomain"  # the name we go by
    assert watchers.nvtx_watcher() == ()


def test_a_tool_sees_the_ranges_of_the_real_package(tmp_path):
    pytest.importorskip("nvtx")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the tool")
    tool, source = tmp_path / "tool.so", Path(__file__).with_name("nvtx_tool.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tool, source], check=True, timeout=60)
    code = (
        "from ffcv_gpu.trace import StageClock\n"
        "clock = StageClock()\n"
        "with clock.of_batch(7, 2).span('read', items=3), clock.span('check'): pass"
    )
    environment = {**os.environ, "NVTX_INJECTION64_PATH": str(tool)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    said = done.stdout.splitlines()
    assert "domain ffcv_gpu" in said
    assert said[-4:] == ["push read 7", "push check", "pop", "pop"]


def test_without_the_package_nothing_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvtx", None)
    watchers.nvtx_watcher.cache_clear()
    assert watchers.nvtx_watcher() == ()
    watchers.nvtx_watcher.cache_clear()


def test_torch_is_not_imported_for_this():
    code = (
        "import sys; from ffcv_gpu.trace import StageClock\n"
        "with StageClock().span('decode'): pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_torch_profiler_sees_the_waits_of_the_loop(make_loader):
    torch = pytest.importorskip("torch")
    loader = make_loader()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        list(loader)
    seen = {event.key: event.count for event in profiler.key_averages()}
    assert seen["ffcv_gpu: wait"] == 7  # the last one finds the end


def test_torch_profiler_sees_the_workers_if_told_to(make_loader):
    torch = pytest.importorskip("torch")
    config = torch._C._profiler._ExperimentalConfig
    if "profile_all_threads" not in config.__init__.__doc__:
        pytest.skip("this torch's profiler cannot be told to (2.7 and newer can)")
    every = config(profile_all_threads=True)
    loader, activities = make_loader(), [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, experimental_config=every) as profiler:
        list(loader)
    seen = {event.key: event.count for event in profiler.key_averages()}
    calls = loader.stats().stages["decode"].calls
    assert seen["ffcv_gpu: decode"] == calls


def test_when_off_a_span_is_the_plain_one():
    clock = StageClock()
    assert type(clock.span("decode")).__name__ == "_Span"
