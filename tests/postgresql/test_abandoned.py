"""Connections whose holders have ended, and those that only look so."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy import text
from sqlalchemy.orm import Session
from waiting import Worker
from waiting import eventually
from waiting import in_a_thread_that_ends
from waiting import throughout

from postgresql.conftest import Engines
from postgresql.conftest import Observer
from postgresql.conftest import backend_of
from sa_reaperpool import ConnectionReclaimed

GRACE = 0.2


@pytest.mark.parametrize("take", [Engine.connect, Session])
def test_a_queued_waiter_gets_it(
    engines: Engines,
    observer: Observer,
    table: str,
    driver: str,
    take: Callable[[Engine], Any],
) -> None:
    engine = engines(driver, dead_connection_timeout=GRACE)
    kept: list[Any] = []
    taken, may_die = threading.Event(), threading.Event()

    def abandon() -> None:
        kept.append(take(engine))
        kept[0].execute(text(f"INSERT INTO {table} VALUES (1)"))
        kept.append(backend_of(kept[0]))
        taken.set()
        may_die.wait()

    def wait_in_line() -> tuple[float, Any]:
        connection = engine.connect()
        served = time.monotonic()
        connection.execute(text(f"INSERT INTO {table} VALUES (2)"))
        return served, connection

    holder = Worker(abandon)
    eventually(taken.is_set)
    waiter = Worker(wait_in_line)
    eventually(lambda: engine.pool.stats().waiting == 1)
    may_die.set()
    holder.result()
    died = time.monotonic()
    served, connection = waiter.result()

    # at once, and not at the next round, 20 seconds later
    assert served - died < 5
    old, pid = kept
    assert backend_of(connection) != pid
    eventually(lambda: not observer.runs(pid))
    assert observer.rows(f"SELECT x FROM {table}") == []
    with pytest.raises(ConnectionReclaimed):
        old.execute(text(f"DELETE FROM {table}"))
    old.close()
    # the new holder's transaction is as it was
    assert connection.scalar(text(f"SELECT x FROM {table}")) == 2
    connection.commit()
    connection.close()
    assert observer.rows(f"SELECT x FROM {table}") == [(2,)]


@pytest.mark.parametrize("use", ["rollback", "commit", "close", "invalidate"])
def test_the_old_handle_ends_nothing_of_the_new_holder(
    engines: Engines, observer: Observer, table: str, driver: str, use: str
) -> None:
    engine = engines(driver, dead_connection_timeout=0.05)
    old: Any = in_a_thread_that_ends(engine.raw_connection)
    driver_connection = old.driver_connection

    with engine.connect() as connection:
        connection.execute(text(f"INSERT INTO {table} VALUES (1)"))
        pid = backend_of(connection)
        if use == "commit":
            with pytest.raises(ConnectionReclaimed):
                old.commit()
        else:
            # there is nothing left to roll back: it may say so or not
            with contextlib.suppress(ConnectionReclaimed):
                getattr(old, use)()
        assert driver_connection.closed
        del old
        assert observer.rows(f"SELECT x FROM {table}") == []
        connection.commit()
        assert backend_of(connection) == pid

    assert observer.rows(f"SELECT x FROM {table}") == [(1,)]
    assert observer.backends(engine) == {pid}
    assert engine.pool.stats().closed == {"reaped": 1}


def test_handed_on(
    engines: Engines, observer: Observer, table: str, driver: str
) -> None:
    engine = engines(
        driver, dead_connection_timeout=GRACE, reaping_frequency=0.05
    )
    connection: Any = in_a_thread_that_ends(engine.connect)
    ended = time.monotonic()
    pid = backend_of(connection)
    connection.execute(text(f"INSERT INTO {table} VALUES (1)"))

    # this thread is a holder now, however long it lets it lie
    throughout(lambda: backend_of(connection) == pid, 5 * GRACE)
    while time.monotonic() - ended < 10 * GRACE:
        connection.execute(text(f"UPDATE {table} SET x = x + 1"))

    assert engine.pool.reap() == 0
    connection.commit()
    connection.close()
    assert observer.scalar(f"SELECT x FROM {table}") > 1
    assert observer.backends(engine) == {pid}


def test_handed_on_many_times(engines: Engines, observer: Observer) -> None:
    engine = engines(dead_connection_timeout=GRACE, reaping_frequency=0.05)
    connection: Any = in_a_thread_that_ends(engine.connect)
    pid = backend_of(connection)
    ended = time.monotonic()

    while time.monotonic() - ended < 10 * GRACE:
        in_a_thread_that_ends(lambda: connection.scalar(text("SELECT 1")))

    assert backend_of(connection) == pid
    connection.close()
    assert observer.backends(engine) == {pid}


@pytest.mark.parametrize("fetched_by", ["one that lives", "ones that end"])
def test_streamed_result_outlives_its_threads(
    engines: Engines, observer: Observer, driver: str, fetched_by: str
) -> None:
    engine = engines(
        driver, dead_connection_timeout=GRACE, reaping_frequency=0.05
    )

    def execute() -> tuple[Any, Any, int]:
        connection = engine.connect()
        result = connection.execution_options(stream_results=True).execute(
            text("SELECT generate_series(1, 50000)")
        )
        return connection, result, backend_of(connection)

    connection, result, pid = in_a_thread_that_ends(execute)  # type: ignore
    numbers = []
    pause = threading.Event()
    started = time.monotonic()

    def fetch() -> None:
        numbers.extend(result.scalars().fetchmany(5000))
        pause.wait(GRACE)

    for _ in range(10):
        if fetched_by == "ones that end":
            in_a_thread_that_ends(fetch)
        else:
            fetch()
        assert engine.pool.reap() == 0
    assert time.monotonic() - started >= 10 * GRACE
    assert numbers == list(range(1, 50001))
    assert observer.runs(pid)
    assert engine.pool.stats().in_use == 1

    # with its end ends what kept the connection
    result.close()
    eventually(lambda: engine.pool.stats().closed == {"reaped": 1})
    with pytest.raises(ConnectionReclaimed):
        connection.execute(text("SELECT 1"))


def test_a_running_statement_is_not_ended(
    engines: Engines, observer: Observer, driver: str
) -> None:
    engine = engines(
        driver, dead_connection_timeout=0.05, reaping_frequency=0.02
    )

    def take() -> Any:
        connection = engine.connect()
        return connection, connection.connection.driver_connection

    taken: Any = in_a_thread_that_ends(take)
    connection, driver_connection = taken

    # by this thread, and past the handle: the pool sees no use of it
    with driver_connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(1)")

    eventually(lambda: engine.pool.stats().closed == {"reaped": 1})
    connection.close()


@pytest.mark.parametrize("what", ["connection", "handle"])
def test_kept(
    engines: Engines, observer: Observer, driver: str, what: str
) -> None:
    engine = engines(
        driver,
        dead_connection_timeout=0.05,
        reaping_frequency=0.02,
        leak_timeout=0.05,
    )

    def listen() -> Any:
        connection = engine.connect()
        pool: Any = engine.pool
        handle = connection.connection
        pool.keep(connection if what == "connection" else handle)
        connection.execute(text("LISTEN something"))
        return connection

    connection: Any = in_a_thread_that_ends(listen)
    pid = backend_of(connection)

    throughout(lambda: engine.pool.stats().in_use == 1, 1)
    assert engine.pool.reap() == 0
    (lease,) = engine.pool.leases()
    assert lease.kept
    assert [holder.alive for holder in lease.holders] == [False]
    assert connection.scalar(text("SELECT pg_backend_pid()")) == pid
    connection.close()

    # kept until its return, and no longer
    old: Any = in_a_thread_that_ends(engine.connect)
    eventually(lambda: engine.pool.stats().closed == {"reaped": 1})
    old.close()


def test_leak_is_reported_once(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engines(
        pool_size=2,
        leak_timeout=0.1,
        reaping_frequency=0.02,
        dead_connection_timeout=0.05,
    )
    with engine.connect() as kept, engine.connect() as connection:
        engine.pool.keep(kept)
        line = test_leak_is_reported_once.__code__.co_firstlineno + 9
        connection.execute(text("SELECT 1"))
        eventually(lambda: caplog.records)
        throughout(lambda: len(caplog.records) == 1, 0.5)
        connection.execute(text("SELECT 1"))

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name.startswith("sqlalchemy.pool")
    message = record.getMessage()
    assert re.search(r"held by 'MainThread' for 0\.\d s", message)
    assert f"{__file__}:{line} in test_leak_is_reported_once" in message
    assert engine.pool.stats().closed == {}
