"""Turns, ratios, and contenders whose process fails."""

from __future__ import annotations

import contextlib
import statistics

import pytest

from benchmarks import harness
from benchmarks.compare import Case, Crew, Turns, run_case
from benchmarks.harness import Contender, Failed, Worker, interleaved, ratios, summary
from benchmarks.record import Metric


def test_turns_go_back_and_forth():
    assert [name for _, name in interleaved("abc", 3)] == list("abccbaabc")


def test_summary_is_the_median_and_how_far_they_lie_apart():
    values = [5.0, 1.0, 4.0, 2.0]
    found = summary(values)
    assert found == {"median": statistics.median(values), "min": 1, "max": 5, "spread": pytest.approx(4 / 3)}


def test_ratios_are_taken_turn_by_turn():
    # Both drift by a factor of four within the run; one is always twice as fast as the other.
    slow = [100.0, 200.0, 50.0, 75.0]
    found = ratios([2 * value for value in slow], slow)
    assert found == {"median": 2, "min": 2, "max": 2, "spread": 0}


ECHO = """
import os, sys
import protocol
print("this is no answer")
class Echo:
    turns = 0
    def facts(self, cores):
        return {"cores": cores}
    def turn(self, how):
        self.turns += 1
        if how == "raises":
            raise ValueError("bad photograph")
        if how == "dies":
            os._exit(3)
        if how == "babbles":
            protocol.ANSWERS.write("half an ans\\n")
        return {"images": 10, "seconds": self.turns}
protocol.serve(Echo())
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    (tmp_path / "protocol.py").write_text((harness.WORKERS / "protocol.py").read_text())
    (tmp_path / "echo.py").write_text(ECHO)
    monkeypatch.setattr(harness, "WORKERS", tmp_path)
    return "echo.py"


def test_a_worker_answers_whatever_it_prints(script):
    worker = Worker(Contender("echo", script))
    assert worker.ask("facts", cores=1) == {"cores": 1}
    assert [worker.ask("turn", how="") for _ in range(2)] == [{"images": 10, "seconds": n} for n in (1, 2)]
    worker.close()


@pytest.mark.parametrize(("how", "words"), [("raises", "bad photograph"), ("dies", "ended with status 3")])
def test_a_worker_that_ends_is_reported_with_its_last_words(script, how, words):
    worker = Worker(Contender("echo", script))
    with pytest.raises(Failed, match=words):
        worker.ask("turn", how=how)
    worker.close()


def test_a_worker_whose_words_are_no_answer_is_given_up(script):
    worker = Worker(Contender("echo", script))
    with pytest.raises(Failed, match="echo: 'half an ans' is no answer to 'turn'"):
        worker.ask("turn", how="babbles")
    assert not worker.alive
    worker.close()


def test_a_worker_that_hangs_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "silent.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(harness, "WORKERS", tmp_path)
    worker = Worker(Contender("silent", "silent.py"))
    with pytest.raises(Failed, match="no answer"):
        worker.ask("facts", timeout=0.2, cores=1)
    worker.close()


def test_a_failing_contender_is_a_row_and_the_others_go_on(script):
    contenders = (
        Contender("base", script, {"how": ""}),
        Contender("broken", script, {"how": "raises"}),
        Contender("elsewhere", script, {"how": ""}, missing="not installed"),
        Contender("good", script, {"how": ""}),
    )
    rows = run_case(
        Case("case", 1, contenders, "base"),
        [Metric("images/s", "", "images", "seconds", ratio=True)],
        Turns(3),
        turn=lambda worker, contender: worker.ask("turn", **contender.settings),
    )
    base, broken, elsewhere, good = rows
    assert (broken.failed, broken.repeats) == (True, [])
    assert "bad photograph" in broken.missing
    assert (elsewhere.failed, elsewhere.missing, elsewhere.values) == (False, "not installed", {})
    assert [answer["seconds"] for answer in base.repeats] == [1, 2, 3]
    assert good.values["images/s"]["median"] == 5
    assert good.ratio["images/s"]["median"] == 1
    assert (good.reference, base.ratio) == ("base", {})


def test_a_crew_keeps_its_processes_from_case_to_case(script):
    one, found = Contender("one", script), []
    with contextlib.ExitStack() as stack:
        crew = Crew(stack)
        for name in ("first", "second"):
            case = Case(name, 1, (one,))
            found += run_case(case, [], Turns(2), lambda worker, _: worker.ask("turn", how=""), crew=crew)
        worker, _ = crew.get(one, 1)
        assert worker.ask("turn", how="")["seconds"] == 5
    assert [[answer["seconds"] for answer in row.repeats] for row in found] == [[1, 2], [3, 4]]


def test_a_crew_starts_a_dead_process_again_for_the_next_case(script):
    one, found = Contender("one", script), []
    with contextlib.ExitStack() as stack:
        crew = Crew(stack)
        for how in ("dies", "", ""):
            case = Case("case", 1, (one,))
            found += run_case(
                case, [], Turns(2), lambda worker, _, how=how: worker.ask("turn", how=how), crew=crew
            )
    assert [row.failed for row in found] == [True, False, False]
    assert [[answer["seconds"] for answer in row.repeats] for row in found] == [[], [1, 2], [3, 4]]


def test_turns_are_done_again_by_what_others_took(script):
    taken = iter([0.5, 0.0, 0.9, 0.9, 0.9])  # of one core in one second
    seen = []

    def turn(worker, contender):
        answer = worker.ask("turn", how="") | {"seconds": 1, "others_cpu_seconds": next(taken)}
        seen.append(answer)
        return answer

    case = Case("case", 1, (Contender("one", script),))
    (row,) = run_case(case, [], Turns(2, others=0.1, patience=1.5), turn)
    # The third is too busy and patience is left for one more; the fourth has to do.
    assert [answer["others_cpu_seconds"] for answer in row.repeats] == [0.0, 0.9]
    assert [answer["done_again"] for answer in row.repeats] == [1, 1]
    assert len(seen) == 4


@pytest.mark.parametrize(("cores", "limit", "turns"), [(4, 0.3, 1), (1, 0.3, 2), (1, 1.0, 1)])
def test_the_share_of_others_is_that_of_the_contenders_cores(script, cores, limit, turns):
    """1.2 of a second of others' time, on some of a case's four cores; a limit of 1 is none."""
    one, seen = Contender("one", script, {"cores": cores}), []

    def turn(worker, contender):
        seen.append(worker.ask("turn", how="") | {"seconds": 1, "others_cpu_seconds": 1.2 * (not seen)})
        return seen[-1]

    run_case(Case("case", 4, (one,)), [], Turns(1, limit, patience=60), turn)
    assert len(seen) == turns
