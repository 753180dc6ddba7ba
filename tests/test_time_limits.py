"""How long a checkout may take, and the error when that is over."""

from __future__ import annotations

from time import monotonic

import pytest
from rounds import Clock
from sqlalchemy import create_engine
from sqlalchemy.exc import TimeoutError as SQLAlchemyTimeout
from stub import Driver
from stub import StubDialect
from stub import StubError
from stub import Task
from stub import until

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ReaperPool


@pytest.fixture
def driver():
    return Driver()


def a_pool(driver, **options):
    options = {
        "pool_size": 2,
        "max_overflow": 0,
        "timeout": 0,
        "reaping_frequency": None,
        **options,
    }
    return ReaperPool(driver.connect, **options)


def test_the_error_says_what_was_the_matter(driver):
    pool = a_pool(
        driver,
        pool_size=1,
        max_overflow=1,
        timeout=0.02,
        logging_name="books",
    )
    handles = [pool.connect(), pool.connect()]
    started = monotonic()
    with pytest.raises(CheckoutTimeout) as caught:
        pool.connect()
    elapsed = monotonic() - started
    error = caught.value
    assert isinstance(error, SQLAlchemyTimeout)
    assert 0.02 <= error.waited <= elapsed
    assert (error.limit, error.size, error.overflow) == (0.02, 1, 1)
    assert (error.waiting, error.logging_name) == (0, "books")
    message = str(error)
    # what people look for in their logs
    assert (
        "QueuePool limit of size 1 overflow 1 reached, connection timed "
        "out, timeout 0.02 (waited 0.0"
    ) in message
    assert "pool 'books'" in message
    # SQLAlchemy's own page on this
    assert "sqlalche.me" in message and "3o7r" in message
    assert len(handles) == 2


def test_the_error_counts_the_others_that_wait(driver):
    pool = a_pool(driver, pool_size=1)
    handle = pool.connect()
    tasks = [Task(pool.connect, timeout=None) for _ in range(3)]
    until(lambda: pool.stats().waiting == 3)
    with pytest.raises(CheckoutTimeout) as caught:
        pool.connect(timeout=0.001)
    assert caught.value.waiting == 3
    handle.close()
    for task in tasks:
        task.result().close()


def limit_of(call, *args, **kwargs):
    with pytest.raises(CheckoutTimeout) as caught:
        call(*args, **kwargs)
    assert caught.value.waited >= caught.value.limit
    return caught.value.limit


def test_time_limit_for_one_use(driver):
    pool = a_pool(driver, pool_size=1, timeout=0.003)
    handle = pool.connect(timeout=5)
    assert limit_of(pool.connect) == 0.003
    assert limit_of(pool.connect, timeout=0.001) == 0.001
    assert limit_of(pool.connect, timeout=0) == 0
    # not for the next one as well
    assert limit_of(pool.connect) == 0.003
    handle.close()


def test_time_limit_for_a_block(driver):
    pool = a_pool(driver, pool_size=1, timeout=0.003)
    handle = pool.connect()
    with pool.checkout_timeout(0.001):
        assert limit_of(pool.connect) == 0.001
        assert limit_of(pool.connect, timeout=0.004) == 0.004
        with pool.checkout_timeout(0.002):
            assert limit_of(pool.connect) == 0.002
        assert limit_of(pool.connect) == 0.001
        # other threads have their own
        assert Task(limit_of, pool.connect).result() == 0.003
    assert limit_of(pool.connect) == 0.003
    with pytest.raises(StubError):
        with pool.checkout_timeout(0.001):
            raise StubError
    assert limit_of(pool.connect) == 0.003
    handle.close()


def test_time_limit_of_a_block_is_that_pools(driver):
    pool, other = a_pool(driver, timeout=0.003), a_pool(driver, timeout=0.002)
    handles = [each.connect() for each in (pool, pool, other, other)]
    with pool.checkout_timeout(0.001):
        assert limit_of(other.connect) == 0.002
    assert len(handles) == 4


def test_time_limit_reaches_through_an_engine(tmp_path):
    engine = create_engine(
        f"sqlite:///{tmp_path}/a.db",
        poolclass=ReaperPool,
        pool_size=1,
        max_overflow=0,
    )
    with engine.connect(), engine.pool.checkout_timeout(0.001):
        assert limit_of(engine.connect) == 0.001
    engine.dispose()


@pytest.mark.parametrize("how", ["argument", "block"])
def test_none_waits_for_as_long_as_it_takes(driver, how):
    pool = a_pool(driver, pool_size=1, timeout=0)
    handle = pool.connect()

    def wait():
        if how == "argument":
            return pool.connect(timeout=None)
        with pool.checkout_timeout(None):
            return pool.connect()

    task = Task(wait)
    until(lambda: pool.stats().waiting == 1)
    handle.close()
    task.result().close()


class NoTurnToConnect:
    """Nobody may connect; how long each was to wait, in order."""

    def __init__(self, pool, clock, monkeypatch):
        self.asked = []
        self.when_first_asked = lambda: None
        pool.queue.allow_making(0)
        wait = pool.queue._wait

        def wait_a_little(waiter, timeout, line_up):
            self.asked.append(timeout)
            if len(self.asked) == 1:
                clock.now += 9
                self.when_first_asked()
                return wait(waiter, timeout, line_up)
            clock.now += max(timeout, 0)
            return wait(waiter, 0, line_up)

        monkeypatch.setattr(pool.queue, "_wait", wait_a_little)


def test_time_limit_covers_the_turn_to_connect(driver, monkeypatch):
    clock = Clock(monkeypatch)
    pool = ReaperPool(
        driver.connect, 1, 0, 10, max_connecting=1, dialect=StubDialect()
    )
    handle = pool.connect()
    entry = handle._connection_record
    turn = NoTurnToConnect(pool, clock, monkeypatch)

    def give_back_a_dead_one():
        handle.close()
        entry.traffic_at = 0
        pool._dialect.dead.add(1)

    turn.when_first_asked = give_back_a_dead_one
    with pytest.raises(CheckoutTimeout) as caught:
        pool.connect()
    assert turn.asked == [10, 1]
    assert (caught.value.limit, caught.value.waited) == (10, 10)


def test_time_limit_is_none_of_an_earlier_checkouts(driver, monkeypatch):
    clock = Clock(monkeypatch)
    pool = a_pool(driver, timeout=10, max_connecting=1, min_idle=1)
    handle = pool.connect()
    clock.now += 3600
    turn = NoTurnToConnect(pool, clock, monkeypatch)
    turn.asked.append("for nothing")
    for open_one in (pool.wait_ready, pool.connect):
        with pytest.raises(CheckoutTimeout):
            open_one()
    assert turn.asked[1:] == [10, 10]
    handle.close()
