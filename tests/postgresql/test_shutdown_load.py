"""shutdown() while many threads are at work: none is cut off."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

from sqlalchemy import Engine
from sqlalchemy import text
from sqlalchemy.orm import Session
from waiting import PATIENCE
from waiting import Worker
from waiting import eventually

from postgresql.conftest import Engines
from postgresql.conftest import Observer
from sa_reaperpool import PoolShutdown

THREADS = 32
SIZE = 8


class Load:
    """Threads that commit one row after the other, until refused."""

    def __init__(self, engine: Engine, table: str) -> None:
        self._engine = engine
        self._table = table
        self._numbers = itertools.count()
        self.begun: set[int] = set()
        self.committed: set[int] = set()
        self.workers = [Worker(self._work) for _ in range(THREADS)]

    def _work(self) -> None:
        while True:
            number = next(self._numbers)
            with Session(self._engine) as session:
                try:
                    session.connection()
                except PoolShutdown:
                    return
                self.begun.add(number)
                insert(session, self._table, number)
                session.commit()
                self.committed.add(number)

    def under_way(self) -> None:
        eventually(lambda: len(self.committed) > 3 * THREADS)
        # and others are waiting
        eventually(lambda: self._engine.pool.stats().waiting > 0)

    def end(self) -> None:
        """Each thread ends by being refused, with nothing begun."""
        for worker in self.workers:
            worker.result()
        assert self.begun == self.committed


def insert(session: Session, table: str, number: int) -> None:
    session.execute(text(f"INSERT INTO {table} VALUES ({number})"))


def rows(observer: Observer, table: str) -> set[int]:
    return {x for (x,) in observer.rows(f"SELECT x FROM {table}")}


def test_all_that_began_is_committed(
    engines: Engines, observer: Observer, table: str, driver: str
) -> None:
    engine = engines(driver, pool_size=SIZE, max_overflow=2)
    pool: Any = engine.pool
    load = Load(engine, table)
    load.under_way()

    assert pool.shutdown(PATIENCE) == ()

    # it waited for them, not they for it
    assert load.begun == rows(observer, table)
    load.end()
    assert load.committed == rows(observer, table)
    eventually(lambda: observer.backends(engine) == set())


def test_what_is_out_at_the_time_limit(
    engines: Engines, observer: Observer, table: str, driver: str
) -> None:
    engine = engines(driver, pool_size=SIZE, max_overflow=2)
    pool: Any = engine.pool
    holding, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with Session(engine) as session:
            insert(session, table, -1)
            holding.set()
            assert go_on.wait(PATIENCE)
            session.commit()

    slow = Worker(hold, "the slow one")
    assert holding.wait(PATIENCE)
    load = Load(engine, table)
    load.under_way()

    left = pool.shutdown(0)
    assert "the slow one" in names(left)
    load.end()
    began = time.monotonic()
    left = pool.shutdown(0.1)
    assert time.monotonic() - began >= 0.1
    [lease] = left
    assert names(left) == ["the slow one"]
    assert lease.where and lease.where.endswith("in insert")

    go_on.set()
    assert pool.shutdown(PATIENCE) == ()
    slow.result()
    assert rows(observer, table) == load.committed | {-1}
    eventually(lambda: observer.backends(engine) == set())


def names(leases: Any) -> list[str]:
    return [holder.name for lease in leases for holder in lease.holders]
