"""A forked child: its pools are empty, and its parent notices nothing.

What needs a server is in postgresql/test_forks.py.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from forks import Child
from forks import TalkingDriver
from forks import a_pool
from forks import branch
from forks import in_a_child
from forks import numbers
from sqlalchemy import create_engine
from sqlalchemy import text
from sqlalchemy.pool import QueuePool
from stub import Driver
from stub import Gate
from stub import Task
from stub import until

import sa_reaperpool
from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import PoolShutdown
from sa_reaperpool import ReaperPool
from sa_reaperpool import fork
from sa_reaperpool.request import REQUEST
from sa_reaperpool.request import Request

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # which says what this is about
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


@pytest.fixture
def driver():
    return TalkingDriver()


@pytest.fixture
def kept():
    """Refers to what a test made until it is over."""
    return []


# what the child finds


def test_it_starts_empty(driver):
    pool = a_pool(driver)
    held, idle = pool.connect(), pool.connect()
    idle.close()
    driver.heard()

    def child():
        stats = pool.stats()
        assert (stats.idle, stats.in_use, stats.opening) == (0, 0, 0)
        assert (stats.checkouts, stats.opened) == (0, 0)
        assert stats.closed == {}
        assert (stats.size, stats.limit) == (3, 3)
        assert pool.leases() == ()
        assert pool.checkedout() == pool.checkedin() == 0
        found = numbers(pool)
        assert (pool.flush(), pool.reap()) == (3, 0)
        pool.refresh()
        pool.disconnect()
        pool.dispose()
        pool.shutdown()
        return found

    assert in_a_child(child) == [3, 4, 5]
    assert driver.heard() == []
    assert pool.stats().in_use == pool.stats().idle == 1
    assert held.dbapi_connection.number == 1
    held.close()
    assert sorted(numbers(pool, 2)) == [1, 2]


def test_its_options_are_those_that_the_parent_had_by_then(driver):
    pool = a_pool(driver, use_lifo=True)
    pool.configure(pool_size=2, max_overflow=2, max_age=60)

    def child():
        stats = pool.stats()
        assert (stats.size, stats.limit, pool.timeout()) == (2, 4, 15)
        assert pool.settings.max_age == 60
        pool.configure(pool_size=1, max_overflow=0)
        return numbers(pool, 1), pool.queue.use_lifo

    assert in_a_child(child) == [[1], True]


def test_those_who_wait_are_the_parents(driver):
    pool = a_pool(driver, pool_size=1)
    held = pool.connect()
    waiter = Task(lambda: pool.connect().dbapi_connection.number)
    until(lambda: pool.queue.waiting() == 1)

    assert in_a_child(lambda: (pool.queue.waiting(), numbers(pool, 1))) == [
        0,
        [2],
    ]
    held.close()
    assert waiter.result() == 1


def test_a_grandchild(driver):
    pool = a_pool(driver)
    held = pool.connect()

    def child():
        mine = pool.connect()
        driver.heard()
        below = in_a_child(lambda: numbers(pool))
        assert driver.heard() == []
        assert mine.dbapi_connection.number == 2
        mine.close()
        return below

    assert in_a_child(child) == [3, 4, 5]
    assert held.dbapi_connection.number == 1


def test_the_parents_handles(driver):
    pool = a_pool(driver, logging_name="app")
    held, other = pool.connect(), pool.connect()
    driver.heard()

    def child():
        for use in (held.cursor, held.commit, held.rollback, held.detach):
            with pytest.raises(ConnectionReclaimed) as raised:
                use()
            assert raised.value.reason == "forked"
            assert raised.value.logging_name == "app"
            assert "parent process" in str(raised.value)
            assert "test_fork.py" in str(raised.value)
        assert not held.is_valid
        held.close()
        held.invalidate()
        return pool.stats().in_use

    assert in_a_child(child) == 0
    assert driver.heard() == []
    held.cursor()
    held.close()
    other.close()
    assert driver.heard() == ["cursor", "rollback", "rollback"]


def test_the_parents_handles_collected_in_the_child(driver, kept):
    pool = a_pool(driver)
    cycle = [pool.connect()]
    cycle.append(cycle)
    gc.disable()
    try:
        kept.append(pool.connect())
        del cycle
        driver.heard()

        def child():
            kept.clear()
            return gc.collect() > 0

        assert in_a_child(child)
        # before this process collects them itself
        assert driver.heard() == []
    finally:
        gc.enable()


def test_a_connection_of_the_parents(tmp_path):
    engine = create_engine(
        f"sqlite:///{tmp_path / 'db'}", poolclass=ReaperPool
    )
    connection = engine.connect()
    connection.execute(text("CREATE TABLE t (x)"))
    connection.commit()

    def child():
        with pytest.raises(ConnectionReclaimed):
            connection.execute(text("SELECT 1"))
        # from there on it is as after any disconnect
        connection.rollback()
        connection.execute(text("INSERT INTO t VALUES (1)"))
        connection.commit()
        connection.close()
        return engine.pool.stats().idle

    assert in_a_child(child) == 1
    assert connection.scalar(text("SELECT x FROM t")) == 1
    connection.close()
    engine.dispose()


def test_the_dispose_that_SQLAlchemy_recommends(tmp_path):
    engine = create_engine(
        f"sqlite:///{tmp_path / 'db'}", poolclass=ReaperPool
    )
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))

    def child(close):
        engine.dispose(close=close)
        with engine.connect() as connection:
            return connection.scalar(text("SELECT 1"))

    assert in_a_child(child, False) == in_a_child(child, True) == 1
    engine.dispose()


# reservations


def test_what_the_forking_thread_had_reserved(driver):
    pool = a_pool(driver, reservation="thread")
    outer = pool.connection()
    outer.cursor()
    join = pool.connect()
    join.cursor()
    driver.heard()

    def child():
        assert not pool.active_connection()
        for handle in (outer, join):
            with pytest.raises(ConnectionReclaimed):
                handle.cursor()
            handle.close()
        mine = pool.connection()
        number = mine.dbapi_connection.number
        mine.cursor()
        pool.connect().cursor()
        sa_reaperpool.release_connections()
        return number, pool.stats().idle

    assert in_a_child(child) == [2, 1]
    assert driver.heard() == []
    join.commit()
    join.close()
    outer.commit()
    pool.release_connection()
    assert pool.stats().idle == 1


def test_a_block_that_the_child_leaves(driver):
    pool = a_pool(driver)
    before = None
    with pool.with_connection() as outer:
        outer.cursor()
        driver.heard()
        side = branch()
        if not isinstance(side, Child):
            with pool.with_connection() as inner:
                before = inner.dbapi_connection.number
    if not isinstance(side, Child):
        side([before, pool.stats().in_use, pool.stats().idle])
    assert driver.heard() == ["rollback"]
    assert side.result() == [2, 0, 1]
    assert driver.heard() == []


def test_what_was_reserved_in_a_request(driver):
    pool = a_pool(driver)
    token = REQUEST.set(Request())
    try:
        mine = pool.connection()
        mine.cursor()
        driver.heard()

        def child():
            # the child goes on with the request, in a connection of its own
            pool.connection().cursor()
            number = pool.connection().dbapi_connection.number
            REQUEST.get().end()
            return number, pool.stats().in_use

        assert in_a_child(child) == [2, 0]
        assert driver.heard() == []
        assert pool.connection() is mine
        pool.release_connection()
    finally:
        REQUEST.reset(token)


# threads that hold something, and what ends with their copies


def hold_in_a_thread_local(pool, gate):
    local = threading.local()
    local.handle = pool.connect()
    gate()
    local.handle.commit()
    local.handle.close()


@pytest.mark.parametrize("poolclass", [QueuePool, ReaperPool])
def test_another_threads_handle_in_a_thread_local(driver, poolclass):
    """The first of the traps: its copy is destroyed as the child begins."""
    pool = a_pool(driver, poolclass)
    gate = Gate()
    task = Task(hold_in_a_thread_local, pool, gate)
    gate.wait()

    in_a_child(int)

    # SQLAlchemy's finaliser has undone what the thread is about to commit
    stock = poolclass is QueuePool
    assert driver.heard() == (["rollback"] if stock else [])
    gate.open()
    task.result()


def test_another_thread_that_has_reserved(driver):
    pool = a_pool(driver)
    gate = Gate()

    def reserve():
        pool.connection().cursor()
        gate()
        pool.connection().commit()
        pool.release_connection()

    task = Task(reserve)
    gate.wait()
    driver.heard()
    assert in_a_child(lambda: numbers(pool, 1)) == [2]
    assert driver.heard() == []
    gate.open()
    task.result()
    assert driver.heard() == ["commit", "rollback"]


def test_two_forks_at_once():
    """One of them is over while the other is about to begin its child."""
    run(
        """
        # whose locks are taken only after what follows
        import concurrent.futures.thread
        import logging

        first = []

        def before():
            # after what the pool does before a fork, if it does something
            if threading.get_ident() in first:
                forker = threading.Thread(target=fork)
                forker.start()
                forker.join()

        os.register_at_fork(before=before)

        from forks import TalkingDriver
        from sa_reaperpool import ReaperPool

        def fork():
            child = os.fork()
            if not child:
                os._exit(0)
            os.waitpid(child, 0)

        driver = TalkingDriver()
        pool = ReaperPool(driver.connect)
        held, may_end = threading.Event(), threading.Event()

        def hold():
            local = threading.local()
            local.handle = pool.connect()
            held.set()
            may_end.wait(30)
            local.handle.commit()

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(30)
        first.append(threading.get_ident())
        fork()
        assert driver.heard() == [], "a child has spoken"
        may_end.set()
        holder.join()
        """
    )


def run(program):
    """A program of its own, which has to end well and say nothing."""
    tests = Path(__file__).parent
    package = Path(sa_reaperpool.__file__).parent.parent
    ended = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            "import os\nimport sys\nimport threading\n"
            + textwrap.dedent(program),
        ],
        env={**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{tests}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.parametrize("leave", ["sys.exit()", "os._exit(0)"])
def test_the_childs_end(leave):
    run(
        f"""
        from forks import TalkingDriver
        from sa_reaperpool import ReaperPool

        driver = TalkingDriver()
        pool = ReaperPool(driver.connect)
        held = pool.connect()
        pool.connect().close()
        driver.heard()
        child = os.fork()
        if not child:
            # in one line: the child's own is none of the parent's business
            with pool.connect(): pass
            # what the driver keeps is not the point, but what the pool does
            driver.connections.clear()
            {leave}
        _, status = os.waitpid(child, 0)
        assert status == 0
        assert driver.heard() == [], driver.heard()
        driver.connections.clear()
        driver.heard()
        """
    )


def test_a_shut_down_pool_stays_so(driver):
    pool = a_pool(driver)
    pool.shutdown()

    def child():
        with pytest.raises(PoolShutdown):
            pool.connect()
        return True

    assert in_a_child(child)


def test_pools_are_not_kept_by_what_forks():
    pool = a_pool(Driver())
    assert pool in fork.pools()
    del pool
    gc.collect()
    # others' pools may be there
    assert all(isinstance(pool, ReaperPool) for pool in fork.pools())
