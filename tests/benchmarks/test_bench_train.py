"""``train``: the step, its measurements, a tiny run and its picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.plot_train import training
from benchmarks.record import load

torch = pytest.importorskip("torch")
figures = pytest.importorskip("matplotlib.figure")
agg = pytest.importorskip("matplotlib.backends.backend_agg")


@pytest.fixture
def workers(monkeypatch):
    """Put the workers' folder on the path, as in a worker."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks" / "workers"
    monkeypatch.syspath_prepend(str(folder))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # shared cores: threads would wait for each other
    yield
    torch.set_num_threads(threads)
    sys.modules.pop("train_step", None)


class Time:
    """Stands for the module `time`: only what is told to takes any."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def clock(self):
        begin = self.now
        return SimpleNamespace(
            answer=lambda: {"seconds": self.now - begin, "cpu_seconds": 0.0, "others_cpu_seconds": 0.0}
        )

    def taking(self, seconds, things):
        for thing in things:
            self.now += seconds
            yield thing


def batches(count):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randn(4, 3, 32, 32, generator=generator), torch.arange(4)


def test_waiting_is_what_the_loader_takes(workers, monkeypatch):
    import train_step

    class Slow(train_step.Step):
        def __call__(self, images, labels):
            time.now += 0.25
            super().__call__(images, labels)

    time, step = Time(), Slow(0.125, 10, "cpu")
    monkeypatch.setattr(train_step, "time", time)
    answer = train_step.measured(step, time.taking(0.5, batches(3)), time.clock, cores=1)
    assert (answer["images"], answer["wait_seconds"], answer["seconds"]) == (12, 1.5, 2.25)
    assert answer["idle_share"] == 1.0 and "gpu_idle_share" not in answer
    answer = train_step.measured(step, batches(3), time.clock, cores=1)
    assert (answer["wait_seconds"], answer["seconds"]) == (0, 0.75)


def test_the_step_learns(workers):
    from train_step import Step

    step = Step(0.125, 10, "cpu")
    ((images, labels),) = batches(1)
    before = step._network(images).log_softmax(1)[range(4), labels].mean()
    for _ in range(10):
        step(images, labels)
    assert step._network(images).log_softmax(1)[range(4), labels].mean() > before + 0.5


@pytest.mark.long
def test_a_tiny_run(suite, tmp_path):
    done = suite(
        "train", "--rounds", "1", "--samples", "12", "--batch-size", "4", "--side", "32", "--cores", "1",
        "--device", "cpu", "--patience", "0", "--work", str(tmp_path / "work"),
        "--out", str(tmp_path / "t.json"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row.name: row for row in load(tmp_path / "t.json").rows}
    assert list(rows) == ["step alone", "torch DataLoader, Pillow", "FFCV 1.0.2", "ffcv_gpu"]
    assert rows.pop("FFCV 1.0.2").missing
    for row in rows.values():
        assert [answer["images"] for answer in row.repeats] == [12]
        for answer in row.repeats:
            assert answer["alone"]["images"] == 8 and answer["wait_seconds"] < answer["seconds"]
            share = 12 / 8 * answer["alone"]["seconds"] / answer["seconds"]
            assert answer["kept_share"] == pytest.approx(share)
        assert row.ratio.keys() == ({"samples/s"} if row.name != "step alone" else set())
    assert rows["ffcv_gpu"].repeats[0]["loader_cpu_seconds"] > 0
    assert (tmp_path / "plots" / "train.png").read_bytes().startswith(b"\x89PNG")
    # the DataLoader reads the very bytes that the file has
    (listing,) = (tmp_path / "work").glob("*-12-*.json")
    stored = next((tmp_path / "work").glob("*.beton")).read_bytes()
    assert all(Path(path).read_bytes() in stored for path in json.loads(listing.read_text()))


def test_no_picture_of_a_run_in_which_everything_was_missing(root):
    record = load(root / "benchmarks" / "results" / "loader.json")
    for row in record.rows:
        row.values = {}
    assert not training(record, figures.Figure())


def test_a_legend_hides_no_bar(root):
    figure = figures.Figure(layout="constrained")
    canvas = agg.FigureCanvasAgg(figure)
    assert training(load(root / "benchmarks" / "results" / "train.json"), figure)
    canvas.draw()
    with_legend = [axis for axis in figure.axes if axis.get_legend()]
    assert len(with_legend) == 2
    for axis in with_legend:
        box = axis.get_legend().get_window_extent()
        assert axis.patches and not any(box.overlaps(bar.get_window_extent()) for bar in axis.patches)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--device", "cuda"), "torch finds no GPU"), (("--samples", "4"), "at least --batch-size")],
)
def test_what_cannot_be_run(suite, tmp_path, arguments, said):
    done = suite("train", "--work", str(tmp_path), "--out", str(tmp_path / "t.json"), *arguments)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "t.json").exists()
