"""What Que, a job queue of Ruby's, asks of the pool that it is given.

The pool has one verb, which lends a connection for a block, and

* is re-entrant: a block inside of a block has the same connection;
* is exclusive: from the entrance to the outermost block to its exit, no
  other thread has that connection;
* shares with the ORM: what the ORM does inside of a block, and a block
  inside of the ORM's, are on one connection, and so in one transaction.

Each is told by the server, by the process ids of its backends.
"""

from __future__ import annotations

import random
import threading
from contextlib import contextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from waiting import Worker
from waiting import eventually

import sa_reaperpool

PID = "SELECT pg_backend_pid()"


@pytest.fixture(params=["explicit", "thread"])
def reservation(request):
    return request.param


def execute(handle, statement):
    """As a job queue would, which knows nothing of SQLAlchemy."""
    cursor = handle.cursor()
    try:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []
    finally:
        cursor.close()


def pid_of(handle):
    [(pid,)] = execute(handle, PID)
    return pid


def pid_of_session(session):
    return session.scalar(text(PID))


# re-entrant


def test_a_block_in_a_block_has_the_same_backend(engines, driver, reservation):
    engine = engines(driver, reservation=reservation)
    with engine.pool.with_connection() as outer:
        pids = {pid_of(outer)}
        with engine.pool.with_connection() as inner:
            pids.add(pid_of(inner))
            with sa_reaperpool.with_connection(engine) as connection:
                pids.add(connection.scalar(text(PID)))
                with engine.pool.with_connection() as innermost:
                    pids.add(pid_of(innermost))
        pids.add(pid_of(outer))
    assert len(pids) == 1
    assert engine.pool.checkedout() == 0


def test_that_it_is_in_a_transaction_is_known_in_each_block(
    engines, table, reservation, observer
):
    engine = engines(reservation=reservation)
    with engine.pool.with_connection() as outer:
        execute(outer, f"INSERT INTO {table} VALUES (1)")
        with engine.pool.with_connection() as inner:
            [(seen,)] = execute(inner, f"SELECT count(*) FROM {table}")
            assert seen == 1
        [lease] = engine.pool.leases()
        assert lease.in_transaction
        outer.commit()
        [lease] = engine.pool.leases()
        assert not lease.in_transaction
    assert observer.rows(f"SELECT x FROM {table}") == [(1,)]


# exclusive


class InUse:
    """Which backends are in use, noted at entrance and exit."""

    def __init__(self):
        self._pids = set()
        self._lock = threading.Lock()
        self.most = 0

    @contextmanager
    def by(self, pid):
        with self._lock:
            assert pid not in self._pids, f"{pid} is in use, at entrance"
            self._pids.add(pid)
            self.most = max(self.most, len(self._pids))
        try:
            yield
        finally:
            with self._lock:
                assert pid in self._pids, f"{pid} is not in use, at exit"
                self._pids.remove(pid)


def test_a_set_of_pids_tells_who_is_not_alone():
    """The test below can fail."""
    in_use = InUse()
    with pytest.raises(AssertionError, match="1 is in use, at entrance"):
        with in_use.by(1), in_use.by(1):
            pass
    with pytest.raises(AssertionError, match="2 is not in use, at exit"):
        with in_use.by(2):
            in_use._pids.clear()


def test_no_two_threads_have_one_backend(engines, driver, reservation):
    size, threads, rounds = 4, 16, 15
    engine = engines(
        driver, reservation=reservation, pool_size=size, pool_timeout=60
    )
    in_use = InUse()
    together = threading.Barrier(size)

    def work(number):
        chance = random.Random(number)
        # at first as many as there are connections meet inside
        meets = number < size
        for _ in range(rounds):
            with engine.pool.with_connection() as handle:
                pid = pid_of(handle)
                with in_use.by(pid):
                    if meets:
                        together.wait(60)
                        meets = False
                    for _ in range(chance.randrange(3)):
                        with engine.pool.with_connection() as inner:
                            assert pid_of(inner) == pid
                    if reservation == "thread":
                        with Session(engine) as session:
                            assert pid_of_session(session) == pid
                    assert pid_of(handle) == pid
                    if chance.random() < 0.1:
                        handle.rollback()

    first = [Worker(lambda n=n: work(n)) for n in range(size)]
    eventually(lambda: in_use.most == size)
    rest = [Worker(lambda n=n: work(n)) for n in range(size, threads)]
    for worker in first + rest:
        worker.result(within=120)
    assert in_use.most == size
    assert engine.pool.checkedout() == 0


def test_invalidated_and_dead_ones_are_nobodys_either(
    engines, observer, reservation
):
    """Another backend, never one that somebody has."""
    engine = engines(reservation=reservation, pool_size=2, pool_timeout=60)
    in_use = InUse()

    def work(number):
        for turn in range(8):
            with engine.pool.with_connection() as handle:
                pid = pid_of(handle)
                with in_use.by(pid):
                    if turn % 4 == number:
                        handle.invalidate()
            if turn % 4 == 3 and number == 0:
                engine.pool.refresh()

    for worker in [Worker(lambda n=n: work(n)) for n in range(4)]:
        worker.result(within=60)
    assert engine.pool.checkedout() == 0
    eventually(lambda: len(observer.backends(engine)) <= 2)


# one connection with the ORM


def test_the_pool_inside_of_the_orm(engines, driver):
    engine = engines(driver, reservation="thread")
    with Session(engine) as session:
        pid = pid_of_session(session)
        with engine.pool.with_connection() as handle:
            assert pid_of(handle) == pid
        assert pid_of_session(session) == pid


def test_the_orm_inside_of_the_pool(engines, driver):
    engine = engines(driver, reservation="thread")
    with engine.pool.with_connection() as handle:
        pid = pid_of(handle)
        handle.rollback()
        with Session(engine) as session:
            assert pid_of_session(session) == pid
            with engine.pool.with_connection() as inner:
                assert pid_of(inner) == pid
        assert pid_of(handle) == pid


@pytest.mark.parametrize("keep", [True, False], ids=["commit", "rollback"])
def test_a_job_is_queued_with_what_the_orm_did(
    engines, driver, table, observer, keep
):
    """Whichever is outer: both rows, or neither."""
    engine = engines(driver, reservation="thread")

    def enqueue(x):
        with engine.pool.with_connection() as handle:
            execute(handle, f"INSERT INTO {table} VALUES ({x})")
            handle.commit()

    def write(session, x):
        session.execute(text(f"INSERT INTO {table} VALUES ({x})"))

    with Session(engine) as session:
        write(session, 1)
        enqueue(2)
        write(session, 3)
        session.commit() if keep else session.rollback()
    with engine.pool.with_connection() as handle:
        execute(handle, f"INSERT INTO {table} VALUES (4)")
        with Session(engine) as session:
            write(session, 5)
            enqueue(6)
            session.commit()
        handle.commit() if keep else handle.rollback()
    found = observer.rows(f"SELECT x FROM {table} ORDER BY x")
    assert [x for (x,) in found] == ([1, 2, 3, 4, 5, 6] if keep else [])


def test_an_error_in_a_block_undoes_it(engines, driver, table, observer):
    engine = engines(driver, reservation="thread")
    with pytest.raises(ZeroDivisionError):
        with engine.pool.with_connection() as handle:
            execute(handle, f"INSERT INTO {table} VALUES (1)")
            with Session(engine) as session, session.begin():
                session.execute(text(f"INSERT INTO {table} VALUES (2)"))
            raise ZeroDivisionError
    assert observer.rows(f"SELECT x FROM {table}") == []


def test_a_thread_that_ends_inside_of_its_block_undoes_it(
    engines, driver, table, observer
):
    """Ruby's kill runs the block's end; here the reaper does."""
    engine = engines(driver, reaping_frequency=3600)
    blocks = []

    def die():
        block = engine.pool.with_connection()
        blocks.append(block)
        execute(block.__enter__(), f"INSERT INTO {table} VALUES (1)")

    Worker(die).result()
    # the one connection of the pool, once it was taken back
    with engine.pool.with_connection() as handle:
        assert execute(handle, f"SELECT x FROM {table}") == []
    assert engine.pool.stats().closed["reaped"] == 1
    eventually(lambda: len(observer.backends(engine)) == 1)
