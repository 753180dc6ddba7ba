"""What happens around the pool: logs, listeners, handlers, odd drivers.

Each of these once cost a connection, a slot or somebody else's checkout.
"""

from __future__ import annotations

import gc
import logging
import sqlite3
import threading

import pytest
from rounds import Clock
from rounds import a_pool
from rounds import work
from sqlalchemy import event
from stub import PATIENCE
from stub import Driver
from stub import Gate
from stub import HookedLock
from stub import StubError
from stub import Task
from stub import in_ended_thread
from stub import until

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ReaperPool
from sa_reaperpool import liveness


@pytest.fixture
def driver():
    return Driver()


def one(driver, **options):
    """A pool of one connection, that reaps without grace."""
    options = {"dead_connection_timeout": 0, **options}
    return a_pool(driver, pool_size=1, max_overflow=0, **options)


def test_a_log_handler_may_use_the_pool(driver):
    """The report of a reap comes after the slot is free."""

    class Handler(logging.Handler):
        def emit(self, record):
            if "took back" in record.getMessage():
                seen.append(pool.connect(timeout=0))

    seen = []
    pool = one(driver)
    handler = Handler()
    logger = logging.getLogger("sqlalchemy.pool.impl.ReaperPool")
    logger.addHandler(handler)
    try:
        kept = in_ended_thread(pool.connect)
        assert pool.reap() == 1
    finally:
        logger.removeHandler(handler)
    assert len(seen) == 1
    kept.close()


@pytest.mark.parametrize("name", ["dbapi_connection", "driver_connection"])
def test_taking_the_raw_connection_out_is_a_use(driver, monkeypatch, name):
    clock = Clock(monkeypatch)
    pool = one(driver, dead_connection_timeout=5)
    handle = in_ended_thread(pool.connect)
    for _ in range(10):
        clock.now += 4
        getattr(handle, name).rollback()
        work(pool, clock)
    assert pool.stats().in_use == 1
    # but whoever merely looked is no holder
    clock.now += 6
    assert pool.reap() == 1


def test_a_cursor_that_raises_keeps_no_other_lease(driver):
    class Odd:
        @property
        def closed(self):
            raise StubError("odd")

    pool = a_pool(driver, pool_size=2, dead_connection_timeout=0)
    odd, other = (in_ended_thread(pool.connect) for _ in range(2))
    cursor = Odd()
    (lease,) = (x for x in pool._leases.values() if x() is odd)
    lease.watch(cursor)

    assert pool.reap() == 1
    assert pool.stats().in_use == 1
    other.close()
    pool.connect(timeout=0).close()


def test_closed_and_finished_cursors_of_sqlite():
    connection = sqlite3.connect(":memory:")
    cursor = connection.execute("select 1 union select 2")
    assert liveness.cursor_open(cursor)
    cursor.fetchone()
    assert liveness.cursor_open(cursor)
    cursor.fetchall()
    assert not liveness.cursor_open(cursor)
    cursor = connection.execute("select 1 union select 2")
    cursor.close()
    assert not liveness.cursor_open(cursor)


@pytest.mark.parametrize("verb", ["invalidate", "close"])
def test_a_checkout_listener_may_end_the_checkout(driver, verb):
    pool = one(driver)

    @event.listens_for(pool, "checkout", once=True)
    def end(connection, record, handle):
        getattr(handle, verb)()

    pool.connect()
    gc.collect()
    pool.connect(timeout=0).close()
    assert pool.stats().in_use == 0


def test_a_handler_inside_the_queues_lock_does_not_wait_there(driver):
    """A signal's handler, say: its thread would sleep with the lock."""

    def handler():
        with pytest.raises(CheckoutTimeout):
            pool.connect(timeout=None)
        ran.append(True)

    ran = []
    pool = one(driver)
    handle = pool.connect()
    lock = pool.queue._lock = HookedLock()
    lock.hooks["begin"] = handler
    pool.stats()
    assert ran == [True]
    handle.close()
    pool.connect(timeout=0).close()


def test_a_listeners_checkout_has_a_time_limit_of_its_own(driver):
    pool = a_pool(driver, pool_size=2, max_overflow=0, timeout=None)
    held = pool.connect()
    limits = []

    @event.listens_for(pool, "connect", once=True)
    def nested(connection, record):
        with pytest.raises(CheckoutTimeout) as caught:
            pool.connect(timeout=0)
        limits.append(caught.value.limit)
        limits.append(pool._checkouts.limit(None))

    other = pool.connect(timeout=7)
    assert limits == [0, 7]
    assert pool._checkouts.current is None
    held.close()
    other.close()


def test_a_disposed_pool_opens_nothing(driver, monkeypatch):
    clock = Clock(monkeypatch)
    pool = a_pool(driver, min_idle=3)
    handle = pool.connect()
    work(pool, clock)
    assert pool.stats().idle == 3
    pool.dispose()
    opened = driver.connects
    work(pool, clock, 100)
    assert driver.connects == opened
    handle.close()
    # what was out at the dispose() goes with the next round
    work(pool, clock)
    assert pool.stats().idle == 0
    pool.connect().close()
    work(pool, clock)
    assert pool.stats().idle == 3


def test_a_listener_that_raises_leaves_no_transaction_open(driver):
    pool = one(driver)
    kept = in_ended_thread(pool.connect)

    @event.listens_for(pool, "invalidate", once=True)
    def fail(connection, record, error):
        raise StubError("no")

    assert pool.reap() == 1
    assert driver.connections[0].closed
    kept.close()


def test_a_frozen_close_delays_only_its_own_slot(driver):
    """Who waits is served by the first slot that comes free."""
    pool = ReaperPool(
        driver.connect,
        pool_size=2,
        max_overflow=0,
        dead_connection_timeout=0,
        reaping_frequency=3600,
    )
    gate = Gate()
    mine = pool.connect()
    driver.when_closed = gate
    kept = in_ended_thread(pool.connect)
    gate.wait()
    waiting = Task(pool.connect, timeout=None)
    until(lambda: pool.stats().waiting == 1)
    mine.close()
    waiting.result().close()
    gate.open()
    until(lambda: pool.stats().in_use == 0)
    kept.close()


def test_a_reaper_that_is_slow_to_start_delays_nobody_else(
    driver, monkeypatch
):
    """Only the one who starts it waits for it, maybe for ever."""
    gate = Gate()
    real = threading.Thread.start
    starts = []

    def start(self):
        if self.name == "sa_reaperpool reaper" and not starts:
            starts.append(1)
            gate()
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        patch.setattr("sa_reaperpool.reaper.reaper._thread", None)
        slow = Task(ReaperPool(driver.connect).connect)
        gate.wait()
        quick = Task(ReaperPool(driver.connect).connect)
        # less than the gate's patience
        quick.join(PATIENCE / 2)
        gate.open()
        assert not quick.is_alive()
        quick.result().close()
        slow.result().close()


def test_no_thread_for_the_reaper_is_no_error(driver, monkeypatch):
    """As at interpreter exit; the next connect tries again."""

    def start(self):
        raise RuntimeError("can't create new thread")

    pool = ReaperPool(driver.connect, pool_size=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        # another pool's reaper may be there already
        patch.setattr("sa_reaperpool.reaper.reaper._thread", None)
        # undone at the end: it is not tried again for a while, else
        patch.setattr("sa_reaperpool.reaper.reaper._try_at", 0.0)
        pool.connect().invalidate()
        assert not pool.started
    pool.connect().close()
    assert pool.started
