"""PostgreSQL says that it goes down, or is read-only: what becomes of it."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Iterator

import pytest
from servers import PostgreSQL
from sqlalchemy import Engine
from sqlalchemy import exc
from sqlalchemy import make_url
from sqlalchemy import text
from waiting import Worker
from waiting import eventually

from postgresql.conftest import Engines
from postgresql.conftest import Observer
from postgresql.conftest import backend_of


def opened(engine: Engine, number: int) -> list[int]:
    """Leave so many idle connections in the pool."""

    connections = [engine.connect() for _ in range(number)]
    pids = [backend_of(connection) for connection in connections]
    for connection in connections:
        connection.close()
    return pids


def closed(engine: Engine) -> dict[str, int]:
    return dict(engine.pool.stats().closed)  # type: ignore[attr-defined]


def test_a_session_is_terminated(
    engines: Engines, observer: Observer, driver: str
) -> None:
    """One is enough: the server may be about to go down."""
    engine = engines(driver, pool_size=4)
    held = engine.connect()
    old = opened(engine, 3)
    pid = backend_of(held)
    observer.terminate([pid])
    eventually(lambda: not observer.runs(pid))

    with pytest.raises(exc.DBAPIError) as raised:
        held.execute(text("SELECT 1"))
    assert raised.value.connection_invalidated
    held.rollback()

    if driver == "psycopg":
        # The word is lost on the way to psycopg2.  To SQLAlchemy it is a
        # disconnect, so that the others are replaced when they are lent.
        eventually(lambda: not observer.backends(engine) & {pid, *old})
    assert set(opened(engine, 3)).isdisjoint(old)
    assert held.scalar(text("SELECT 1")) == 1
    held.close()


@pytest.mark.parametrize("way", ["execute", "commit"])
def test_many_threads_hear_it_at_once(
    engines: Engines,
    observer: Observer,
    caplog: pytest.LogCaptureFixture,
    way: str,
) -> None:
    engine = engines("psycopg", pool_size=20)
    ready, terminated = threading.Barrier(21), threading.Event()
    pids: set[int] = set()

    def work() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            pids.add(backend_of(connection))
            ready.wait(20)
            terminated.wait(20)
            with pytest.raises(exc.DBAPIError):
                if way == "commit":
                    connection.commit()
                connection.execute(text("SELECT 1"))

    workers = [Worker(work) for _ in range(20)]
    ready.wait(20)
    observer.terminate(pids)
    eventually(lambda: not observer.backends(engine) & pids)
    terminated.set()
    for worker in workers:
        worker.result()
    assert caplog.text.count("all connections of the pool") == 1
    assert opened(engine, 20)
    assert len(observer.backends(engine)) == 20


def test_a_server_that_lets_nobody_in(
    engines: Engines, own_postgres: PostgreSQL, driver: str
) -> None:
    """A "smart" shutdown, which waits for the sessions to end."""
    engine = engines(driver, url=own_postgres.url(), pool_size=3)
    held = engine.connect()
    held.execute(text("SELECT 1"))
    opened(engine, 1)
    engine.pool.flush()
    os.kill(own_postgres.pid, signal.SIGTERM)
    eventually(lambda: "smart shutdown" in own_postgres.log())

    with pytest.raises(exc.OperationalError, match="is shutting down"):
        engine.connect()
    # who is at work is left to finish it, and the server can go
    assert held.scalar(text("SELECT 1")) == 1
    held.close()
    assert closed(engine) == {"idle": 1, "refreshed": 1}
    eventually(lambda: "database system is shut down" in own_postgres.log())


@pytest.fixture
def database(observer: Observer, postgres_url: str) -> Iterator[str]:
    """The address of a database of the test's own."""

    name = f"reaperpool_{uuid.uuid4().hex[:12]}"
    observer.rows(f"CREATE DATABASE {name}")
    url = make_url(postgres_url).set(database=name)
    yield url.render_as_string(hide_password=False)
    observer.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = %s",
        name,
    )
    observer.rows(f"DROP DATABASE {name}")


def read_only(observer: Observer, url: str, on: bool) -> None:
    """As some services do it to an old primary, for new sessions."""
    name = make_url(url).database
    observer.rows(
        f"ALTER DATABASE {name} SET default_transaction_read_only = {on}"
    )


def write(engine: Engine, number: int) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO t VALUES (:x)"), {"x": number})


def test_a_demoted_primary(
    engines: Engines, observer: Observer, database: str, driver: str
) -> None:
    engine = engines(driver, url=database, pool_size=3, pool_pre_ping=True)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x integer)"))
    read_only(observer, database, True)
    engine.pool.refresh()
    old = opened(engine, 3)

    # the new primary has been found, so to say
    read_only(observer, database, False)
    with pytest.raises(exc.InternalError):
        write(engine, 1)
    eventually(lambda: not observer.backends(engine) & set(old))
    for number in range(6):
        write(engine, number)


def test_a_primary_that_stays_demoted(
    engines: Engines,
    observer: Observer,
    database: str,
    driver: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Or an application that writes to a replica: no storm of connects."""
    engine = engines(driver, url=database, pool_size=3)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x integer)"))
    read_only(observer, database, True)
    engine.pool.refresh()
    opened(engine, 3)
    before = engine.pool.stats().opened
    for number in range(5):
        with pytest.raises(exc.InternalError):
            write(engine, number)
    # one for each error, at most, and not three
    waves = caplog.text.count("all connections of the pool")
    assert 1 <= waves <= 4
    opened(engine, 3)
    assert engine.pool.stats().opened - before <= 5 + 2 * waves


@pytest.mark.parametrize(
    "way", ["transaction", "readonly", "autocommit", "driver"]
)
def test_a_transaction_that_the_application_made_read_only(
    engines: Engines,
    table: str,
    driver: str,
    caplog: pytest.LogCaptureFixture,
    way: str,
) -> None:
    engine = engines(driver, pool_size=2)
    pids = opened(engine, 2)
    connection = engine.connect()
    if way == "readonly":
        connection.execution_options(postgresql_readonly=True)
    elif way == "autocommit":
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execution_options(postgresql_readonly=True)
    elif way == "driver":
        raw = connection.connection.driver_connection
        if driver == "psycopg2":
            raw.set_session(readonly=True)
        else:
            raw.read_only = True
    else:
        connection.execute(text("SET TRANSACTION READ ONLY"))
    if way == "autocommit" and driver == "psycopg":
        pytest.skip("psycopg does not make these read-only")
    if (
        way == "transaction"
        and connection.connection.driver_connection.info.server_version
        < 140000
    ):
        pytest.skip("PostgreSQL 13 does not tell")

    with pytest.raises(exc.InternalError):
        connection.execute(text(f"INSERT INTO {table} VALUES (1)"))
    connection.close()

    assert caplog.text == ""
    assert closed(engine) == {}
    assert set(opened(engine, 2)) == set(pids)
