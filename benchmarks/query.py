"""``with engine.connect()`` and ``SELECT 1`` on PostgreSQL, on one core.

Where the scheduler puts a backend makes more difference than any pool: so
this process and, if it is the benches' own, the server are kept on one core
meanwhile, and each round has new engines and so new backends.  Of each
round's times a low quantile is taken, and of many rounds a low quantile of
those: what is left is the work that is always done.  How far two QueuePools
then differ is measured beside it, and no other difference below that means
anything.

The spread of a ratio is that of ten portions of the rounds.
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyperf import perf_counter
from sqlalchemy import Engine
from sqlalchemy import create_engine
from sqlalchemy import text
from sqlalchemy.pool import QueuePool

from sa_reaperpool import ReaperPool

from .peers import OURS
from .peers import PINGING
from .peers import STOCK
from .rows import Bar
from .rows import Row
from .rows import quantile
from .settings import Settings

AGAIN = "QueuePool again"

ENGINES: dict[str, dict[str, Any]] = {
    STOCK: {"poolclass": QueuePool},
    OURS: {"poolclass": ReaperPool},
    PINGING: {"poolclass": QueuePool, "pool_pre_ping": True},
    AGAIN: {"poolclass": QueuePool},
}

QUERIES, WARM_UP = 120, 25
"""In a round, by each engine."""

LOW_QUERIES, LOW_ROUNDS = 0.1, 0.25
"""The quantiles that are compared: of a round's, and of the rounds'."""

PORTIONS = 10

STATEMENT = text("SELECT 1")


def run(settings: Settings) -> list[Row]:
    url, server = settings.url, settings.server_pid
    rounds = settings.rounds(250, 20)
    shuffle = random.Random(rounds).shuffle
    lows: dict[str, list[float]] = {name: [] for name in ENGINES}
    names = list(ENGINES)
    settings.say(f"  {rounds} rounds")
    with one_core(server):
        for _ in range(rounds):
            shuffle(names)
            engines = {
                name: create_engine(url, **ENGINES[name]) for name in names
            }
            try:
                for name in names:
                    lows[name].append(_low(engines[name]))
            finally:
                for engine in engines.values():
                    engine.dispose()
    return _rows(lows)


def _low(engine: Engine) -> float:
    times = []
    gc.collect()
    for _ in range(WARM_UP + QUERIES):
        began = perf_counter()
        with engine.connect() as connection:
            connection.execute(STATEMENT)
        times.append(perf_counter() - began)
    return quantile(sorted(times[WARM_UP:]), LOW_QUERIES)


def _rows(lows: dict[str, list[float]]) -> list[Row]:
    what = "engine.connect() and SELECT 1, PostgreSQL"
    micro = [second * 1e6 for second in lows[STOCK]]
    difference = abs(_ratio(lows[AGAIN], lows[STOCK]) - 1)
    spread = _spread(lows[AGAIN], lows[STOCK])
    return [
        _row(what, OURS, lows, STOCK, "× QueuePool", Bar("at most", 1)),
        Row(
            what,
            STOCK,
            quantile(sorted(micro), LOW_ROUNDS),
            "µs",
            (quantile(sorted(micro), 0.1), quantile(sorted(micro), 0.9)),
        ),
        _row(what, PINGING, lows, STOCK, "× QueuePool"),
        _row(
            "the same, beside QueuePool's with pre_ping",
            OURS,
            lows,
            PINGING,
            "× pre_ping",
            Bar("at most", 0.77),
        ),
        Row(
            "the same, two QueuePools: how far the figures can be trusted",
            "QueuePool by itself",
            round(difference * 100, 2),
            "%",
            bar=Bar("at most", 1),
            note=f"portions of the rounds: {spread[0]:.3f} to {spread[1]:.3f}",
        ),
    ]


def _row(
    what: str,
    who: str,
    lows: dict[str, list[float]],
    other: str,
    unit: str,
    bar: Bar | None = None,
) -> Row:
    return Row(
        what,
        who,
        _ratio(lows[who], lows[other]),
        unit,
        _spread(lows[who], lows[other]),
        bar,
    )


def _ratio(some: list[float], others: list[float]) -> float:
    return quantile(sorted(some), LOW_ROUNDS) / quantile(
        sorted(others), LOW_ROUNDS
    )


def _spread(some: list[float], others: list[float]) -> tuple[float, float]:
    ratios = [
        _ratio(some[place::PORTIONS], others[place::PORTIONS])
        for place in range(min(PORTIONS, len(some)))
    ]
    return min(ratios), max(ratios)


@contextmanager
def one_core(server: int | None) -> Iterator[None]:
    """Keep this process, and the server's new backends, on one core.

    :param server: its main process; None if it is not the benches' to move.

    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    core = {max(before)}
    moved = [0] if server is None else [0, server]
    try:
        for process in moved:
            try:
                os.sched_setaffinity(process, core)
            except PermissionError:
                pass  # the server runs as somebody else
        yield
    finally:
        for process in moved:
            try:
                os.sched_setaffinity(process, before)
            except OSError:
                pass  # it may have been killed meanwhile
