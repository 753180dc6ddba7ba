"""What it costs to know, of each checkout, the application's line.

::

    python -m benchmarks.application_line

The walk from the pool up to the first frame of the application is timed
beside whole checkouts, with their return, on a driver that does nothing: in
each round first the one and then the other, from the same depth of calls.
Checkouts are made once by the pool alone, once through an engine, and once
by a session's first query on SQLite, since the more of SQLAlchemy is
between, the longer the walk.  For comparison, the same line as Python's own
traceback module would have it.  It is the thread's own time that is taken,
so that what else the machine does meets none of them.  Only the ratios carry
over to other machines.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import traceback
from types import FunctionType
from typing import Any
from typing import Callable
from typing import NamedTuple

from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy import text
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool

from sa_reaperpool import ReaperPool
from sa_reaperpool.adapter import handles

REPEATS = 20
"""Walks a checkout, for the clock's own cost to vanish."""


def stack(depth: int) -> object:
    return traceback.format_stack()


class StubConnection:
    def rollback(self) -> None:
        pass

    def close(self) -> None:
        pass


class Way(NamedTuple):
    """A way to check out, and the pool that it is done from."""

    name: str
    use: FunctionType
    pool: Pool


def ways() -> list[Way]:
    pool = ReaperPool(StubConnection, reaping_frequency=None)
    engine = create_engine("sqlite:////dev/null", poolclass=ReaperPool)

    def directly() -> None:
        pool.connect().close()

    def by_engine() -> None:
        engine.connect().close()

    def by_session() -> None:
        with Session(engine) as session:
            session.execute(text("SELECT 1"))

    return [
        Way("pool.connect()", directly, pool),
        Way("engine.connect()", by_engine, engine.pool),
        Way("Session.execute()", by_session, engine.pool),
    ]


class Walks:
    """Times a walk from where the pool itself begins it.

    In place of the pool's own step, so that the frames above are those of
    a real checkout.
    """

    def __init__(self, walk: Callable[[int], object]):
        self._walk = walk
        self.seconds = 0.0
        self.found: Any = None

    def __call__(self, depth: int = 1) -> Any:
        walk = self._walk
        # past this frame, which is no part of a checkout
        depth += 1
        began = time.thread_time()
        for _ in range(REPEATS):
            found = walk(depth)
        self.seconds += (time.thread_time() - began) / REPEATS
        self.found = found
        return None


def per_use(use: Callable[[], object], count: int) -> float:
    began = time.thread_time()
    for _ in range(count):
        use()
    return (time.thread_time() - began) / count


def per_walk(
    way: Way, count: int, walk: Callable[[int], object]
) -> float:
    """Seconds of the walk alone, made from within so many checkouts.

    By their long way, where it is a function of its own; it begins a few
    frames deeper there.
    """
    original = handles.application_line
    walks = Walks(walk)
    event.listen(way.pool, "checkout", _listener)
    handles.application_line = walks  # type: ignore[assignment]
    try:
        for _ in range(count):
            way.use()
    finally:
        handles.application_line = original
        event.remove(way.pool, "checkout", _listener)
        way.pool.look_whether_usual()  # type: ignore[attr-defined]
    if walk is original:
        code, _ = walks.found
        assert code is way.use.__code__, "it is not the line that was meant"
    return walks.seconds / count


def _listener(*args: object) -> None:
    pass


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.application_line", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--count", type=int, default=300, help="a round")
    arguments = parser.parse_args()
    rounds, count = arguments.rounds, arguments.count

    line = handles.application_line
    print(
        f"{'':20}{'checkout and return':>20}{'the line':>10}{'share':>8}"
        f"{'format_stack()':>16}"
    )
    for way in ways():
        way.use()
        totals, walks, stacks = [], [], []
        for _ in range(rounds):
            gc.collect()
            totals.append(per_use(way.use, count))
            walks.append(per_walk(way, count, line))
            stacks.append(per_walk(way, max(count // 20, 1), stack))
        shares = [walk / total for walk, total in zip(walks, totals)]
        ratios = [of / walk for of, walk in zip(stacks, walks)]
        print(
            f"{way.name:20}{_micro(totals):>20}{_micro(walks):>10}"
            f"{statistics.median(shares):>8.1%}"
            f"{statistics.median(ratios):>13.0f} x"
        )
        way.pool.dispose()


def _micro(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e6:.1f} us"


if __name__ == "__main__":
    main()
