"""Many threads on few connections: throughput, evenness, longest wait.

On the stub driver, so that it is the pools that make the difference.  All
connections are open before; the pools take turns, in another order each
round, and ratios are to QueuePool in the same round.  The longest wait is
each round's; its median is given, and the worst round's is in the spread.

With no hold it is mostly the interpreter's lock that is measured: it goes
from core to core, and a machine that does something else on one of them is
several times quicker at it.  Such ratios hold for a machine at rest.
"""

from __future__ import annotations

import random
from contextlib import AbstractContextManager
from contextlib import contextmanager
from typing import Any
from typing import Callable
from typing import Iterator
from typing import NamedTuple

from sqlalchemy.pool import QueuePool

from sa_reaperpool import ReaperPool

from . import picture
from .fairness import Result
from .fairness import measure
from .fairness import pool_on
from .fairness import warm
from .in_turn import InTurnPool
from .peers import LEAST
from .peers import OURS
from .peers import STEADY
from .peers import STOCK
from .peers import dbutils_pool
from .peers import psycopg_pool
from .rows import Bar
from .rows import Row
from .rows import Skip
from .rows import row_of
from .settings import Settings

RAW = "psycopg_pool"


class Case(NamedTuple):
    threads: int
    size: int
    hold: float
    throughput: float
    """The bar: by QueuePool's."""
    longest: float
    """The bar: seconds."""
    evenness: float | None = None
    """The bar."""

    def __str__(self) -> str:
        hold = f"{self.hold * 1000:g} ms" if self.hold else "no"
        return f"{self.threads} threads on {self.size}, {hold} hold"


CASES = [
    Case(16, 4, 0, 1.0, 0.05),
    # twice what each would wait if all were served in turn
    Case(16, 4, 0.001, 0.98, 2 * 16 / 4 * 0.001, 0.97),
    Case(256, 10, 0.001, 0.98, 2 * 256 / 10 * 0.001, 0.97),
]

PICTURED = CASES[1]

_TIMES = 120
"""That each thread is served in a round, at least where that takes long."""


def run(settings: Settings) -> list[Row]:
    rows = []
    for case in CASES:
        settings.say(f"  {case}")
        results = _measure(settings, case)
        missing = results.pop("missing")
        rows += _rows(case, results)
        rows += [
            Row(f"{case}: throughput", name, None, note=reason)
            for name, reason in missing.items()
        ]
        if case is PICTURED:
            _, seconds = _rounds(settings, case)
            settings.pictures |= _pictures(case, results, seconds)
    return rows


def _rows(case: Case, results: dict[str, list[Result]]) -> list[Row]:
    throughput, evenness, longest = [], [], []
    for name, rounds in results.items():
        ours = name == OURS
        if name == STOCK:
            rates = [each.per_second for each in rounds]
            unit = "/s"
        else:
            stock = results[STOCK]
            rates = [
                each.per_second / other.per_second
                for each, other in zip(rounds, stock)
            ]
            unit = "× QueuePool"
        throughput.append(
            row_of(
                f"{case}: throughput",
                name,
                rates,
                unit,
                Bar("at least", case.throughput) if ours else None,
            )
        )
        if case.evenness is not None:
            evenness.append(
                row_of(
                    f"{case}: least by most served thread",
                    name,
                    [each.evenness for each in rounds],
                    "",
                    Bar("at least", case.evenness) if ours else None,
                )
            )
        longest.append(
            row_of(
                f"{case}: longest wait",
                name,
                [each.longest * 1000 for each in rounds],
                "ms",
                Bar("at most", case.longest * 1000) if ours else None,
            )
        )
    return throughput + evenness + longest


def _pictures(
    case: Case, results: dict[str, list[Result]], seconds: float
) -> dict[str, str]:
    # of a single round each: rounds added up would hide who starved in one
    typical = {
        name: sorted(rounds, key=lambda each: each.longest)[len(rounds) // 2]
        for name, rounds in results.items()
    }
    waits = {
        name: [wait for waited in result.waits for wait in waited]
        for name, result in typical.items()
    }
    served = {name: list(result.served) for name, result in typical.items()}
    scene = (
        f"{case.threads} threads, {case.size} connections, "
        f"held for {case.hold * 1000:g} ms"
    )
    return {
        "waits": picture.waits(
            f"How long a checkout waits: {scene}", waits, seconds
        ),
        "served": picture.served(f"Who is served: {scene}", served),
    }


def _rounds(settings: Settings, case: Case) -> tuple[int, float]:
    """How many, and of how many seconds each."""
    if settings.quick:
        return 1, 0.7
    if not case.hold:
        # it is for the scheduler to say who meets whom: one round differs
        # from the next
        return 9, 1.0
    # so long that to be served once more, or once less, than another makes
    # little difference
    return 5, max(1.5, _TIMES * case.threads / case.size * case.hold)


def _measure(settings: Settings, case: Case) -> dict[str, Any]:
    """Results by pool, and under ``missing`` why some have none."""
    rounds, seconds = _rounds(settings, case)
    shuffle = random.Random(case.threads).shuffle
    results: dict[str, Any] = {name: [] for name in OPENERS}
    missing: dict[str, str] = {}
    names = list(results)
    for _ in range(rounds):
        shuffle(names)
        for name in names:
            if name in missing:
                continue
            try:
                opened = OPENERS[name](case.size)
                with opened as pool:
                    result = measure(pool, case.threads, case.hold, seconds)
            except Skip as reason:
                missing[name] = str(reason)
            else:
                results[name].append(result)
    for name in missing:
        del results[name]
    return results | {"missing": missing}


# pools, all with a connect() that gives what has a close()


class Lent:
    """A connection of psycopg_pool's, as it lends them itself."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: Any):
        self._pool = pool
        self._connection = pool.getconn()

    def close(self) -> None:
        self._pool.putconn(self._connection)


class Connecting:
    def __init__(self, connect: Callable[[], Any]):
        self.connect = connect


@contextmanager
def _sqlalchemy(poolclass: type[QueuePool], size: int) -> Iterator[Any]:
    pool = pool_on(None, poolclass, size)
    try:
        warm(pool, size)
        yield pool
    finally:
        pool.dispose()


@contextmanager
def _psycopg(size: int) -> Iterator[Any]:
    with psycopg_pool(None, size) as pool:
        yield Connecting(lambda: Lent(pool))


@contextmanager
def _dbutils(size: int) -> Iterator[Any]:
    with dbutils_pool(None, size) as inner:
        pool = Connecting(inner.connection)
        warm(pool, size)
        yield pool


OPENERS: dict[str, Callable[[int], AbstractContextManager[Any]]] = {
    OURS: lambda size: _sqlalchemy(ReaperPool, size),
    STOCK: lambda size: _sqlalchemy(QueuePool, size),
    LEAST: lambda size: _sqlalchemy(InTurnPool, size),
    RAW: _psycopg,
    STEADY: _dbutils,
}
