"""Behind PgBouncer, whose connections are not the server's."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from postgresql.conftest import Observer
from servers import PgBouncer
from servers import PostgreSQL
from servers.pgbouncer import MODES
from sqlalchemy import Engine
from sqlalchemy import text
from sqlalchemy.orm import Session
from waiting import Worker
from waiting import eventually
from waiting import in_a_thread_that_ends

from infrastructure.conftest import BACKENDS
from infrastructure.conftest import Engines
from sa_reaperpool import ConnectionReclaimed

SIZE = 4


class Console:
    """PgBouncer's own database, to look inside and to give orders."""

    def __init__(self, bouncer: PgBouncer) -> None:
        self._dsn = bouncer.dsn()

    def ask(self, command: str) -> list[dict[str, Any]]:
        # a new one each time: it too ends when PgBouncer does
        with closing(psycopg2.connect(self._dsn)) as connection:
            # which knows of no transactions
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(command)
                if cursor.description is None:
                    return []
                names = [column.name for column in cursor.description]
                return [dict(zip(names, row)) for row in cursor.fetchall()]

    def pool(self, mode: str) -> dict[str, Any]:
        [found] = [
            each for each in self.ask("SHOW POOLS") if each["database"] == mode
        ]
        return found

    def clients(self, mode: str) -> int:
        found = self.ask("SHOW CLIENTS")
        return sum(each["database"] == mode for each in found)


@pytest.fixture
def console(pgbouncer: PgBouncer) -> Console:
    return Console(pgbouncer)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(
    engines: Engines, pgbouncer: PgBouncer, mode: str, driver: str
) -> Engine:
    return engine_on(engines, pgbouncer, mode, driver)


def engine_on(
    engines: Engines, pgbouncer: PgBouncer, mode: str, driver: str
) -> Engine:
    return engines(
        pgbouncer.url(mode, driver),
        pool_size=SIZE,
        reaping_frequency=None,
        dead_connection_timeout=0.05,
    )


@pytest.fixture
def table(observer: Observer) -> Iterator[str]:
    name = f"infrastructure_{uuid.uuid4().hex[:12]}"
    observer.rows(f"CREATE TABLE {name} (x integer)")
    yield name
    observer.rows(f"DROP TABLE {name}")


def insert(connection: Any, table: str, number: int) -> None:
    connection.execute(text(f"INSERT INTO {table} VALUES ({number})"))


def opened(engine: Engine) -> None:
    """Leave idle connections in the pool, all that it may have."""
    connections = [engine.connect() for _ in range(SIZE)]
    for connection in connections:
        # each at its time: PgBouncer may have but one backend for them
        connection.execute(text("SELECT 1"))
        connection.commit()
    for connection in connections:
        connection.close()
    assert engine.pool.stats().idle == SIZE


def all_work(engine: Engine) -> None:
    """Each of the pool's connections answers, without an error."""
    connections = [engine.connect() for _ in range(SIZE)]
    for connection in connections:
        assert connection.scalar(text("SELECT 1")) == 1
        connection.commit()
    for connection in connections:
        connection.close()


def test_sessions(
    engine: Engine, observer: Observer, table: str
) -> None:
    """More threads than connections, more connections than backends."""

    def work(number: int) -> None:
        for _ in range(10):
            with Session(engine) as session, session.begin():
                insert(session, table, number)

    workers = [Worker(lambda n=number: work(n)) for number in range(8)]
    for worker in workers:
        worker.result()

    count = f"SELECT x, count(*) FROM {table} GROUP BY x ORDER BY x"
    assert observer.rows(count) == [(number, 10) for number in range(8)]
    assert engine.pool.stats().opened <= SIZE


def test_reaped(
    engine: Engine,
    observer: Observer,
    table: str,
    console: Console,
    mode: str,
) -> None:
    def take() -> Any:
        connection = engine.connect()
        insert(connection, table, 1)
        return connection

    connection = in_a_thread_that_ends(take)
    # PgBouncer lends it a backend for as long as its transaction lasts
    eventually(lambda: console.pool(mode)["sv_active"] == 1)
    eventually(lambda: engine.pool.reap() == 1)

    # what is behind PgBouncer is free as well, and nothing came of it
    eventually(lambda: console.pool(mode)["sv_active"] == 0)
    eventually(lambda: console.clients(mode) == 0)
    assert observer.rows(f"SELECT x FROM {table}") == []
    all_work(engine)
    connection.close()


def test_fenced(engine: Engine, observer: Observer, table: str) -> None:
    """The old handle cannot end the transaction of who came after."""

    def take() -> Any:
        connection = engine.connect()
        insert(connection, table, 1)
        return connection

    old = in_a_thread_that_ends(take)
    eventually(lambda: engine.pool.reap() == 1)
    held = [engine.connect() for _ in range(BACKENDS)]
    # all backends are lent, the one that the old handle had among them
    for number, connection in enumerate(held, start=2):
        insert(connection, table, number)

    with pytest.raises(ConnectionReclaimed):
        old.commit()
    old.rollback()
    old.close()
    for connection in held:
        connection.commit()
        connection.close()

    assert observer.rows(f"SELECT x FROM {table} ORDER BY x") == [
        (number,) for number in range(2, 2 + BACKENDS)
    ]


def test_pgbouncer_restarts(engine: Engine, pgbouncer: PgBouncer) -> None:
    opened(engine)
    pgbouncer.restart()

    all_work(engine)
    assert engine.pool.stats().closed == {"dead": SIZE}


def test_kill(engine: Engine, console: Console, mode: str) -> None:
    """PgBouncer drops a database's connections, on both sides."""

    opened(engine)
    console.ask(f"KILL {mode}")
    # until told otherwise, it lets nobody in
    console.ask(f"RESUME {mode}")

    all_work(engine)
    assert engine.pool.stats().closed == {"dead": SIZE}


def test_reconnect(
    engines: Engines, pgbouncer: PgBouncer, console: Console, driver: str
) -> None:
    """PgBouncer replaces its own connections: nothing that one sees."""

    engine = engine_on(engines, pgbouncer, "transaction", driver)
    opened(engine)
    before = backends(engine)
    console.ask("RECONNECT transaction")

    all_work(engine)
    assert not before & backends(engine)
    assert engine.pool.stats().closed == {}


def test_server_restarts(
    engines: Engines,
    pgbouncer: PgBouncer,
    servers: tuple[PostgreSQL, PostgreSQL],
    console: Console,
    driver: str,
) -> None:
    """Between transactions there is nothing to lose behind PgBouncer."""

    engine = engine_on(engines, pgbouncer, "transaction", driver)
    opened(engine)
    servers[0].restart()
    # it has noticed
    eventually(lambda: console.pool("transaction")["sv_idle"] == 0)

    all_work(engine)
    assert engine.pool.stats().closed == {}


def test_server_restarts_under_sessions(
    engines: Engines,
    pgbouncer: PgBouncer,
    servers: tuple[PostgreSQL, PostgreSQL],
    console: Console,
    driver: str,
) -> None:
    """A session that lost its backend is over, and is seen to be."""

    engine = engine_on(engines, pgbouncer, "session", driver)
    opened(engine)
    servers[0].restart()
    eventually(lambda: console.clients("session") == 0)

    all_work(engine)
    assert engine.pool.stats().closed == {"dead": SIZE}


def test_server_is_away_for_a_while(
    engine: Engine,
    servers: tuple[PostgreSQL, PostgreSQL],
    console: Console,
    mode: str,
) -> None:
    """Once it is back, so is the pool, with nothing to call."""

    opened(engine)
    servers[0].stop()
    eventually(lambda: console.pool(mode)["sv_idle"] == 0)
    servers[0].start()

    all_work(engine)
    stats = engine.pool.stats()
    assert (stats.in_use, stats.opening) == (0, 0)


def backends(engine: Engine) -> set[int]:
    """What PgBouncer uses now, as the server says."""
    with engine.connect() as connection:
        return {connection.scalar(text("SELECT pg_backend_pid()"))}


def test_the_drivers_backend_means_nothing(
    engines: Engines,
    pgbouncer: PgBouncer,
    observer: Observer,
    table: str,
    driver: str,
) -> None:
    """Nobody may be told by it, let alone be terminated."""

    engine = engine_on(engines, pgbouncer, "transaction", driver)
    connections = [engine.connect() for _ in range(SIZE)]
    told, real = set(), set()
    for connection in connections:
        told.add(connection.connection.driver_connection.info.backend_pid)
        real.add(connection.scalar(text("SELECT pg_backend_pid()")))
        connection.commit()

    assert len(told) == SIZE
    assert len(real) <= BACKENDS
    assert not told & real

    # one that is taken back leaves alone whose backend it shared
    def hand_over() -> Any:
        connection = engine.connect()
        connection.execute(text("SELECT 1"))
        connection.commit()
        return connection

    connections.pop().close()
    abandoned = in_a_thread_that_ends(hand_over)
    insert(connections[0], table, 1)
    eventually(lambda: engine.pool.reap() == 1)
    connections[0].commit()
    assert observer.rows(f"SELECT x FROM {table}") == [(1,)]
    for connection in [*connections, abandoned]:
        connection.close()
