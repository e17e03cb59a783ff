"""One case of a benchmark: starts its contenders, runs them in turns, and makes rows of the answers."""

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
    """Return the number of cores of a contender."""
    return int(contender.settings.get("cores", case.cores))


@dataclass(frozen=True)
class Case:
    """What several contenders do, on how many cores, and the contender they are compared with.

    `cores` in a contender's settings overrides `case.cores`, which is then the maximum.
    """

    name: str
    cores: int
    contenders: tuple[Contender, ...]
    reference: str = ""


@dataclass(frozen=True)
class Turns:
    """How many turns, and which of them count.

    Attributes
    ----------
    rounds
        per contender
    others
        a turn in which other processes had a larger share of the cores' time is repeated, whatever its
        outcome was; 1: none is
    patience
        seconds for repeated turns per case; after that every turn counts
    """

    rounds: int
    others: float = 1.0
    patience: float = 0.0


class Crew:
    """Processes of contenders, reused from case to case; they end with the stack."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._known: dict[tuple[str, int], tuple[Worker, Answer]] = {}

    def get(self, contender: Contender, cores: int) -> tuple[Worker, Answer]:
        """Return a contender's process and its facts; starts it unless it is alive."""
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
    """Run every contender `turns.rounds` times, in alternating turns.

    Parameters
    ----------
    case
    metrics
        of the rows
    turns
    turn
        one measurement; its answer is a repeat
    prepare
        runs before the first turn, in the same process; its answer is the row's `once`
    fresh
        start a new process for every turn, for what happens only once per process
    crew
        processes that outlive the case; without it they end with the case

    Returns
    -------
    list of Row
        in the order of the contenders; that of a missing or failed one says why
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
        calm = _Calm(turns)
        for number, name in interleaved(list(rows), turns.rounds):
            say(f"{case.name}: turn {number + 1} of {turns.rounds}, {name}")
            contender = by_name[name]
            ask = functools.partial(
                calm.answer, functools.partial(once, contender), cores_of(case, contender)
            )
            _attempt(rows[name], lambda row, ask=ask: row.repeats.append(ask()))
    reference = rows.get(case.reference)
    for row in rows.values():
        row.sum_up(metrics, reference)
    return list(rows.values())


class _Calm:
    """Repeats turns while other processes use too much of the cores, as long as patience lasts."""

    def __init__(self, turns: Turns) -> None:
        self._limit, self._left = turns.others, turns.patience

    def answer(self, once: Callable[[], Answer], cores: int) -> Answer:
        again = 0
        while True:
            start, answer = time.monotonic(), once()
            others = answer.get("others_cpu_seconds", 0.0) / (cores * answer.get("seconds", 1.0))
            # Ticks are coarse: the share may exceed 1, and a limit of 1 means none.
            if self._limit >= 1 or others <= self._limit or self._left <= 0:
                return answer | {"done_again": again}
            time.sleep(1)
            self._left -= time.monotonic() - start
            again += 1


def _attempt(row: Row, action: Callable[[Row], None]) -> None:
    """Do it unless the row has failed already; a failure becomes the row's message."""
    if row.missing:
        return
    try:
        action(row)
    except Failed as failure:
        row.missing, row.failed, row.repeats = str(failure).removeprefix(f"{row.name}: "), True, []
        say(f"FAILED: {failure}")
