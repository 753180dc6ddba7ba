"""The pool tells its times where an exporter wants them."""

from __future__ import annotations

import pytest
from rounds import Clock
from rounds import a_pool
from stub import Driver
from stub import StubError
from stub import Task
from stub import until

from sa_reaperpool.timings import BOUNDS
from sa_reaperpool.timings import Timings


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def driver():
    return Driver()


def measured(driver, **options):
    pool = a_pool(driver, **options)
    pool.timings = Timings()
    return pool


def seconds(pool, kind):
    """How many there are, by the bucket's end."""
    found = getattr(pool.timings.histograms(), kind)
    return {
        bound: count
        for bound, count in zip([*BOUNDS, None], found.counts)
        if count
    }


def test_use(driver, clock):
    pool = measured(driver)
    for held in (0.3, 0.4, 50.0):
        handle = pool.connect()
        clock.now += held
        handle.close()
    assert seconds(pool, "use") == {0.5: 2, None: 1}


def test_keeps_little(driver):
    """Though nobody reads, and all goes the short way."""
    pool = measured(driver)
    for _ in range(20000):
        pool.connect().close()
    # what comes in between two looks
    assert len(pool.timings._uses) < 10000
    found = pool.timings.histograms()
    assert sum(found.use.counts) == sum(found.wait.counts) == 20000


def test_use_of_what_is_invalidated_or_reaped(driver, clock):
    pool = measured(driver, dead_connection_timeout=0)
    handle = pool.connect()
    clock.now += 0.3
    handle.invalidate()
    handle = Task(pool.connect).result()
    clock.now += 0.3
    assert pool.reap() == 1
    assert seconds(pool, "use") == {0.5: 2}


def test_wait_and_create(driver, clock):
    pool = measured(driver)

    def connect_slowly():
        clock.now += 2

    driver.then(connect_slowly)
    pool.connect().close()
    pool.connect().close()
    assert seconds(pool, "create") == {2.5: 1}
    assert seconds(pool, "wait") == {BOUNDS[0]: 1, 2.5: 1}


def test_wait_in_line(driver, clock):
    pool = measured(driver, pool_size=1, max_overflow=0, timeout=None)
    handle = pool.connect()
    task = Task(pool.connect)
    until(lambda: pool.queue.waiting())
    clock.now += 7
    handle.close()
    task.result().close()
    assert seconds(pool, "wait") == {BOUNDS[0]: 1, 10.0: 1}


def test_nothing_of_what_fails(driver, clock):
    pool = measured(driver)
    driver.then(StubError("no"))
    with pytest.raises(StubError):
        pool.connect()
    assert seconds(pool, "wait") == seconds(pool, "create") == {}


def test_what_is_opened_in_the_background(driver, clock):
    pool = measured(driver, min_idle=2)
    pool.wait_ready()
    assert seconds(pool, "create") == {BOUNDS[0]: 2}
    assert seconds(pool, "wait") == {}
