"""Blocks within the block that reserved: all of its promises, by few looks.

What a pool looks at for them is more than once a copy of what is known
elsewhere, so that each way in which a reservation ends or changes has to
be seen here as well.
"""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import weakref

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import PendingRollbackError
from stub import PATIENCE
from stub import Driver
from stub import Gate
from stub import StubError
from stub import Task
from stub import execute

import sa_reaperpool
from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import ReaperPool
from sa_reaperpool import using
from sa_reaperpool.request import REQUEST
from sa_reaperpool.request import Request


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture(params=["explicit", "thread"])
def pool(request, driver):
    pool = ReaperPool(
        driver.connect,
        pool_size=2,
        max_overflow=0,
        timeout=0,
        reaping_frequency=None,
        reservation=request.param,
    )
    yield pool
    pool.release_connection()
    assert pool.leases() == ()
    assert pool.active_connection() is False


@pytest.fixture
def slow(monkeypatch):
    """The blocks that took more than a few looks, by their numbers."""
    taken = []
    enter = using.Using._enter

    def counted(self):
        taken.append(self)
        return enter(self)

    monkeypatch.setattr(using.Using, "_enter", counted)
    return taken


def number_of(handle):
    return handle.dbapi_connection.number


def test_only_the_first_takes_more_than_looks(pool, slow):
    with pool.with_connection() as outer:
        for _ in range(3):
            with pool.with_connection() as inner:
                assert inner is outer
                with pool.with_connection(timeout=1) as third:
                    assert third is outer
                assert pool.connection() is outer
    assert len(slow) == 1
    handle = pool.connection()
    execute(handle)
    with pool.with_connection() as inner:
        # the work that has begun is this one's own
        assert inner is handle
    assert len(slow) == 1


def test_the_outermost_releases(pool, driver):
    with pool.with_connection() as outer:
        with pool.with_connection():
            with pool.with_connection():
                pass
            assert outer.is_valid and pool.active_connection()
        assert outer.is_valid
    assert not outer.is_valid
    assert pool.checkedout() == 0
    assert driver.connections[0].calls == ["rollback"]


@pytest.mark.parametrize("error", [StubError, KeyboardInterrupt])
def test_an_exception_inside(pool, error):
    with pool.with_connection() as outer:
        with pytest.raises(error):
            with pool.with_connection():
                raise error
        assert pool.connection() is outer
        assert outer.is_valid
    assert pool.checkedout() == 0


# what ends meanwhile


def test_taken_back_meanwhile(pool):
    with pool.with_connection() as outer:
        with pool.with_connection():
            Task(pool.disconnect).result()
            # who has not been told gets it, to be told
            with pool.with_connection() as inner:
                assert inner is outer
                with pytest.raises(ConnectionReclaimed):
                    inner.cursor()
            with pool.with_connection() as another:
                assert number_of(another) == 2
            assert pool.checkedout() == 0


@pytest.mark.parametrize("end", ["close", "invalidate", "detach"])
def test_ended_by_its_user_meanwhile(pool, end):
    with pool.with_connection() as outer:
        with pool.with_connection() as inner:
            getattr(inner, end)()
            with pool.with_connection() as another:
                assert another is not outer
                assert pool.connection() is another
            assert not pool.active_connection()
        # what another one reserved is none of the outermost's to release
        later = pool.connection()
    assert pool.connection() is later
    outer.close()


def test_released_meanwhile(pool):
    with pool.with_connection() as outer:
        with pool.with_connection():
            assert pool.release_connection()
            assert not outer.is_valid
            with pool.with_connection() as another:
                assert another is not outer and another.is_valid
            assert pool.checkedout() == 0
    assert pool.checkedout() == 0


def test_nothing_is_kept_by_what_is_looked_at(pool):
    with pool.with_connection() as handle:
        entry = weakref.ref(handle._connection_record)
        ended = weakref.ref(handle)
    del handle
    pool.flush()
    gc.collect()
    assert (entry(), ended()) == (None, None)


def test_a_block_that_was_left_without_its_end(pool):
    """As one whose end is interrupted before its first line."""
    block = pool.with_connection()
    outer = block.__enter__()
    with pool.with_connection() as inner:
        assert inner is outer
    del block
    gc.collect()
    with pool.with_connection() as another:
        assert another is not outer
        assert not outer.is_valid
        assert pool.checkedout() == 1


# other threads


def test_another_thread_in_between(pool, slow):
    with pool.with_connection() as outer:
        with pool.with_connection() as inner:
            gate, done = Gate(), Gate()

            def use():
                with pool.with_connection() as theirs:
                    gate()
                    with pool.with_connection() as again:
                        assert again is theirs
                    done()
                    return number_of(theirs)

            task = Task(use)
            gate.wait()
            with pool.with_connection() as third:
                assert third is inner is outer
            gate.open()
            done.wait()
            with pool.with_connection() as third:
                assert third is outer
        done.open()
        assert task.result() != number_of(outer)
        assert outer.is_valid
    assert len(slow) == 2


def in_generator(pool):
    with pool.with_connection() as handle:
        yield handle


def test_left_by_a_generator_in_another_thread(pool):
    generator = in_generator(pool)
    theirs = Task(next, generator).result()
    mine = pool.connection()
    nested = in_generator(pool)
    assert next(nested) is mine
    # a nested block has nothing to give back, wherever it is left
    Task(nested.close).result()
    assert pool.connection() is mine and mine.is_valid
    Task(generator.close).result()
    assert not theirs.is_valid
    assert mine.is_valid
    assert pool.checkedout() == 1


def test_left_in_another_order(pool):
    """Blocks of generators, the outermost first."""
    outer, inner = in_generator(pool), in_generator(pool)
    handle = next(outer)
    assert next(inner) is handle
    outer.close()
    assert not handle.is_valid
    with pool.with_connection() as another:
        inner.close()
        assert another.is_valid
    assert pool.checkedout() == 0


# one object, several blocks


def test_one_object_is_used_again(pool):
    block = pool.with_connection()
    for _ in range(2):
        with block as alone:
            assert alone is pool.connection()
        assert pool.checkedout() == 0
        mine = pool.connection()
        with block as nested:
            assert nested is mine
        assert pool.connection() is mine
        pool.release_connection()


def test_one_object_is_entered_while_in_use(pool):
    mine = pool.connection()
    block = pool.with_connection()
    with block as first:
        with block as second:
            assert second is first is mine
            pool.release_connection()
            with block as third:
                assert third is not mine
            # made for the third, and so gone with it
            assert pool.checkedout() == 0
        assert pool.checkedout() == 0
    assert pool.checkedout() == 0


@pytest.mark.parametrize("theirs_first", [False, True])
def test_one_object_is_entered_by_others_meanwhile(pool, theirs_first):
    """By a thread for which it reserves, while it is nested in this one."""
    mine = pool.connection()
    block = pool.with_connection()
    gate = Gate()

    def use():
        with block as theirs:
            assert theirs is not mine
            gate()
            assert theirs.is_valid
        assert not theirs.is_valid
        return pool.active_connection()

    with block as inner:
        assert inner is mine
        task = Task(use)
        gate.wait()
        if theirs_first:
            gate.open()
            assert task.result() is False
    gate.open()
    assert task.result() is False
    assert pool.connection() is mine and mine.is_valid


def test_one_object_entered_by_many_threads_at_once(pool):
    """Each has a handle of its own, and gives it back."""
    pool.configure(pool_size=8)
    block = pool.with_connection()
    start = threading.Barrier(8)
    handles = []

    def use():
        start.wait(PATIENCE)
        for _ in range(20):
            with block as handle:
                assert pool.connection() is handle
                handles.append(handle)
            assert not handle.is_valid
            assert not pool.active_connection()

    for task in [Task(use) for _ in range(8)]:
        task.result()
    assert len(handles) == 160
    assert pool.checkedout() == 0


# others' work


def test_inside_of_others_work(driver, slow):
    pool = ReaperPool(driver.connect, 1, 0, reservation="thread")
    with pool.with_connection() as outer:
        with pool.with_connection():
            pass
        join = pool.connect()
        with pool.with_connection():
            # that it is there is nothing begun
            pass
        assert len(slow) == 1
        execute(join)
        with pool.with_connection() as inner:
            assert len(slow) == 2
            assert inner is outer
            execute(inner)
            with pool.with_connection() as third:
                assert third is outer
                execute(third)
            # in its turn, that is
            assert len(slow) == 2
            inner.commit()
        join.commit()
        join.close()
        with pool.with_connection():
            pass
        assert len(slow) == 2


def test_inside_of_a_join_that_its_thread_reserved(driver):
    pool = ReaperPool(driver.connect, 1, 0, reservation="thread")
    with pool.connect():
        join = pool.connection()
        with pool.with_connection() as inner:
            assert inner is join
            with pool.with_connection() as third:
                assert third is join
        assert pool.connection() is join
        pool.release_connection()
        assert not join.is_valid


def test_in_a_request(pool):
    """There, what a thread has of its own is not to be found."""
    with pool.with_connection() as outer:
        token = REQUEST.set(Request())
        try:
            with pool.with_connection() as theirs:
                assert (theirs is outer) is False
                with pool.with_connection() as again:
                    assert again is theirs
        finally:
            REQUEST.reset(token)
        with pool.with_connection() as inner:
            assert inner is outer


# of an engine


@pytest.fixture
def engine(tmp_path):
    engine = create_engine(
        f"sqlite:///{tmp_path}/file.db",
        poolclass=ReaperPool,
        pool_size=1,
        max_overflow=0,
        reservation="thread",
    )
    yield engine
    assert engine.pool.checkedout() == 0


def test_of_an_engine(engine):
    block = sa_reaperpool.with_connection(engine)
    with block as outer:
        with block as inner, sa_reaperpool.with_connection(engine) as third:
            assert inner is outer is third
        outer.exec_driver_sql("select 1")
        with block as inner:
            assert inner is outer
        outer.rollback()
        # inside of what was begun since, it is another one
        with engine.connect() as other:
            with block as inner:
                assert inner is outer
            other.exec_driver_sql("select 1")
            with block as inner:
                assert inner is not outer
                with block as again:
                    assert again is inner
        with block as inner:
            assert inner is outer
            inner.close()
        with sa_reaperpool.with_connection(engine) as another:
            assert another is not outer
            another.invalidate()
            assert engine.pool.checkedout() == 0
            with sa_reaperpool.with_connection(engine) as again:
                # who opens another one at its next use
                assert again is another
                again.exec_driver_sql("select 1")
        assert engine.pool.checkedout() == 0


def test_of_an_engine_and_left_without_its_end(engine):
    block = sa_reaperpool.with_connection(engine)
    outer = block.__enter__()
    del block
    gc.collect()
    with sa_reaperpool.with_connection(engine) as another:
        assert another is not outer and outer.closed


def test_of_an_engine_invalid_and_left_without_its_end(engine):
    """As where one interruption meets a statement, and another the end."""
    block = sa_reaperpool.with_connection(engine)
    outer = block.__enter__()
    outer.exec_driver_sql("select 1")
    outer.invalidate()
    with sa_reaperpool.with_connection(engine) as inner:
        # of whom it is to hear that his work is lost
        assert inner is outer
        with pytest.raises(PendingRollbackError):
            inner.exec_driver_sql("select 1")
    del block
    gc.collect()
    with sa_reaperpool.with_connection(engine) as another:
        assert another is not outer and outer.closed
        another.exec_driver_sql("select 1")
    assert engine.pool.checkedout() == 0


def test_of_an_engine_and_closed_after_it_was_taken_back(engine):
    with sa_reaperpool.with_connection(engine) as outer:
        engine.pool.disconnect()
        with sa_reaperpool.with_connection(engine) as inner:
            assert inner is outer
            inner.close()
        with sa_reaperpool.with_connection(engine) as another:
            assert not another.closed


# interruptions


class Interrupter:
    """Raises KeyboardInterrupt at the nth line of the package's code."""

    def __init__(self, nth):
        self.left = nth

    def __call__(self, frame, event, arg):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
        return self


PACKAGE = sa_reaperpool.__file__.removesuffix("__init__.py")


def nested_in(pool, block):
    with block as inner:
        with block as again:
            assert again is inner
        with pool.with_connection():
            pass


def test_an_interrupted_block_can_be_used_again(pool):
    block = pool.with_connection()
    for nth in itertools.count(1):
        mine = pool.connection()
        interrupter = Interrupter(nth)
        try:
            sys.settrace(interrupter)
            nested_in(pool, block)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        # what was reserved around it is, and alone
        assert pool.connection() is mine and mine.is_valid, nth
        nested_in(pool, block)
        assert pool.checkedout() == 1, nth
        pool.release_connection()
        nested_in(pool, block)
        assert pool.checkedout() == 0, nth
        if interrupter.left > 0:
            break
    assert nth > 40
