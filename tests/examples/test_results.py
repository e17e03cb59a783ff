"""examples/README.md: its figures are those of the results it names, and its files are there."""

import json
import re

import pytest

from benchmarks.record import load


@pytest.fixture(scope="module")
def text(root):
    return (root / "examples" / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sides(root):
    rows = load(root / "benchmarks" / "results" / "cifar10_cpu.json").rows
    return {row.name: [round(100 * repeat["test_accuracy"], 2) for repeat in row.repeats] for row in rows}


def test_accuracies_are_those_of_the_runs(text, sides):
    for name, start in (("torch", "torch DataLoader"), ("ffcv_gpu", "ffcv_gpu")):
        (row,) = (line for line in text.splitlines() if line.startswith(f"| {start}"))
        *seeds, mean = map(float, re.findall(r"[\d.]+(?= %)", row))
        assert seeds == sides[name]
        assert mean == pytest.approx(sum(seeds) / len(seeds), abs=0.005)


def test_no_difference_is_seen(text, sides):
    mean = {name: sum(found) / len(found) for name, found in sides.items()}
    spread = max(max(found) - min(found) for found in sides.values())
    between = abs(mean["torch"] - mean["ffcv_gpu"])
    assert f"The means differ by {between:.2f}, seeds of one side by up to {spread:.1f}" in text
    assert between < spread / 2


def test_what_jpeg_costs_is_what_the_runs_say(root, text):
    given, again = load(root / "benchmarks" / "results" / "cifar10_jpeg_cost.json").rows
    means = []
    for row, start in ((given, "original pixels"), (again, "JPEG copies")):
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {start}"))
        *seeds, mean = map(float, re.findall(r"[\d.]+(?= %)", line))
        assert seeds == [round(100 * repeat["test_accuracy"], 2) for repeat in row.repeats]
        assert mean == pytest.approx(sum(seeds) / len(seeds), abs=0.0051)
        means.append(mean)
    assert f"{means[0] - means[1]:.1f} points" in text
    # every seed of one side is better than every seed of the other
    assert again.values["test accuracy"]["max"] < given.values["test accuracy"]["min"]


def test_the_full_recipe_is_shown_as_it_went(root, text):
    results = root / "benchmarks" / "results"
    original, copies = (
        json.loads((results / f"cifar10_{name}.json").read_text()) for name in ("original", "airbench")
    )
    accuracies = original["test_accuracy"], copies["ours"]["test_accuracy"], copies["test_accuracy"]
    readme = (root / "README.md").read_text(encoding="utf-8")
    for shown in (f"{100 * accuracy:.2f} %" for accuracy in accuracies):
        assert shown in text and shown in readme
    assert f"{100 * (accuracies[0] - accuracies[1]):.1f} for the full preset" in text
    assert original["settings"]["preset"] == "94" and original["epochs"][-1]["test_accuracy"] == accuracies[0]


def test_the_main_readme_shows_the_five_minutes(root):
    # and test_readme.py runs what it shows, which ends with a check of the accuracy
    readme = (root / "README.md").read_text(encoding="utf-8")
    program = (root / "examples" / "recipes" / "five_minutes.py").read_text(encoding="utf-8")
    _, _, code = program.partition('"""\n\n')
    assert f"```python\n{code.rstrip()}\n```" in readme and code.rstrip().endswith("assert accuracy > 0.9")


def test_photographs_were_learnt_by_heart(root):
    (row,) = load(root / "benchmarks" / "results" / "imagenet_overfit.json").rows
    curve = [epoch["train_accuracy"] for epoch in row.repeats[0]["epochs"]]
    assert len(curve) == 50 and curve[0] < 0.02 and curve[-1] > 0.98


def test_files_that_are_named_are_there(root, text):
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links and all((root / "examples" / link).is_file() for link in links)
    for path in re.findall(r"python (?:-m \S+ )*(examples/\S+\.py)", text):
        assert (root / path).is_file()
    recipes = {path.name for path in (root / "examples" / "recipes").glob("*.py")} - {"digits.py"}
    assert {name for name in recipes if f"{name}`" not in text} == set()
