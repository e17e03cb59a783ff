"""One case of a benchmark: its contenders started, taken in turns, and made into rows."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.forecast import say
from benchmarks.harness import Answer, Contender, Failed, Worker, interleaved, started
from benchmarks.record import Metric, Row

__all__ = ["Case", "Crew", "Turns", "run_case"]

Turn = Callable[[Worker, Contender], Answer]


def cores_of(case: Case, contender: Contender) -> int:
    """On how many cores a contender runs."""
    return int(contender.settings.get("cores", case.cores))


@dataclass(frozen=True)
class Case:
    """What several contenders do, on how many cores, and whom they are compared with.

    A contender whose settings name `cores` has so many; `case.cores` is then the most.
    """

    name: str
    cores: int
    contenders: tuple[Contender, ...]
    reference: str = ""


@dataclass(frozen=True)
class Turns:
    """How many, and which count.

    Attributes
    ----------
    rounds
        of every contender
    others
        a turn in which other processes had a larger share of the cores' time is done again: by what the
        others took, never by what came out
    patience
        seconds for doing turns of one case again; after that every turn counts
    """

    rounds: int
    others: float = 1.0
    patience: float = 0.0


class Crew:
    """Contenders' processes that are kept from one case to the next; they end with the stack."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._known: dict[tuple[str, int], tuple[Worker, Answer]] = {}

    def get(self, contender: Contender, cores: int) -> tuple[Worker, Answer]:
        """Return a contender's process and what it said of itself, started unless it is alive."""
        key = (contender.name, cores)
        if key not in self._known or not self._known[key][0].alive:
            say(f"starting {contender.name} on {cores} cores")
            self._known[key] = self._stack.enter_context(started(contender, cores))
        return self._known[key]


def run_case(
    case: Case,
    metrics: Sequence[Metric],
    turns: Turns,
    turn: Turn,
    prepare: Turn | None = None,
    *,
    fresh: bool = False,
    crew: Crew | None = None,
) -> list[Row]:
    """Run every contender `turns.rounds` times, in turns.

    Parameters
    ----------
    case
    metrics
        what rows are summed up by
    turns
    turn
        one measurement; its answer is a repeat
    prepare
        before the first turn, in the same process; its answer is the row's `once`
    fresh
        a new process for every turn, for what happens only once in a process
    crew
        where processes are that outlive the case; otherwise they end with it

    Returns
    -------
    list of Row
        in the order of the contenders; one that is missing or failed says so
    """
    rows = {
        c.name: Row(case.name, c.name, dict(c.settings), missing=c.missing or "") for c in case.contenders
    }
    with contextlib.ExitStack() as stack:
        processes = crew or Crew(stack)

        def begin(contender: Contender, row: Row) -> None:
            cores = cores_of(case, contender)
            row.settings |= {"cores": cores}
            if not fresh:
                worker, versions = processes.get(contender, cores)
                row.settings |= {"versions": versions} if versions else {}
                if prepare is not None:
                    say(f"{case.name}: {contender.name} for the first time")
                    row.once = prepare(worker, contender)

        def once(contender: Contender) -> Answer:
            cores = cores_of(case, contender)
            if not fresh:
                return turn(processes.get(contender, cores)[0], contender)
            with started(contender, cores) as (worker, _):
                return turn(worker, contender)

        by_name = {contender.name: contender for contender in case.contenders}
        for name, contender in by_name.items():
            _attempt(rows[name], functools.partial(begin, contender))
        calm = _Calm(turns, case.cores)
        for number, name in interleaved(list(rows), turns.rounds):
            say(f"{case.name}: turn {number + 1} of {turns.rounds}, {name}")
            again = functools.partial(once, by_name[name])
            _attempt(rows[name], lambda row, again=again: row.repeats.append(calm.answer(again)))
    reference = rows.get(case.reference)
    for row in rows.values():
        row.sum_up(metrics, reference)
    return list(rows.values())


class _Calm:
    """Does turns again while other processes take too much, as long as patience lasts."""

    def __init__(self, turns: Turns, cores: int) -> None:
        self._turns, self._cores, self._left = turns, cores, turns.patience

    def answer(self, once: Callable[[], Answer]) -> Answer:
        again = 0
        while True:
            start, answer = time.monotonic(), once()
            others = answer.get("others_cpu_seconds", 0.0) / (self._cores * answer.get("seconds", 1.0))
            if others <= self._turns.others or self._left <= 0:
                return answer | {"done_again": again}
            time.sleep(1)
            self._left -= time.monotonic() - start
            again += 1


def _attempt(row: Row, action: Callable[[Row], None]) -> None:
    """Do it unless the row is given up already; a failure gives it up, in its own words."""
    if row.missing:
        return
    try:
        action(row)
    except Failed as failure:
        row.missing, row.failed, row.repeats = str(failure).removeprefix(f"{row.name}: "), True, []
        say(f"FAILED: {failure}")
