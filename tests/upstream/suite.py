"""Run SQLAlchemy's tests of its pool in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import sa_reaperpool

HERE = Path(__file__).parent
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
        descriptor, name = tempfile.mkstemp(suffix=".json", dir=source)
        os.close(descriptor)
        self._report = Path(name)
        self._output = self._report.with_suffix(".log")
        # the package may be imported from a checkout, without installation
        roots = [str(Path(sa_reaperpool.__file__).parents[1]), str(HERE)]
        environment = dict(
            os.environ,
            PYTHONPATH=os.pathsep.join(roots),
            REAPERPOOL_UPSTREAM_POOL=pool,
            REAPERPOOL_UPSTREAM_REPORT=name,
        )
        environment.pop("PYTEST_ADDOPTS", None)
        # -s: SQLAlchemy's conftest.py then leaves the installed package be
        argv = [sys.executable, "-s", "-m", "pytest", "-p", "rebind"]
        argv += ["-p", "no:cacheprovider", "-o", "faulthandler_timeout=120"]
        argv += tests or ["test/engine/test_pool.py"]
        with open(self._output, "wb") as output:
            self._process = subprocess.Popen(
                argv,
                cwd=source,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def outcomes(self) -> Outcomes:
        """Wait for the end of the run."""

        try:
            self._process.wait(TIMEOUT)
        finally:
            self.end()
        output = self._output.read_text(errors="replace")
        report = self._report.read_text()
        # pytest's statuses 0 and 1: all tests ran
        if self._process.returncode not in (0, 1) or not report:
            raise AssertionError(f"the run broke off:\n{output[-8000:]}")
        found = json.loads(report)
        return Outcomes(
            found["outcomes"],
            frozenset(found["timed"]),
            found["ids"],
            output,
        )

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


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
