"""An exception at any line of a checkout or a return loses nothing.

A trace function raises KeyboardInterrupt at one line after the other of
everything that runs in SQLAlchemy's pool package and in this one: first at
the first line, then at the second, until the scenario runs through.  Each
time the pool must have its full capacity afterwards.

The lines of a finaliser are different: an exception there does not reach
anybody, so that what it dropped may take until the next round.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import logging
import os.path
import sqlite3
import sys
import threading
import weakref

import pytest
import sqlalchemy.event
import sqlalchemy.pool
from sqlalchemy import create_engine
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from stub import Task
from stub import execute
from stub import until

import sa_reaperpool
from sa_reaperpool import ReaperPool
from sa_reaperpool.queue import FairQueue
from sa_reaperpool.request import REQUEST
from sa_reaperpool.request import Request

SIZE = 2
TRACED = (
    os.path.dirname(sa_reaperpool.__file__) + os.sep,
    os.path.dirname(sqlalchemy.pool.__file__) + os.sep,
    os.path.dirname(sqlalchemy.event.__file__) + os.sep,
    weakref.__file__,
)


@pytest.fixture(autouse=True)
def nothing_kept_but_by_the_pool():
    """Traceback objects in log records would keep connections alive."""
    logging.disable(logging.CRITICAL)
    gc.collect()
    # what is there already need not be looked through each time
    gc.freeze()
    yield
    gc.unfreeze()
    logging.disable(logging.NOTSET)


class Interrupter:
    """Raises KeyboardInterrupt at the nth traced line."""

    def __init__(self, nth):
        self.nth = nth
        self.lines = 0
        self.where = None
        self.kept = None

    def trace(self, frame, event, arg):
        if self.where is not None:
            return None
        if not frame.f_code.co_filename.startswith(TRACED):
            return None
        return self.trace_line

    def trace_line(self, frame, event, arg):
        if event == "line" and self.where is None:
            self.lines += 1
            if self.lines == self.nth:
                self.where = (
                    f"{frame.f_code.co_filename}:{frame.f_lineno} "
                    f"in {frame.f_code.co_name}"
                )
                raise KeyboardInterrupt
        return self.trace_line

    def run(self, scenario):
        # A generator has an exception state of its own.  Python 3.11 and
        # later leave there, as the one being handled, what a trace function
        # raised in an `except` block that returns: in the thread's own it
        # would stay for good.
        for _ in self._run(scenario):
            pass

    def _run(self, scenario):
        at_work.append(self)
        sys.settrace(trace_at_work)
        try:
            scenario()
        except KeyboardInterrupt as error:
            # with its traceback's frames, as a Future or a prompt would
            self.kept = error
        finally:
            sys.settrace(None)
            at_work.clear()
        yield


at_work: list[Interrupter] = []


def trace_at_work(frame, event, arg):
    """Let the interrupter at work trace it.

    A function that is never freed: Python 3.11 may go on calling one that
    raised in a finaliser, also after settrace(None), and crash over a bound
    method that nobody refers to any more.
    """
    return at_work[0].trace(frame, event, arg) if at_work else None


class Connection:
    """Closed by close(), or with its last reference as any driver's."""

    def __init__(self, open_ones):
        self.open_ones = open_ones
        open_ones.add(self)

    def cursor(self):
        return Cursor()

    def rollback(self):
        pass

    commit = rollback

    def close(self):
        self.open_ones.discard(self)


class Cursor:
    closed = False

    def execute(self, statement):
        pass

    def close(self):
        self.closed = True


def stub_pool(connect=None, **options):
    """A pool on a stub driver, and the connections that are open."""
    open_ones = weakref.WeakSet()
    options = {
        "pool_size": SIZE,
        "max_overflow": 0,
        "timeout": 0,
        "reaping_frequency": None,
        **options,
    }
    connect = connect or (lambda: Connection(open_ones))
    pool = ReaperPool(connect, **options)
    return pool, open_ones


def assert_full_capacity(pool, where):
    handles = []
    try:
        for _ in range(pool.stats().limit):
            handles.append(pool.connect(timeout=0))
    except SQLAlchemyError as error:
        pytest.fail(f"a slot was lost by an exception at {where}: {error}")
    connections = {id(handle.dbapi_connection) for handle in handles}
    assert len(connections) == len(handles), where
    with pytest.raises(sa_reaperpool.CheckoutTimeout):
        pool.connect(timeout=0)
    for handle in handles:
        handle.close()
    assert pool.checkedout() == 0, where


def interrupt_every_line(
    make, scenario, *, least, drop_handles=True, drop_exception=False
):
    """Run a scenario again and again, interrupted a line later each time.

    :param make: gives what the scenario is called with: the pool, the
     connections that are open, and a list of handles, of which it keeps
     what it should not drop.

    :param least: so many lines there are at the least; the scenario would
     be another one than thought.

    :param drop_handles: drop them before looking.

    :param drop_exception: it too.  Else it is kept, with all that the frames
     in its traceback refer to.

    """
    nth = 0
    while True:
        nth += 1
        pool, open_ones, handles = make()
        interrupter = Interrupter(nth)
        interrupter.run(lambda: scenario(pool, handles))
        if interrupter.where is None:
            break
        assert sys.exc_info() == (None, None, None), interrupter.where
        # the first lines of close() are as good as the one before the call
        if drop_exception or nth <= 4:
            interrupter.kept = None
        if drop_handles or nth <= 4:
            handles.clear()
        gc.collect()
        assert_full_capacity(pool, interrupter.where)
        gc.collect()
        assert len(open_ones) <= SIZE, interrupter.where
    assert nth > least


def checked_out(**options):
    """Make a pool with one handle out."""

    def make():
        pool, open_ones = stub_pool(**options)
        return pool, open_ones, [pool.connect()]

    return make


def checkout(pool, handles):
    handles.append(pool.connect())


def close(pool, handles):
    handles[0].close()


def test_interruptions_are_not_handled_for_good():
    """Who asks for the exception being handled is not told of these."""
    queue = FairQueue(object, object)
    for nth in range(1, 8):
        # returns inside of an `except` block
        Interrupter(nth).run(queue._run_errand)
        assert sys.exc_info() == (None, None, None)


def test_first_checkout():
    interrupt_every_line(lambda: (*stub_pool(), []), checkout, least=100)


def test_checkout_of_an_idle_connection():
    def make():
        pool, open_ones = stub_pool()
        pool.connect().close()
        return pool, open_ones, []

    interrupt_every_line(make, checkout, least=40)


def test_return():
    interrupt_every_line(checked_out(), close, least=25)


def test_return_while_somebody_keeps_the_handle():
    """That the slot comes free must not hang on the handle's end."""
    interrupt_every_line(checked_out(), close, least=25, drop_handles=False)


def test_return_while_somebody_waits():
    """Without a round, and without another checkout, he is woken."""
    for nth in itertools.count(1):
        pool, _ = stub_pool(pool_size=1, timeout=20)
        handle = pool.connect()
        waiting = Task(pool.connect)
        until(lambda: pool.queue.waiting() == 1)
        interrupter = Interrupter(nth)
        interrupter.run(handle.close)
        # its first lines are as good as the one before the call
        handle.close()
        assert waiting.result().is_valid, interrupter.where
        if interrupter.where is None:
            break
    assert nth > 25


@pytest.mark.parametrize("verb", ["invalidate", "detach"])
def test_invalidate_and_detach(verb):
    def scenario(pool, handles):
        getattr(handles[0], verb)()

    # what is neither closed nor the pool's hangs on the frames alone
    interrupt_every_line(
        checked_out(), scenario, least=30, drop_exception=True
    )


def test_surplus_return():
    def make():
        pool, open_ones = stub_pool(pool_size=1, max_overflow=1)
        handles = [pool.connect(), pool.connect()]
        handles.pop().close()
        return pool, open_ones, handles

    interrupt_every_line(make, close, least=50)


def test_retirement_at_return():
    def make():
        pool, open_ones, handles = checked_out()()
        pool.refresh()
        return pool, open_ones, handles

    interrupt_every_line(make, close, least=50)


@pytest.mark.parametrize(
    "options",
    [{}, {"on_deadlock": "raise"}, {"max_waiting": 0}],
    ids=str,
)
def test_checkout_that_gets_nothing(options):
    def make():
        pool, open_ones = stub_pool(**options)
        return pool, open_ones, [pool.connect() for _ in range(SIZE)]

    def scenario(pool, handles):
        with pytest.raises(sa_reaperpool.CheckoutTimeout):
            pool.connect(timeout=0.001)

    interrupt_every_line(make, scenario, least=40)


def test_failing_connect():
    def make():
        open_ones = weakref.WeakSet()
        down.append(True)

        def connect():
            if down:
                raise RuntimeError("the server is down")
            return Connection(open_ones)

        return stub_pool(connect)[0], open_ones, []

    def scenario(pool, handles):
        try:
            with pytest.raises(RuntimeError):
                pool.connect()
        finally:
            down.clear()

    down = []
    interrupt_every_line(make, scenario, least=50)


# pytest keeps the exception of a finaliser with its traceback, as others
# may: that must not keep the slot
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_garbage_collected_return():
    interrupt_every_line(
        checked_out(), lambda pool, handles: handles.clear(), least=50
    )


def test_reaping():
    def make():
        pool, open_ones = stub_pool(dead_connection_timeout=0)
        handles = []
        thread = threading.Thread(target=checkout, args=(pool, handles))
        thread.start()
        thread.join()
        return pool, open_ones, handles

    interrupt_every_line(
        make, lambda pool, _: pool.reap(), least=60, drop_handles=False
    )


def test_a_checkout_that_has_its_pool_looked_after(monkeypatch):
    """Whom it wakes does it all the same, at the latest for the next one."""
    monkeypatch.setattr("sa_reaperpool.holder._listeners", [])

    def make():
        pool, open_ones = stub_pool(
            reaping_frequency=3600, dead_connection_timeout=0
        )
        handles = []

        def fill_up():
            while len(handles) < SIZE:
                checkout(pool, handles)

        thread = threading.Thread(target=fill_up)
        thread.start()
        thread.join()
        return pool, open_ones, handles

    def scenario(pool, handles):
        got = []
        try:
            with contextlib.suppress(sa_reaperpool.CheckoutTimeout):
                # the other may have been faster
                got.append(pool.connect(timeout=0))
        finally:
            sys.settrace(None)
            for handle in got:
                handle.close()
            for handle in [pool.connect(timeout=20) for _ in range(SIZE)]:
                handle.close()

    interrupt_every_line(make, scenario, least=30, drop_handles=False)


def test_through_an_engine(tmp_path):
    """The real thing, on SQLite: connect, execute, commit, close."""

    def make():
        engine = create_engine(
            f"sqlite:///{tmp_path}/file.db",
            poolclass=ReaperPool,
            pool_size=SIZE,
            max_overflow=0,
            pool_timeout=0,
            reaping_frequency=None,
        )
        with engine.connect() as connection:
            connection.execute(text("select 1"))
        return engine.pool, [], [engine]

    def scenario(pool, handles):
        with handles[0].connect() as connection:
            connection.execute(text("select 1"))
            connection.commit()

    # in the frames is SQLAlchemy's Connection, that has the handle
    interrupt_every_line(make, scenario, least=100, drop_exception=True)


# reservations


def explicit_again(pool):
    """Let this thread look at a pool's slots one by one."""
    pool.settings = dataclasses.replace(pool.settings, reservation="explicit")


def reserving(use, drop_exception=False, **options):
    """Interrupt what reserves; nothing is reserved after it."""

    def scenario(pool, handles):
        try:
            use(pool, handles)
        finally:
            sys.settrace(None)
            # once more: the first line of a release, or of a close, is as
            # good as the one before the call
            pool.release_connection()
            for handle in reversed(handles):
                handle.close()
            assert pool.active_connection() is False
            explicit_again(pool)

    interrupt_every_line(
        lambda: (*stub_pool(**options), []),
        scenario,
        least=60,
        drop_exception=drop_exception,
    )


@contextlib.contextmanager
def connected(pool, handles):
    handle = pool.connect()
    handles.append(handle)
    try:
        yield handle
    finally:
        handle.close()


def test_with_connection():
    def use(pool, handles):
        with pool.with_connection() as handle:
            handle.cursor()
            with pool.with_connection() as again:
                assert again is handle
            handle.commit()

    reserving(use)


def test_connection_and_its_release():
    def use(pool, handles):
        try:
            pool.connection().cursor()
        finally:
            pool.release_connection()

    reserving(use)


@pytest.mark.parametrize("reservation", ["explicit", "thread"])
def test_end_of_a_request(reservation):
    def use(pool, handles):
        request = Request()
        token = REQUEST.set(request)
        try:
            with pool.with_connection() as handle:
                execute(handle)
            execute(pool.connection())
            request.end()
        finally:
            sys.settrace(None)
            # whatever is left is as good as not ended so far
            request.end()
            REQUEST.reset(token)

    reserving(use, reservation=reservation)


def test_joins():
    def use(pool, handles):
        with connected(pool, handles) as outer:
            execute(outer)
            with connected(pool, handles) as inner:
                execute(inner)
                inner.commit()
                execute(inner)
                inner.rollback()
            outer.rollback()

    reserving(use, reservation="thread")


def test_a_block_inside_of_a_joins_work():
    def use(pool, handles):
        with pool.with_connection():
            with connected(pool, handles) as inner:
                execute(inner)
                with pool.with_connection() as handle:
                    execute(handle)
                    handle.commit()
                inner.commit()

    reserving(use, reservation="thread")


def test_an_interrupted_join_keeps_all_or_nothing(tmp_path):
    path = tmp_path / "rows.db"

    def connect():
        return sqlite3.connect(path, check_same_thread=False)

    def insert(handle, row):
        with contextlib.closing(handle.cursor()) as cursor:
            cursor.execute(f"insert into rows values ({row})")

    def make():
        with contextlib.closing(connect()) as plain:
            plain.execute("drop table if exists rows")
            plain.execute("create table rows (n integer)")
        pool = ReaperPool(connect, SIZE, 0, timeout=0, reservation="thread")
        return pool, [], []

    def scenario(pool, handles):
        try:
            with connected(pool, handles) as outer:
                insert(outer, 1)
                with connected(pool, handles) as inner:
                    insert(inner, 2)
                    inner.commit()
                    insert(inner, 3)
                    inner.rollback()
                outer.commit()
                insert(outer, 4)
        finally:
            sys.settrace(None)
            for handle in reversed(handles):
                handle.close()
            with contextlib.closing(connect()) as plain:
                found.append(plain.execute("select n from rows").fetchall())
            explicit_again(pool)

    found = []
    interrupt_every_line(make, scenario, least=200)
    assert [each for each in found if each not in ([], [(1,), (2,)])] == []
    assert found.count([]) > 100 and found.count([(1,), (2,)]) > 20


@pytest.mark.parametrize("verb", ["invalidate", "detach"])
def test_a_reservation_that_takes_its_connection_away(verb):
    def use(pool, handles):
        handle = pool.connection()
        handles.append(handle)
        execute(handle)
        getattr(handle, verb)()
        handle.close()

    # as in test_invalidate_and_detach()
    reserving(use, drop_exception=True)
