"""What is being done past a cursor is use, for as long as it takes."""

from __future__ import annotations

import sqlite3

import pytest
from rounds import Clock
from rounds import a_pool
from rounds import closed
from rounds import work
from stub import Driver
from stub import Gate
from stub import Task
from stub import in_ended_thread

from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import NotOwner


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


class SQLite:
    def connect(self):
        return sqlite3.connect(":memory:", check_same_thread=False)


NUMBERS = """
    WITH RECURSIVE numbers (x) AS (
        SELECT 1 UNION ALL SELECT x + 1 FROM numbers WHERE x < 3
    ) SELECT x FROM numbers
"""


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("reserved", [False, True])
def test_an_end_that_takes_long_is_not_reclaimed(
    driver, clock, monkeypatch, end, reserved
):
    """PyMySQL and sqlite3 do not tell that it is under way."""
    pool = a_pool(driver, reclaim_timeout=40)

    def use():
        handle = pool.connection() if reserved else pool.connect()
        cursor = handle.cursor()
        cursor.execute("INSERT")
        cursor.close()
        monkeypatch.setattr(driver.connections[0], end, gate)
        getattr(handle, end)()
        # it has its whole time from then on
        done()
        handle.cursor().close()
        pool.release_connection() if reserved else handle.close()

    gate, done = Gate(), Gate()
    task = Task(use)
    gate.wait()
    for _ in range(20):
        work(pool, clock, later=20)
    assert closed(pool) == {}
    gate.open()
    done.wait()
    work(pool, clock, later=15)
    assert closed(pool) == {}
    done.open()
    task.result()


def test_who_was_interrupted_and_has_ended_does_nothing(driver, clock):
    pool = a_pool(driver, dead_connection_timeout=5)

    def use():
        handle = pool.connect()
        handle.lease.begin_work()
        return handle

    handle = in_ended_thread(use)
    work(pool, clock, later=6)
    assert closed(pool) == {"reaped": 1}
    handle.close()


def test_a_cursor_by_the_connections_own_execute(clock):
    pool = a_pool(SQLite(), reclaim_timeout=40)
    handle = pool.connect()
    rows = handle.execute(NUMBERS)
    assert next(rows) == (1,)
    work(pool, clock, later=20)
    work(pool, clock, later=41)
    assert closed(pool) == {}
    assert [*rows] == [(2,), (3,)]
    work(pool, clock, later=20)
    work(pool, clock, later=41)
    assert closed(pool) == {"reclaimed": 1}
    with pytest.raises(ConnectionReclaimed):
        handle.execute(NUMBERS)


def test_the_connections_own_execute_that_takes_long(clock):
    pool = a_pool(SQLite(), reclaim_timeout=40)
    handle = pool.connect()
    gate = Gate()
    handle.create_function("wait", 0, gate)
    task = Task(lambda: handle.execute("SELECT wait()").fetchall())
    gate.wait()
    for _ in range(4):
        work(pool, clock, later=41)
    assert closed(pool) == {}
    gate.open()
    assert task.result() == [(None,)]


def test_the_connections_own_method_that_takes_long(clock):
    pool = a_pool(SQLite(), reclaim_timeout=40)
    handle = pool.connect()
    handle.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    gate = Gate()
    copy = sqlite3.connect(":memory:", check_same_thread=False)
    task = Task(lambda: handle.backup(copy, progress=gate))
    gate.wait()
    for _ in range(4):
        work(pool, clock, later=41)
    assert closed(pool) == {}
    gate.open()
    task.result()
    assert copy.execute("SELECT x FROM t").fetchall() == [(1,)]
    copy.close()


def test_another_threads_refused_commit_ends_nothing(driver, clock):
    pool = a_pool(driver, reclaim_timeout=40)
    gate = Gate()
    told = []

    def use():
        told.append(pool.connection())
        driver.connections[0].commit = gate
        told[0].commit()
        pool.release_connection()

    task = Task(use)
    gate.wait()
    with pytest.raises(NotOwner):
        told[0].commit()
    for _ in range(4):
        work(pool, clock, later=41)
    assert closed(pool) == {}
    gate.open()
    task.result()
