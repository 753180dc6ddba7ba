"""What a checkout is told that gets nothing, where it is so in truth."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy import exc
from sqlalchemy import make_url
from sqlalchemy import text
from sqlalchemy.orm import Session
from waiting import PATIENCE
from waiting import Worker
from waiting import eventually

from postgresql.conftest import Engines
from postgresql.conftest import Observer
from postgresql.conftest import backend_of
from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import PoolDeadlock

LIMIT = 0.5


class Threads:
    """Threads that begin together, and go on until they may stop."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._workers: list[Worker] = []

    def start(self, count: int, work: Callable[[], object]) -> list[Worker]:
        started = [Worker(work, f"busy-{n}") for n in range(count)]
        self._workers += started
        return started

    def end(self) -> None:
        self.stop.set()
        for worker in self._workers:
            worker.result()


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    threads.end()


def refusal(engine: Engine) -> CheckoutTimeout:
    with pytest.raises(CheckoutTimeout) as caught:
        with engine.connect():
            pass
    return caught.value


def seen_in_use(engine: Engine) -> None:
    """Let the pool see what is usual."""

    for _ in range(20):
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_sleep(0.005)"))


def far_longer_than_usual(engine: Engine) -> None:
    """Let so much time pass, on this machine."""

    pool: Any = engine.pool
    time.sleep(11 * pool._exhaustion.habits.usual())


def held(
    engine: Engine, threads: Threads, work: str = "SELECT 1"
) -> Worker:
    """Have a thread hold one, in a transaction, until all may stop."""

    taken = threading.Event()

    def hold() -> None:
        with engine.connect() as connection:
            connection.execute(text(work))
            taken.set()
            threads.stop.wait(PATIENCE)

    [worker] = threads.start(1, hold)
    assert taken.wait(PATIENCE)
    return worker


def test_small(engines: Engines, threads: Threads, driver: str) -> None:
    """Eight threads do brisk work on what is enough for two."""

    engine = engines(driver, pool_size=2, pool_timeout=LIMIT)
    told: list[CheckoutTimeout] = []

    def work() -> None:
        while not threads.stop.is_set() and not told:
            try:
                with engine.connect() as connection:
                    connection.execute(text("SELECT pg_sleep(0.3)"))
            except CheckoutTimeout as error:
                told.append(error)

    threads.start(8, work)
    eventually(lambda: told)
    error = told[0]
    assert error.reason == "small"
    assert error.verdict.startswith("Too small: all 2 connections")
    assert error.waited >= LIMIT == error.limit
    assert (error.size, error.overflow) == (2, 0)
    assert len(error.leases) == 2
    assert all(lease.in_transaction for lease in error.leases)


def test_leak(engines: Engines, threads: Threads, driver: str) -> None:
    engine = engines(driver, pool_size=2, pool_timeout=LIMIT)
    seen_in_use(engine)
    for _ in range(2):
        held(engine, threads)
    far_longer_than_usual(engine)
    error = refusal(engine)
    assert error.reason == "leak"
    assert "2 of 2 connections in use are held far longer" in error.verdict
    lines = str(error).splitlines()
    assert lines[0] == error.verdict
    assert "QueuePool limit of size 2 overflow 0 reached" in lines[1]
    for line in lines[2:4]:
        assert line.startswith("  busy-0 alive, held ")
        assert "in a transaction" in line
        assert f"{__file__}:" in line and "in hold" in line
    assert error.connect_error is None


def test_leak_of_what_nobody_closed(
    engines: Engines, threads: Threads
) -> None:
    """By threads that have ended; only, nobody has reaped it yet."""

    engine = engines(
        pool_size=1, pool_timeout=LIMIT, dead_connection_timeout=None
    )
    kept = [Worker(engine.connect).result()]
    error = refusal(engine)
    assert error.reason == "leak"
    assert "of 1 all holders have ended" in error.verdict
    kept.clear()


def test_slow_statements_are_told_as_such(
    engines: Engines, observer: Observer, table: str, threads: Threads
) -> None:
    """All wait for one lock, and none of them has leaked."""

    engine = engines(pool_size=3, pool_timeout=LIMIT)
    seen_in_use(engine)
    holder = held(engine, threads, f"LOCK TABLE {table}")

    def blocked() -> None:
        with engine.connect() as connection:
            connection.execute(text(f"SELECT * FROM {table}"))

    threads.start(2, blocked)
    eventually(
        lambda: observer.scalar(
            "SELECT count(*) FROM pg_locks WHERE NOT granted "
            "AND relation = to_regclass(%s)",
            table,
        )
        == 2
    )
    far_longer_than_usual(engine)
    error = refusal(engine)
    assert error.reason == "leak"
    assert "2 run a statement, which may be slow or blocked" in error.verdict
    assert str(error).count("runs a statement") == 2
    assert holder.is_alive()


def test_nested(engines: Engines, threads: Threads, driver: str) -> None:
    engine = engines(driver, pool_size=2, pool_timeout=LIMIT)
    held(engine, threads)
    with Session(engine) as session:
        session.execute(text("SELECT 1"))
        error = refusal(engine)
    assert error.reason == "nested"
    assert "this thread itself holds 1 of 2" in error.verdict
    assert "in test_nested" in error.verdict


def all_need_another(engine: Engine, count: int) -> list[Worker]:
    """So many threads hold one each, and then want a second one.

    :return: their results are what they were told, or None.

    """
    barrier = threading.Barrier(count)

    def work() -> CheckoutTimeout | None:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            barrier.wait(PATIENCE)
            try:
                with engine.connect() as another:
                    another.execute(text("SELECT 1"))
            except CheckoutTimeout as error:
                return error
            return None

    return [Worker(work) for _ in range(count)]


def test_deadlock_raises(engines: Engines, driver: str) -> None:
    """Freed at once: their time limit is an hour."""

    engine = engines(
        driver, pool_size=4, pool_timeout=3600, on_deadlock="raise"
    )
    workers = all_need_another(engine, 4)
    told = [worker.result() for worker in workers]
    [error] = [each for each in told if each is not None]
    assert isinstance(error, PoolDeadlock) and error.reason == "deadlock"
    assert engine.pool.stats().in_use == 0


def test_deadlock_warns(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    """At once: their time limit is an hour."""

    engine = engines(pool_size=4, pool_timeout=3600)
    with caplog.at_level(logging.WARNING, "sqlalchemy.pool"):
        workers = all_need_another(engine, 4)
        eventually(lambda: caplog.records)
    [record] = caplog.records
    assert "Deadlock suspected: all 4 connections" in record.getMessage()
    assert engine.pool.stats().waiting == 4
    pool: Any = engine.pool
    pool.disconnect()
    assert [worker.result() for worker in workers] == [None] * 4


def test_deadlock_until_the_time_is_up(engines: Engines) -> None:
    engine = engines(pool_size=4, pool_timeout=2, on_deadlock="off")
    workers = all_need_another(engine, 4)
    told = [worker.result() for worker in workers]
    reasons = {each.reason for each in told if isinstance(each, Exception)}
    assert "deadlock" in reasons


@pytest.mark.parametrize("server", ["silent", "closed"])
def test_unreachable(
    engines: Engines, threads: Threads, driver: str, server: str
) -> None:
    """One takes connections and says nothing; the other is not there."""

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if server == "closed":
            listener.close()
        url = make_url("postgresql://app:hunter2@127.0.0.1/app").set(port=port)
        engine = engines(
            driver,
            url=url.render_as_string(hide_password=False),
            pool_size=1,
            pool_timeout=LIMIT,
            connect_args={"connect_timeout": 2},
        )
        if server == "closed":
            # whoever gets the slot is told by the driver
            with pytest.raises(exc.OperationalError):
                engine.connect()
            error = refused_while_opening(engine)
            assert error.connect_error is not None
            assert "refused" in error.connect_error
            assert f"connect error: {error.connect_error}" in str(error)
        else:

            def connect() -> None:
                with pytest.raises(exc.OperationalError):
                    engine.connect()

            [worker] = threads.start(1, connect)
            eventually(lambda: engine.pool.stats().opening)
            error = refusal(engine)
            # it gives up in the end, and then that is known
            worker.result()
        assert error.reason == "unreachable"
        assert error.leases == ()
        assert "hunter2" not in str(error) + repr(vars(error))


def refused_while_opening(engine: Engine) -> CheckoutTimeout:
    """Somebody asks while another one tries once more."""

    told: list[Any] = []
    creator = engine.pool._creator

    def connect(*args: Any) -> Any:
        if not told:
            told.append(None)
            told[0] = Worker(lambda: refusal(engine)).result()
        return creator(*args)

    pool: Any = engine.pool
    pool.use_creator(connect)
    with pytest.raises(exc.OperationalError):
        engine.connect()
    error: CheckoutTimeout = told[0]
    return error


# taking back


def test_reclaimed(
    engines: Engines, observer: Observer, table: str, driver: str
) -> None:
    engine = engines(
        driver,
        reclaim_timeout=0.4,
        # earlier all the same
        reaping_frequency=60,
        dead_connection_timeout=None,
    )
    with engine.connect() as connection:
        connection.execute(text(f"INSERT INTO {table} VALUES (1)"))
        pid = backend_of(connection)
        used = time.monotonic()
        # by one who waits for it
        with engine.connect() as other:
            assert time.monotonic() - used >= 0.4
            assert backend_of(other) != pid
        eventually(lambda: not observer.runs(pid))
        assert observer.rows(f"SELECT x FROM {table}") == []
        with pytest.raises(exc.OperationalError) as caught:
            connection.execute(text("SELECT 1"))
        reclaimed = caught.value
        assert isinstance(reclaimed, ConnectionReclaimed)
        assert reclaimed.reason == "reclaimed"
        connection.rollback()
        assert connection.scalar(text("SELECT 2")) == 2
    assert engine.pool.stats().closed["reclaimed"] == 1


def test_what_runs_is_not_reclaimed(
    engines: Engines, driver: str
) -> None:
    engine = engines(
        driver,
        reclaim_timeout=0.2,
        reaping_frequency=0.05,
        dead_connection_timeout=None,
    )
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1 FROM pg_sleep(0.8)")) == 1
        streamed = connection.execution_options(stream_results=True).execute(
            text("SELECT generate_series(1, 3000)")
        )
        numbers: list[int] = []
        for _ in range(3):
            time.sleep(0.3)
            numbers += streamed.scalars().fetchmany(1000)
        assert numbers == list(range(1, 3001))
        streamed.close()
        connection.commit()
    assert engine.pool.stats().closed == {}


def run_in_a_thread(connection: Connection, statement: str) -> Worker:
    def run() -> None:
        with pytest.raises(exc.DBAPIError):
            connection.execute(text(statement))

    return Worker(run)


@pytest.mark.parametrize("cancel", ["works", "fails"])
def test_what_runs_is_cancelled_before_a_close(
    engines: Engines,
    observer: Observer,
    driver: str,
    cancel: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """psycopg2 would wait for the end of the statement."""

    engine = engines(driver)
    connection = engine.connect()
    pid = backend_of(connection)
    worker = run_in_a_thread(connection, "SELECT pg_sleep(60)")
    eventually(
        lambda: observer.scalar(
            "SELECT wait_event = 'PgSleep' FROM pg_stat_activity "
            "WHERE pid = %s",
            pid,
        )
    )
    pool: Any = engine.pool
    if cancel == "fails":
        monkeypatch.setattr(
            "sa_reaperpool.cancel._within", lambda seconds, order: None
        )
    began = time.monotonic()
    pool.disconnect()
    worker.result()
    assert time.monotonic() - began < PATIENCE
    assert pool.stats().in_use == 0
    if cancel == "works":
        eventually(lambda: not observer.runs(pid))
    else:
        observer.terminate([pid])
    with engine.connect() as other:
        assert backend_of(other) != pid
    connection.close()
