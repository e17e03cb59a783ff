"""The documents' tables and pictures match the committed results, and the command that generates them."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from PIL import Image

from benchmarks import tables
from benchmarks.catalogue import TABLES, table_for
from benchmarks.cli import main
from benchmarks.gpu import headline as gpu
from benchmarks.gpu.lines import append
from benchmarks.record import Metric, Record, Row, load, save

METRICS = [
    Metric("images/s", "", "images", "seconds", ratio=True),
    Metric("peak memory", "MB", "peak_bytes", scale=1e-6, ratio=True),
]


def record(name="loader", rates=(100, 250), **settings):
    rows = [
        Row("case", who, dict(settings), {"first_batch_seconds": 2.0},
            [{"images": rate * s, "seconds": s, "peak_bytes": rate * 1e6} for s in (1, 2, 4)])
        for who, rate in zip(("FFCV uint8", "ffcv_gpu uint8"), rates, strict=True)
    ]  # fmt: skip
    for row in rows:
        row.sum_up(METRICS, rows[0])
    return Record(name, {}, METRICS, rows)


@pytest.fixture
def made(tmp_path):
    """A root with one result, a README of one table, and another document of the same one."""
    (tmp_path / "README.md").write_text("before\n\n<!-- table: loader.json -->\n<!-- end -->\n\nafter\n")
    save(record(), tmp_path / "benchmarks" / "results" / "loader.json")
    (tmp_path / "benchmarks" / "RESULTS.md").write_text("<!-- table: loader.json -->\n<!-- end -->\n")
    return tmp_path


def run(root, *arguments):
    return main(["tables", "--root", str(root), *arguments])


def test_the_readme_is_what_the_committed_results_give(capfd):
    assert main(["tables", "--check"]) == 0, capfd.readouterr().err


#: what the README's prose says of results: the words, and for each figure its file, case and row; a figure is
#: the ratio to FFCV's row, or the value of a metric
PROSE = {
    "epochs": (
        r"our JPEG rate is (.+?), (.+?) and (.+?) times FFCV's",
        ("loader.json", "100 % JPEG, 500 px, 2 cores", "ffcv_gpu uint8", ""),
        ("loader.json", "JPEG 500 px q90, 2 cores", "ffcv_gpu uint8", ""),
        ("peers.json", "JPEG 500 px q90, 2 cores", "ffcv_gpu", ""),
    ),
    "writing": (
        r"written at (.+?) times FFCV's speed when all are re-encoded, (.+?) times when they pass through "
        r"checked, (.+?) times unchecked",
        ("write.json", "JPEG 500 px q90, 2 cores", "ffcv_gpu, all re-encoded from Pillow images", ""),
        ("write.json", "JPEG, sizes as they are, 2 cores", "ffcv_gpu, pass-through checked", ""),
        ("write.json", "JPEG, sizes as they are, 2 cores", "ffcv_gpu, pass-through, header only", ""),
    ),
    "starting": (
        r"its first batch after (.+?) s without torch and (.+?) s with it \(FFCV: (.+?) s\)",
        ("start.json", "JPEG 500 px q90", "ffcv_gpu, arrays", "first batch"),
        ("start.json", "JPEG 500 px q90", "ffcv_gpu, tensors", "first batch"),
        ("start.json", "JPEG 500 px q90", "FFCV, tensors", "first batch"),
    ),
    "opening": (
        r"a file of 1.28 million samples opens in (.+?) s \(FFCV: (.+?) s\)",
        ("open.json", "1,281,167 samples, with checksums and facts", "ffcv_gpu", "Loader made"),
        ("open.json", "1,281,167 samples, with checksums and facts", "FFCV", "Loader made"),
    ),
}


@pytest.mark.parametrize("subject", PROSE)
def test_figures_in_the_readmes_prose_are_the_results(subject, root):
    words, *places = PROSE[subject]
    found = re.search(words, " ".join((root / "README.md").read_text(encoding="utf-8").split()))
    for figure, (file, case, who, metric) in zip(found.groups(), places, strict=True):
        rows = load(root / "benchmarks" / "results" / file).rows
        (row,) = [row for row in rows if (row.case, row.name) == (case, who)]
        value = row.values[metric] if metric else next(iter(row.ratio.values()))
        digits = len(figure.partition(".")[2])
        assert f"{value['median']:.{digits}f}" == figure, (file, case, who)


def test_the_documents_agree_on_the_first_batch_ever(root):
    found = [re.findall(r"takes (\d+ to \d+) s[ ,]", (root / name).read_text(encoding="utf-8"))
             for name in tables.DOCUMENTS]  # fmt: skip
    assert found[0] == found[1] != []


def test_every_table_has_its_marker_in_the_readme_or_among_the_results(root):
    text = "".join((root / name).read_text(encoding="utf-8") for name in tables.DOCUMENTS)
    for view in ("", " headline"):
        assert f"<!-- table: gpu{view} -->\n" in text
    for table in TABLES:
        assert f"<!-- table: {table.result}{' ' * bool(table.view)}{table.view} -->\n" in text


def test_pictures_are_small_and_carry_their_result(root):
    folder = root / "benchmarks" / "results" / "plots"
    plots = {plot.name: plot for plot in tables.plots_of(folder.parent)}
    for path in folder.iterdir():
        assert path.stem in plots
        assert path.stat().st_size < 60_000
        with Image.open(path) as image:
            assert image.info["Source"].startswith(f"{plots[path.stem].result} ")


def test_a_table_says_the_figures_and_where_they_are_from(made):
    assert run(made) == 0
    text = (made / "README.md").read_text()
    assert text.startswith("before\n\n<!-- table: loader.json -->\n\n| loading, images/s | case ")
    assert text.endswith("<!-- end -->\n\nafter\n")
    row = next(line for line in text.splitlines() if line.startswith("| ffcv_gpu uint8"))
    assert "| 250 ±0%, 2.50 x |" in row
    assert "[loader.json](benchmarks/results/loader.json): commit" in text
    assert "(benchmarks/results/plots/loader.png)" in text
    rest = (made / "benchmarks" / "RESULTS.md").read_text()  # sees the same files from where it lies
    assert (
        row in rest and "[loader.json](results/loader.json)" in rest and "(results/plots/loader.png)" in rest
    )
    with Image.open(made / "benchmarks" / "results" / "plots" / "loader.png") as image:
        assert len(image.convert("RGB").getcolors(1000)) > 3


def test_a_second_run_changes_nothing(made):
    run(made)
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    assert run(made) == 0
    assert run(made, "--check") == 0
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_another_figure_by_hand_or_another_result_is_noticed(made, capsys):
    run(made)
    readme = made / "README.md"
    text = readme.read_text()
    readme.write_text(text.replace("2.50 x", "3.50 x"))
    assert run(made, "--check") == 1
    assert "-| ffcv_gpu uint8" in capsys.readouterr().err
    readme.write_text(text)
    save(record(rates=(100, 251)), made / "benchmarks" / "results" / "loader.json")
    assert run(made, "--check") == 1
    assert "loader.png was drawn from another loader.json" in capsys.readouterr().err
    assert readme.read_text() == text
    (made / "benchmarks" / "results" / "plots" / "loader.png").unlink()
    assert run(made, "--check") == 1
    assert "loader.png is missing" in capsys.readouterr().err


def test_a_result_that_does_not_exist_yet_leaves_its_place_empty(made):
    run(made)
    (made / "benchmarks" / "results" / "loader.json").unlink()
    assert run(made) == 0
    assert "<!-- table: loader.json -->\n<!-- end -->" in (made / "README.md").read_text()


def test_a_result_without_an_entry_has_a_table_of_everything(made):
    save(record("other"), made / "benchmarks" / "results" / "other.json")
    text = tables.filled("<!-- table: other.json -->\n<!-- end -->\n", made / "benchmarks" / "results")
    heads = [cell.strip() for cell in text.splitlines()[2].strip("|").split("|")]
    assert heads == ["case", "who", "images/s", "peak memory, MB"]
    assert "250 ±0%, 2.50 x" in text


def test_gpus_fill_their_places_and_leave_none_empty(made):
    text = "<!-- table: gpu headline -->\n<!-- end -->\n<!-- table: gpu -->\n<!-- end -->\n"
    (made / "README.md").write_text(text)
    assert run(made) == 0
    assert (made / "README.md").read_text().count("not measured yet") == len(gpu.FIGURES)
    assert "\n\nNot measured yet.\n\n" in (made / "README.md").read_text()
    write_gpu_results(made / "benchmarks" / "results" / "nvidia-x1", ours=300.0)
    assert run(made) == run(made, "--check") == 0
    text = (made / "README.md").read_text()
    assert text.count("not measured yet") == len(gpu.FIGURES) - 1  # only a peer of the loader was measured
    assert "| on a GPU " in text and "| NVIDIA X1 " in text and "| 1.5 x DALI " in text
    assert "[nvidia-x1](benchmarks/results/nvidia-x1): NVIDIA X1, driver ?" in text
    assert "(benchmarks/results/plots/nvidia-x1.png)" in text
    write_gpu_results(made / "benchmarks" / "results" / "nvidia-x1", ours=400.0)
    assert run(made, "--check") == 1
    assert run(made) == 0
    assert "| 2 x DALI " in (made / "README.md").read_text()


def write_gpu_results(folder, ours):
    """Append a run of the peers' experiment."""
    machine = {"cpu": "a CPU", "cores_usable": 4, "python": "3.11"}
    start = {"row": "start", "schema": 1, "experiment": "t3_peers-DALI", "date": "2030-01-01",
             "commit": "c0ffee", "gpu": {"gpu": "NVIDIA X1"}, "machine": machine}  # fmt: skip
    rows = [start]
    for case, rate in (("DALI", 200.0), ("loader, jpeg, all cores", ours)):
        rows += [{"row": "repeat", "case": case, "images": rate, "seconds": 1.0}] * 2
        rows.append({"row": "result", "case": case, "kind": "batch", "images_per_second": rate})
    rows.append({"row": "fact", "name": "ours / DALI", "kind": "batch", "peer": "DALI", "ratio": ours / 200})
    for row in rows:
        append(folder / "t3_peers-DALI.jsonl", row)


def test_growth_shows_the_ratio_and_its_spread(made):
    found = record("growth", axis="cores", point=1, compared="peak memory")
    found.rows[1].settings["point"] = 2
    found.metrics.append(Metric("source megapixels/s", "", "images"))
    save(found, made / "benchmarks" / "results" / "growth.json")
    (made / "README.md").write_text("<!-- table: growth.json -->\n<!-- end -->\n")
    assert run(made) == 0
    assert "peak memory: 2.50 (2.50 to 2.50)" in (made / "README.md").read_text()
    assert (made / "benchmarks" / "results" / "plots" / "growth.png").stat().st_size < 60_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!-- table: loader.json -->\n no end\n", "no <!-- end -->"),
        ("<!-- table: loader.json -->\n<!-- table: write.json -->\n<!-- end -->\n", "no <!-- end -->"),
        ("<!-- table: loader.json upside-down -->\n<!-- end -->\n", "no table 'upside-down' of loader.json"),
    ],
)
def test_a_wrong_marker_is_a_sentence_and_the_document_stays(made, capsys, text, words):
    (made / "README.md").write_text(text)
    assert run(made) == 1
    assert words in capsys.readouterr().err
    assert (made / "README.md").read_text() == text


def test_a_broken_result_is_named_and_the_document_stays(made, capsys):
    before = (made / "README.md").read_text()
    (made / "benchmarks" / "results" / "loader.json").write_text(json.dumps({"schema": 1}))
    assert run(made) == 1
    assert "loader.json: not a result of this suite" in capsys.readouterr().err
    assert (made / "README.md").read_text() == before


def test_a_root_without_results_is_named(made, capsys):
    shutil.rmtree(made / "benchmarks")
    assert run(made) == 1
    assert "not a folder of results" in capsys.readouterr().err


def test_views_are_told_apart():
    assert table_for("loader.json", "fractions").view == "fractions"
    with pytest.raises(KeyError):
        table_for("loader.json", "none")
