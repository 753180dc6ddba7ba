"""Connections that nobody holds: retired, closed, kept ready."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from servers import PostgreSQL
from sqlalchemy import Engine
from sqlalchemy import event
from sqlalchemy import text
from waiting import Worker
from waiting import eventually
from waiting import in_a_thread_that_ends
from waiting import throughout

from postgresql.conftest import Engines
from postgresql.conftest import Observer
from postgresql.conftest import backend_of

ROUND = 0.05


class Connects:
    """Where and when an engine's connections are opened and closed."""

    def __init__(self, engine: Engine) -> None:
        self.threads: list[str] = []
        self.attempts: list[float] = []
        self.opened: dict[int, float] = {}
        self.closed: dict[int, float] = {}
        event.listen(engine, "do_connect", self._attempt)
        event.listen(engine, "connect", self._opened)
        event.listen(engine, "close", self._closed)

    def _attempt(self, *_: object) -> None:
        self.attempts.append(time.monotonic())
        self.threads.append(threading.current_thread().name)

    def _opened(self, connection: Any, record: object) -> None:
        self.opened[connection.info.backend_pid] = time.monotonic()

    def _closed(self, connection: Any, record: object) -> None:
        self.closed[connection.info.backend_pid] = time.monotonic()


def held(engine: Engine, number: int) -> list[Any]:
    return [engine.connect() for _ in range(number)]


def returned(connections: list[Any]) -> list[int]:
    pids = [backend_of(connection) for connection in connections]
    for connection in connections:
        connection.close()
    return pids


def test_no_borrower_pays_for_age(
    engines: Engines, observer: Observer, driver: str
) -> None:
    engine = engines(
        driver,
        pool_size=8,
        max_age=1,
        min_idle=5,
        jitter=0.5,
        reaping_frequency=ROUND,
    )
    connects = Connects(engine)
    pool: Any = engine.pool
    pool.wait_ready()
    first = observer.backends(engine)
    assert len(first) == 5
    at_first = len(connects.threads)
    used = set()

    def borrow() -> bool:
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT 1")) == 1
            used.add(backend_of(connection))
        return len(used - first) > 6

    eventually(borrow)

    assert first.isdisjoint(observer.backends(engine))
    later = connects.threads[at_first:]
    assert later
    assert threading.current_thread().name not in later
    assert set(engine.pool.stats().closed) == {"age"}


def test_ages_differ(engines: Engines, driver: str) -> None:
    engine = engines(
        driver, pool_size=10, max_age=1, jitter=0.9, reaping_frequency=0.02
    )
    connects = Connects(engine)
    pids = returned(held(engine, 10))

    eventually(lambda: engine.pool.stats().closed == {"age": 10})

    assert connects.closed.keys() == set(pids)
    ages = [connects.closed[pid] - connects.opened[pid] for pid in pids]
    # never shortened by more than the jitter, and not all alike
    assert min(ages) > 0.09
    assert max(ages) - min(ages) > 0.02


def test_aged_while_held_is_closed_at_its_return(
    engines: Engines, observer: Observer, driver: str
) -> None:
    engine = engines(driver, max_age=0.1, reaping_frequency=None)
    connection = engine.connect()
    throughout(lambda: connection.scalar(text("SELECT 1")) == 1, 0.15)
    pid = backend_of(connection)

    connection.close()

    assert engine.pool.stats().closed == {"age": 1}
    eventually(lambda: not observer.runs(pid))


def test_idle_timeout(
    engines: Engines, observer: Observer, driver: str
) -> None:
    engine = engines(
        driver,
        pool_size=20,
        min_idle=3,
        idle_timeout=0.2,
        # pings are no use
        keepalive=0.05,
        reaping_frequency=ROUND,
    )
    pids = returned(held(engine, 20))
    assert len(observer.backends(engine)) == 20

    # those remain that were used last
    last = set(pids[-3:])
    eventually(lambda: observer.backends(engine) == last)
    throughout(lambda: observer.backends(engine) == last, 0.5)

    assert engine.pool.stats().closed == {"idle": 17}


def test_what_is_used_does_not_time_out(
    engines: Engines, observer: Observer
) -> None:
    engine = engines(
        pool_size=2, idle_timeout=0.3, reaping_frequency=ROUND
    )
    pids = returned(held(engine, 2))

    def use() -> bool:
        return returned(held(engine, 2)) == pids

    throughout(use, 1)


def test_refresh(engines: Engines, observer: Observer, driver: str) -> None:
    engine = engines(driver, pool_size=5)
    pool: Any = engine.pool
    connections = held(engine, 2)
    held_pids = {backend_of(connection) for connection in connections}
    idle_pids = set(returned(held(engine, 3)))

    pool.refresh()

    eventually(lambda: observer.backends(engine) == held_pids)
    assert pool.stats().closed == {"refreshed": 3}
    new = held(engine, 3)
    new_pids = {backend_of(connection) for connection in new}
    assert new_pids.isdisjoint(held_pids | idle_pids)
    # the holders notice nothing until their return
    for connection in connections:
        assert connection.scalar(text("SELECT 1")) == 1
    returned(connections)
    eventually(lambda: observer.backends(engine) == new_pids)
    assert pool.stats().closed == {"refreshed": 5}
    returned(new)
    assert set(returned(held(engine, 3))) == new_pids


def test_refresh_keeps_min_idle(engines: Engines, observer: Observer) -> None:
    engine = engines(pool_size=5, min_idle=3)
    pool: Any = engine.pool
    pool.wait_ready()
    old = observer.backends(engine)

    pool.refresh()

    # at once, not by the next round in 20 s
    eventually(lambda: pool.stats().idle == 3, 5)
    new = observer.backends(engine)
    assert new.isdisjoint(old)
    # the first time it may have been the first round that did it
    pool.refresh()
    eventually(lambda: pool.stats().idle == 3, 5)
    assert observer.backends(engine).isdisjoint(new)


def test_flush(engines: Engines, observer: Observer, driver: str) -> None:
    engine = engines(driver, pool_size=5, reaping_frequency=None)
    pool: Any = engine.pool
    connections = held(engine, 5)
    pids = returned(connections[:2])
    returned_at = time.monotonic()
    eventually(lambda: time.monotonic() - returned_at > 0.2)
    pids += returned(connections[2:4])

    assert pool.flush(idle_for=100) == 0
    assert pool.flush(idle_for=0.2) == 2
    eventually(lambda: observer.backends(engine).isdisjoint(pids[:2]))
    assert pool.flush() == 2
    assert pool.flush() == 0
    last = backend_of(connections[4])
    eventually(lambda: observer.backends(engine) == {last})
    assert pool.stats().closed == {"idle": 4}
    connections[4].close()


def test_nothing_opens_before_it_is_needed(
    engines: Engines, observer: Observer
) -> None:
    engine = engines(pool_size=5, min_idle=2, reaping_frequency=ROUND)
    throughout(lambda: not observer.backends(engine), 0.3)

    engine.connect().close()

    eventually(lambda: engine.pool.stats().idle == 2)
    # and while some are in use, so many are idle beside them
    connections = held(engine, 2)
    eventually(lambda: engine.pool.stats().idle == 2)
    assert len(observer.backends(engine)) == 4
    returned(connections)


def test_wait_ready(
    engines: Engines, observer: Observer, driver: str
) -> None:
    engine = engines(driver, pool_size=5, min_idle=4)
    pool: Any = engine.pool

    pool.wait_ready()

    assert pool.stats().idle == 4
    assert len(observer.backends(engine)) == 4
    pool.wait_ready()
    assert pool.stats().opened == 4


def test_database_is_down(
    engines: Engines, own_postgres: PostgreSQL, driver: str
) -> None:
    engine = engines(
        driver,
        url=own_postgres.url(driver),
        pool_size=5,
        min_idle=2,
        reaping_frequency=ROUND,
    )
    connects = Connects(engine)
    pool: Any = engine.pool
    dbapi: Any = engine.dialect.loaded_dbapi
    pool.wait_ready()
    own_postgres.kill()
    down = len(connects.attempts)

    # the dead ones are closed, and attempts go on, ever more seldom
    eventually(lambda: len(connects.attempts) >= down + 3)
    assert pool.stats().idle == 0
    assert pool.stats().closed == {"dead": 2}
    first, second, third = connects.attempts[down : down + 3]
    assert ROUND < second - first < third - second
    assert set(connects.threads[down:]) == {"sa_reaperpool helper"}
    with pytest.raises(dbapi.OperationalError):
        pool.wait_ready()
    with pytest.raises(dbapi.OperationalError):
        pool.wait_ready(timeout=0.1)

    # who waits until it is up
    waiter = Worker(lambda: pool.wait_ready(timeout=30))
    own_postgres.start()
    waiter.result()
    assert pool.stats().idle >= 2
    # and who does not
    pool.flush()
    eventually(lambda: pool.stats().idle == 2)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1


def test_max_connecting(engines: Engines, driver: str) -> None:
    engine = engines(driver, pool_size=8, max_connecting=2)
    # SQLAlchemy's own mutex lets one only through at first
    engine.connect().close()
    engine.pool.flush()  # type: ignore[attr-defined]
    lock, may_go_on = threading.Lock(), threading.Event()
    now: list[None] = []
    most = 0

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _: object, args: Any, options: Any) -> Any:
        nonlocal most
        with lock:
            now.append(None)
            most = max(most, len(now))
        may_go_on.wait(20)
        connection = dialect.connect(*args, **options)
        # here, as the next one's turn is before the connect event
        with lock:
            now.pop()
        return connection

    ready = threading.Barrier(8)

    def borrow() -> None:
        with engine.connect() as connection:
            connection.scalar(text("SELECT 1"))
            ready.wait(20)

    borrowers = [Worker(borrow) for _ in range(8)]
    eventually(lambda: len(now) == 2)
    throughout(lambda: len(now) == 2, 0.2)
    may_go_on.set()
    for borrower in borrowers:
        borrower.result()
    assert most == 2
    assert engine.pool.stats().opened == 9


def test_max_connecting_after_failures(engines: Engines) -> None:
    engine = engines(pool_size=4, max_connecting=1)
    fail = True

    @event.listens_for(engine, "do_connect")
    def connect(*_: object) -> None:
        if fail:
            raise RuntimeError("no")

    for _ in range(3):
        with pytest.raises(RuntimeError):
            in_a_thread_that_ends(engine.connect)
    fail = False
    returned(held(engine, 4))
    assert engine.pool.stats().connect_failures == 3
