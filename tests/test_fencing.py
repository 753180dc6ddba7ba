"""Fencing: what was taken back is never touched by its old handle."""

from __future__ import annotations

import gc
import sqlite3
import threading

import pytest
from sqlalchemy import create_engine
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import SAWarning
from sqlalchemy.orm import Session
from stub import Driver
from stub import Task
from stub import in_ended_thread
from stub import switching_often

from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import ReaperPool


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def pool(driver):
    return ReaperPool(
        driver.connect,
        pool_size=1,
        max_overflow=0,
        timeout=0,
        reaping_frequency=None,
        dead_connection_timeout=0,
        logging_name="books",
    )


@pytest.fixture
def engine(tmp_path):
    engine = create_engine(
        f"sqlite:///{tmp_path}/a.db",
        poolclass=ReaperPool,
        pool_size=2,
        pool_reset_on_return="rollback",
        reaping_frequency=None,
        dead_connection_timeout=0,
    )
    yield engine
    engine.dispose()


def reclaimed(pool):
    """A handle whose thread has ended, and that was taken back."""

    def work():
        threading.current_thread().name = "forgetful"
        return pool.connect()

    handle = in_ended_thread(work)
    assert pool.reap() == 1
    return handle


def lease_of(pool):
    [lease] = pool._leases.values()
    return lease


USES = {
    "cursor": lambda handle: handle.cursor(),
    "commit": lambda handle: handle.commit(),
    "rollback": lambda handle: handle.rollback(),
    "detach": lambda handle: handle.detach(),
    "dbapi_connection": lambda handle: handle.dbapi_connection,
    "driver_connection": lambda handle: handle.driver_connection,
    "connection": lambda handle: handle.connection,
    "any attribute": lambda handle: handle.number,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_no_use_of_a_reclaimed_handle(pool, driver, use):
    handle = reclaimed(pool)
    [connection] = driver.connections
    assert connection.closed
    calls = list(connection.calls)
    for _ in range(2):
        with pytest.raises(ConnectionReclaimed) as caught:
            use(handle)
        assert caught.value.reason == "abandoned"
        assert caught.value.logging_name == "books"
        assert "took back" in str(caught.value)
        assert "'forgetful' (ended)" in str(caught.value)
        assert f"{__file__}:" in str(caught.value)
    assert connection.calls == calls


def test_closing_a_reclaimed_handle_is_silent(pool, driver, recwarn):
    handle = reclaimed(pool)
    successor = pool.connect()
    for _ in range(2):
        handle.close()
    handle.invalidate()
    assert not handle.is_valid
    assert not handle.is_detached
    del handle
    gc.collect()
    assert pool.checkedout() == 1
    assert successor.dbapi_connection is driver.connections[1]
    assert successor.dbapi_connection.calls == []
    # SQLAlchemy's own: the collector finds what other tests left as well
    assert [w for w in recwarn if issubclass(w.category, SAWarning)] == []


def test_connection_and_session_recover_from_it(engine):
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
    with engine.connect() as other:
        connection = in_ended_thread(engine.connect)
        session = Session(bind=connection)
        assert engine.pool.reap() == 1
        with pytest.raises(ConnectionReclaimed) as caught:
            session.execute(text("SELECT 1"))
        assert isinstance(caught.value, OperationalError)
        assert caught.value.connection_invalidated
        session.rollback()
        assert session.execute(text("SELECT 1")).scalar() == 1
        session.close()
        connection.close()
        # the rest of the pool was not invalidated
        assert other.connection.is_valid
    assert dict(engine.pool.stats().closed) == {"reaped": 1}


@pytest.mark.parametrize(
    "way", ["close", "_close_special", "_checkin", "invalidate", "detach"]
)
def test_a_return_that_lost_its_lease_touches_nothing(pool, driver, way):
    handle = pool.connect()
    # the step by which a reclaim, in another thread, wins
    lease = pool._leases.pop(lease_of(pool))
    getattr(handle, way)()
    [connection] = driver.connections
    assert connection.calls == []
    assert not connection.closed
    assert pool._pool.idle() == []
    assert lease.entry.dbapi_connection is connection


@pytest.mark.parametrize("way", ["close", "invalidate", "detach", "drop"])
def test_one_of_return_and_reclaim_wins(pool, driver, way):
    """Both at once, again and again: the place is there, once."""
    for _ in range(60):
        handles = [in_ended_thread(pool.connect)]
        barrier = threading.Barrier(2)

        def give_back():
            barrier.wait()
            if way == "drop":
                handles.clear()
                return
            try:
                getattr(handles[0], way)()
            except ConnectionReclaimed:
                assert way == "detach"

        def reap():
            barrier.wait()
            return pool.reap()

        with switching_often():
            tasks = [Task(give_back), Task(reap)]
            for task in tasks:
                task.result()
        del give_back
        handles.clear()
        assert pool._pool.live() <= 1
        assert pool.checkedout() == 0
        handle = pool.connect()
        assert not handle.dbapi_connection.closed
        handle.close()
    if way != "detach":
        assert len(driver.open_ones) == 1


# pools that engines share


def sqlite_pool(path):
    def connect():
        return sqlite3.connect(path, check_same_thread=False)

    return ReaperPool(
        connect, reaping_frequency=None, dead_connection_timeout=0
    )


def check_fencing(engine):
    connection = in_ended_thread(engine.connect)
    other = engine.connect()
    assert engine.pool.reap() == 1
    with pytest.raises(ConnectionReclaimed, match="all its holders"):
        connection.execute(text("select 1"))
    assert connection.invalidated
    connection.rollback()
    assert connection.execute(text("select 1")).scalar() == 1
    assert not other.invalidated
    assert other.execute(text("select 1")).scalar() == 1
    connection.close()
    other.close()


def test_an_engine_on_a_pool_that_was_used_before(tmp_path):
    pool = sqlite_pool(tmp_path / "a.db")
    pool.connect().close()
    check_fencing(create_engine("sqlite://", pool=pool))


def test_two_engines_on_one_pool(tmp_path):
    pool = sqlite_pool(tmp_path / "a.db")
    engines = [create_engine("sqlite://", pool=pool) for _ in range(2)]
    for engine in engines:
        check_fencing(engine)
