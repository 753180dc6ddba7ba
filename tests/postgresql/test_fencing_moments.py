"""The pool takes a connection back at each moment of its late return."""

from __future__ import annotations

import itertools
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy import text
from sqlalchemy.orm import Session
from waiting import eventually
from waiting import in_a_thread_that_ends

from postgresql.conftest import Engines
from postgresql.conftest import Observer
from sa_reaperpool import ConnectionReclaimed


def at_line(number: int, act: Callable[[], object], run: Any) -> bool:
    """Run this, and act once before the line that comes so many-th.

    :return: did it come so far.
    """

    lines = 0

    def trace(frame: FrameType, what: str, arg: object) -> Any:
        nonlocal lines
        if what == "line":
            lines += 1
            if lines == number:
                sys.settrace(None)
                act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return lines >= number


def connection(engine: Engine) -> Any:
    connection = engine.connect()
    connection.execute(text("SELECT 1"))
    return connection


def session(engine: Engine) -> Any:
    session = Session(engine)
    session.execute(text("SELECT 1"))
    return session


@pytest.mark.parametrize("take", [connection, session, Engine.raw_connection])
def test_close_meets_reaping_at_each_line(
    engines: Engines, observer: Observer, take: Callable[[Engine], Any]
) -> None:
    engine = engines(
        pool_size=2, dead_connection_timeout=0.001, reaping_frequency=None
    )
    pool: Any = engine.pool
    reaped: list[int] = []
    loud = []

    for number in itertools.count(1):
        taken: Any = in_a_thread_that_ends(lambda: take(engine))
        # for long enough to be reaped
        eventually(lambda: pool.leases()[0].unused_for > 0.002)
        try:
            came_so_far = at_line(
                number, lambda: reaped.append(pool.reap()), taken.close
            )
        except ConnectionReclaimed as error:
            loud.append(traceback.extract_tb(error.__traceback__)[-2])
        taken.close()
        assert pool.stats().in_use == pool.stats().opening == 0
        assert len(observer.backends(engine)) <= 2
        if not came_so_far:
            break

    assert number > 20
    # before some lines it is taken back, after others it is returned
    assert set(reaped) == {0, 1}
    assert pool.stats().closed == {"reaped": sum(reaped)}
    assert loud == []
