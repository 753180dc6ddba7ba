"""Returns by finalisers and handlers where a reset must not run.

A ``with`` block in a generator that nobody goes on with is left by the
garbage collector, at any moment: in a section of the queue's, whose lock all
checkouts need, or in the reaper's own thread, which all pools need.
"""

from __future__ import annotations

import gc
import sqlite3
import threading

import pytest
from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy import text
from sqlalchemy.orm import Session
from stub import Driver
from stub import HookedLock
from stub import StubError
from stub import Task
from stub import until

from sa_reaperpool import ReaperPool
from sa_reaperpool.reaper import reaper

HELPER = "sa_reaperpool helper"


@pytest.fixture
def driver():
    return Driver()


def a_pool(driver, **options):
    options = {"reaping_frequency": None, "timeout": 0, **options}
    pool = ReaperPool(driver.connect, pool_size=2, max_overflow=0, **options)
    pool.connect().close()
    return pool


@pytest.fixture
def done(driver):
    """By which thread what was done, and was it in the queue's lock?"""
    seen = []

    def note(connection):
        seen.append(
            (
                threading.current_thread().name,
                any(queue.locked_here() for queue in seen_queues),
            )
        )

    seen_queues = []
    driver.when_reset = driver.when_closed = note
    yield lambda queue: seen_queues.append(queue) or seen
    driver.when_reset = driver.when_closed = lambda connection: None


HERE = (threading.current_thread().name, False)


def left_block(pool):
    """What leaves a block around a generator's ``yield``."""

    def rows():
        with pool.connect() as handle:
            yield handle

    generator = rows()
    next(generator)
    return generator.close


def unusual(pool):
    event.listen(pool, "checkin", lambda *args: None)
    return pool.connect().close


def used_twice(pool):
    handle = pool.connect()
    handle._checkout_existing()
    handle.close()
    return handle.close


def parted(pool):
    handle = pool.connection()
    handle.detach()
    return handle.close


def detached(pool):
    handle = pool.connect()
    handle.detach()
    return handle.close


ENDS = {
    "a block in a generator": left_block,
    "the short way": lambda pool: pool.connect().close,
    "the long way": unusual,
    "used twice": used_twice,
    "reserved": lambda pool: pool.connection().close,
    "release": lambda pool: pool.connection() and pool.release_connection,
    "invalidate": lambda pool: pool.connect().invalidate,
    "detached before": detached,
    "reserved and detached before": parted,
}


@pytest.mark.parametrize("what", ENDS)
def test_nothing_is_reset_in_the_queues_lock(driver, done, what):
    pool = a_pool(driver)
    end = ENDS[what](pool)
    seen = done(pool.queue)
    del seen[:]
    lock = pool.queue._lock = HookedLock()
    given = []
    lock.hooks["begin"] = lambda: given.append(end())
    pool.queue.entries()
    assert given == [True if what == "release" else None]
    assert seen, "it was not done in the end"
    assert set(seen) == {HERE}
    assert pool.stats().in_use == 0
    assert pool._leases == {}
    # nothing was lost, nor is there too much
    for handle in [pool.connect(), pool.connect()]:
        handle.close()
    assert pool.queue.live() == 2


def test_the_lease_lasts_until_then(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    lock = pool.queue._lock = HookedLock()

    def end():
        handle.close()
        seen.append((handle.leased, len(driver.connections[0].calls)))
        # as a second one does at any time
        handle.close()

    seen = []
    before = len(driver.connections[0].calls)
    lock.hooks["begin"] = end
    pool.queue.entries()
    assert seen == [(True, before)]
    assert driver.connections[0].calls[before:] == ["rollback"]
    assert not handle.is_valid
    assert pool.checkedin() == 1


def test_taken_back_before_it_came_to_it(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    lock = pool.queue._lock = HookedLock()
    lock.hooks["begin"] = handle.close
    lock.hooks["end"] = lambda: pool.take_back(
        handle.lease, "reclaimed", "a test"
    )
    [connection] = driver.connections
    del connection.calls[:]
    pool.queue.entries()
    assert (connection.calls, connection.closed) == ([], True)
    assert pool.stats().in_use == 0


def test_a_detach_needs_no_delay(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    lock = pool.queue._lock = HookedLock()
    lock.hooks["begin"] = handle.detach
    pool.queue.entries()
    assert handle.is_detached
    handle.cursor().execute("SELECT 1")
    assert pool.queue.live() == 1
    handle.close()
    assert driver.connections[0].closed


def test_an_error_is_nobodys_who_has_nothing_to_do_with_it(driver, caplog):
    def fail(*args):
        raise StubError("a listener's")

    pool = a_pool(driver)
    event.listen(pool, "checkin", fail)
    handle = pool.connect()
    lock = pool.queue._lock = HookedLock()
    lock.hooks["begin"] = handle.close
    pool.queue.entries()
    assert "StubError: a listener's" in caplog.text
    assert pool.stats().in_use == 0


class Stop(BaseException):
    """As a signal's handler may raise."""


def test_an_interruption_loses_no_slot(driver):
    def interrupt(connection):
        raise Stop

    pool = a_pool(driver)
    handle = pool.connect()
    lock = pool.queue._lock = HookedLock()
    lock.hooks["begin"] = handle.close
    driver.when_reset = interrupt
    with pytest.raises(Stop):
        pool.queue.entries()
    driver.when_reset = lambda connection: None
    assert pool._leases == {}
    assert driver.open_ones == []
    for each in [pool.connect(), pool.connect()]:
        each.close()
    assert not pool.queue.unsettled()


def test_interrupted_before_it_came_to_it(driver, monkeypatch):
    """The handle is still there, and nobody else would return it."""

    def interrupted(task):
        monkeypatch.undo()
        raise Stop

    pool = a_pool(driver)
    handle = pool.connect()
    lock = pool.queue._lock = HookedLock()
    lock.hooks["begin"] = handle.close
    monkeypatch.setattr(pool, "_do_outside", interrupted)
    with pytest.raises(Stop):
        pool.queue.entries()
    assert (handle.leased, pool.has_lost()) == (True, True)
    pool.recover_lost()
    assert (handle.is_valid, pool.has_lost()) == (False, False)
    assert pool.checkedin() == 1


# the reaper's rooms


class Tended:
    """A pool for whom the reaper's own thread does something."""

    frequency = 60
    has_leases = False

    def __init__(self, task):
        self._task = task

    def tend_leases(self, now, submit):
        pass

    def tend(self, now, submit):
        task, self._task = self._task, int
        task()


ENDS_OF_A_LEASE = [name for name in ENDS if name != "release"]


@pytest.mark.parametrize("what", ENDS_OF_A_LEASE)
def test_nothing_is_reset_in_the_reapers_thread(driver, done, what):
    pool = a_pool(driver)
    seen = done(pool.queue)
    tended = Tended(ENDS[what](pool))
    del seen[:]
    assert reaper.look_after(tended)
    until(lambda: seen)
    until(lambda: not pool._leases)
    assert set(seen) == {(HELPER, False)}
    assert pool.queue.live() == len(pool.idle_entries())


# what SQLAlchemy rolls back before it closes


def begun_in(around):
    """Ends a generator's block, in which a transaction was begun."""

    def rows():
        with around as inner:
            inner.execute(text("SELECT 1"))
            yield inner

    generator = rows()
    next(generator)
    return generator.close


BEGUN = {
    "connection": lambda engine: begun_in(engine.connect()),
    "begin": lambda engine: begun_in(engine.begin()),
    "session": lambda engine: begun_in(Session(engine)),
}


class Rollbacks(sqlite3.Connection):
    """One whose rollback() can be another."""

    def rollback(self):
        super().rollback()


@pytest.fixture
def engine():
    engine = create_engine(
        "sqlite://",
        poolclass=ReaperPool,
        creator=lambda: sqlite3.connect(
            ":memory:", check_same_thread=False, factory=Rollbacks
        ),
        reaping_frequency=None,
        pool_size=1,
        max_overflow=0,
        pool_timeout=0,
    )
    engine.connect().close()
    yield engine
    engine.dispose()


@pytest.mark.parametrize("what", BEGUN)
def test_a_transaction_is_rolled_back_outside_of_the_lock(
    engine, monkeypatch, what
):
    pool = engine.pool
    seen = []
    monkeypatch.setattr(
        Rollbacks,
        "rollback",
        lambda self: seen.append(pool.queue.locked_here()),
    )
    end = BEGUN[what](engine)
    lock = pool.queue._lock = HookedLock()
    lock.hooks["begin"] = end
    del seen[:]
    pool.queue.entries()
    assert seen == [False]
    assert pool.stats().in_use == 0
    engine.connect().close()


def test_a_sessions_own_connection_is_rolled_back_at_once(
    engine, monkeypatch
):
    """It lives on, and what follows is not to be undone with the rest."""
    pool = engine.pool
    seen = []
    with engine.connect() as connection:
        session = Session(connection)
        session.execute(text("SELECT 1"))
        monkeypatch.setattr(
            Rollbacks,
            "rollback",
            lambda self: seen.append(pool.queue.locked_here()),
        )
        lock = pool.queue._lock = HookedLock()
        lock.hooks["begin"] = session.close
        pool.queue.entries()
        assert seen == [True]


def test_a_rollback_of_ones_own_is_done_at_once(engine, monkeypatch):
    pool = engine.pool
    seen = []
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        monkeypatch.setattr(
            Rollbacks,
            "rollback",
            lambda self: seen.append(pool.queue.locked_here()),
        )
        lock = pool.queue._lock = HookedLock()
        lock.hooks["begin"] = connection.rollback
        pool.queue.entries()
        assert seen == [True]


def test_a_frozen_peer_does_not_keep_the_reaper(driver):
    """A generator in a cycle, collected by the reaper's thread."""
    frozen, met = threading.Event(), threading.Event()

    def freeze(connection):
        met.set()
        assert frozen.wait(20)

    def rows(cycle):
        with pool.connect() as handle:
            yield handle

    def abandon():
        cycle = []
        cycle.append(rows(cycle))
        next(cycle[0])

    pool = a_pool(driver)
    driver.when_reset = freeze
    abandon()
    went_on = threading.Event()
    first, second = Tended(gc.collect), Tended(went_on.set)
    assert reaper.look_after(first)
    assert met.wait(20)
    reaper.look_after(second)
    assert went_on.wait(20)
    frozen.set()
    until(lambda: not pool._leases)


@pytest.fixture
def lock(monkeypatch):
    """The one of the reaper's rooms."""
    lock = HookedLock()
    monkeypatch.setattr(reaper, "_lock", lock)
    monkeypatch.setattr(reaper._crew, "_lock", lock)
    return lock


def test_nothing_is_reset_by_who_asks_for_the_reaper(driver, done, lock):
    pool = a_pool(driver)
    seen = done(pool.queue)
    handle = pool.connect()
    del seen[:]

    def here():
        if threading.current_thread() is threading.main_thread():
            handle.close()
        else:
            lock.hooks["begin"] = here

    lock.hooks["begin"] = here
    keeps_it_going = Tended(int)
    assert reaper.look_after(keeps_it_going)
    until(lambda: not pool._leases)
    assert set(seen) == {(HELPER, False)}


def test_nothing_is_reset_in_a_helpers_section(driver, done, lock):
    pool = a_pool(driver)
    seen = done(lock)
    lock.locked_here = lock._is_owned
    handle = pool.connect()
    del seen[:]

    def in_helper():
        if threading.current_thread().name == HELPER:
            handle.close()
        else:
            lock.hooks["begin"] = in_helper

    def task():
        lock.hooks["begin"] = in_helper

    keeps_it_going = Tended(int)
    assert reaper.look_after(keeps_it_going)
    reaper.run_soon(pool, task)
    until(lambda: not pool._leases)
    assert set(seen) == {(HELPER, False)}


def test_put_off_once_more_where_the_reaper_comes_to_it(driver, done):
    """It may be the first to settle the queue after a section."""
    pool = a_pool(driver)
    seen = done(pool.queue)
    handle = pool.connect()
    lock = pool.queue._lock = HookedLock()
    del seen[:]
    lock.hooks["begin"] = handle.close
    # once it is out of the section, this thread is in the reaper's room
    lock.hooks["end"] = reaper._lock.acquire
    keeps_it_going = Tended(int)
    assert reaper.look_after(keeps_it_going)
    pool.queue.entries()
    assert seen == []
    reaper._lock.release()
    until(lambda: not pool._leases)
    assert seen == [(HELPER, False)]


def test_a_signals_handler_in_a_section(driver, done):
    """As a finaliser: by the thread itself, in the midst of it."""
    pool = a_pool(driver)
    seen = done(pool.queue)
    handle = Task(pool.connect).result()
    del seen[:]
    lock = pool.queue._lock = HookedLock()
    lock.hooks["end"] = handle.close
    pool.stats()
    pool.queue.entries()
    assert seen == [HERE]
