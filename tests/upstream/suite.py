"""Run SQLAlchemy's tests of its pool in a process of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .process import Process

# About half a minute on an idle machine, most of it spent asleep.
TIMEOUT = 900


@dataclass(frozen=True)
class Outcomes:
    """What became of each test, by its name in a run with QueuePool."""

    of: dict[str, str]
    #: those that their authors call sensitive to timing
    timed: frozenset[str]
    #: their names in this run
    ids: dict[str, str]
    output: str

    def with_(self, outcome: str) -> set[str]:
        return {name for name, got in self.of.items() if got == outcome}


class Run:
    """A run of ``test/engine/test_pool.py``, under way.

    :param source: where SQLAlchemy's tests are unpacked.
    :param pool: the pool to use for QueuePool, as ``module:class``.
    :param tests: node ids to run alone.
    """

    def __init__(
        self, source: Path, pool: str, tests: tuple[str, ...] = ()
    ) -> None:
        self._process = Process(
            source,
            "rebind",
            tests or ("test/engine/test_pool.py",),
            {"REAPERPOOL_UPSTREAM_POOL": pool},
            TIMEOUT,
        )

    def outcomes(self) -> Outcomes:
        """Wait for the end of the run."""

        found, output = self._process.wait()
        return Outcomes(
            found["outcomes"],
            frozenset(found["timed"]),
            found["ids"],
            output,
        )

    def end(self) -> None:
        self._process.end()


def regressions(
    source: Path, pool: str, stock: Outcomes, ours: Outcomes
) -> set[str]:
    """Names of the tests that pass with QueuePool and not with this pool.

    Those that are sensitive to timing get a second chance, alone: two runs
    share the machine the first time.
    """

    lost = stock.with_("passed") & (ours.of.keys() - ours.with_("passed"))
    if lost and lost <= ours.timed:
        names = tuple(ours.ids[name] for name in sorted(lost))
        lost -= Run(source, pool, names).outcomes().with_("passed")
    return lost
