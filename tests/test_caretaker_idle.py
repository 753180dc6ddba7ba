"""Acting on idle connections: retire, ping, refill, flush, refresh."""

from __future__ import annotations

import functools

import pytest
from rounds import Clock
from rounds import a_pool
from rounds import closed
from rounds import open_numbers
from rounds import returned
from rounds import work
from stub import Driver
from stub import Gate
from stub import StubError
from stub import Task
from stub import in_ended_thread

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import entries
from sa_reaperpool.liveness import Look


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def make(driver, clock):
    return functools.partial(a_pool, driver)


def test_max_age_in_the_background(make, clock, driver):
    pool = make(max_age=100)
    returned(pool, 2)
    work(pool, clock, 99)
    assert closed(pool) == {}
    work(pool, clock, 1)
    assert closed(pool) == {"age": 2}
    assert driver.open_ones == []


def test_jitter_is_drawn_once_for_each_connection(make, clock):
    pool = make(pool_size=40, max_age=100, jitter=0.2)
    returned(pool, 40)
    spreads = [entry.spread for entry in pool.idle_entries()]
    assert all(0 <= spread <= 0.2 for spread in spreads)
    assert len(set(spreads)) > 30
    ends = set()
    for second in range(101):
        clock.now = 1000.0 + second
        before = closed(pool).get("age", 0)
        work(pool, clock)
        if closed(pool).get("age", 0) > before:
            ends.add(second)
    assert closed(pool) == {"age": 40}
    assert min(ends) >= 80 and len(ends) > 5


def test_retirement_costs_no_borrower_a_connect(make, clock, driver):
    pool = make(max_age=100, min_idle=2)
    returned(pool, 2)
    work(pool, clock, 100)
    assert open_numbers(driver) == [3, 4]
    before = driver.connects
    pool.connect().close()
    assert driver.connects == before


def test_retiring_never_leaves_less_than_it_can(make, clock, driver):
    """One closed, one opened: a borrower finds one at any time."""
    pool = make(pool_size=3, max_age=100, min_idle=3)
    returned(pool, 3)
    idle = []
    driver.when_closed = lambda each: idle.append(pool.checkedin())
    work(pool, clock, 100)
    assert min(idle) >= 2
    assert closed(pool) == {"age": 3}


def test_idle_timeout_shrinks_to_min_idle(make, clock, driver):
    pool = make(pool_size=20, idle_timeout=60, min_idle=3)
    returned(pool, 20)
    work(pool, clock, 60)
    assert closed(pool) == {"idle": 17}
    assert open_numbers(driver) == [18, 19, 20]
    work(pool, clock, 600)
    assert open_numbers(driver) == [18, 19, 20]


def test_keepalive_pings_then_rolls_back(make, clock, driver):
    pool = make(keepalive=30)
    returned(pool, 1)
    driver.connections[0].calls.clear()
    work(pool, clock, 29)
    assert pool._dialect.pings == []
    work(pool, clock, 1)
    assert pool._dialect.pings == [1]
    assert driver.connections[0].calls == ["rollback"]
    # heard: not again for as long
    work(pool, clock, 29)
    assert pool._dialect.pings == [1]
    work(pool, clock, 1)
    assert pool._dialect.pings == [1, 1]


def test_keepalive_is_no_use(make, clock):
    pool = make(keepalive=30, idle_timeout=50)
    returned(pool, 1)
    work(pool, clock, 30)
    work(pool, clock, 20)
    assert closed(pool) == {"idle": 1}


@pytest.mark.parametrize("use_lifo", [False, True])
def test_keepalive_changes_no_turns(make, clock, use_lifo):
    pool = make(keepalive=30, use_lifo=use_lifo)
    returned(pool, 3)
    first, _, last = pool.idle_entries()
    first.traffic_at += 1
    last.traffic_at += 1
    work(pool, clock, 30)
    assert pool._dialect.pings == [2]
    handles = [pool.connect() for _ in range(3)]
    numbers = [handle.dbapi_connection.number for handle in handles]
    assert numbers == ([3, 2, 1] if use_lifo else [1, 2, 3])


def test_keepalive_closes_what_is_dead(make, clock):
    pool = make(keepalive=30)
    returned(pool, 2)
    pool._dialect.dead.add(1)
    work(pool, clock, 30)
    assert closed(pool) == {"dead": 1}


def test_nobody_gets_a_connection_that_is_being_pinged(make, clock, driver):
    pool = make(pool_size=1, max_overflow=0, keepalive=30)
    returned(pool, 1)
    gate = Gate()
    driver.when_reset = lambda connection: gate()
    task = Task(work, pool, clock, 30)
    gate.wait()
    with pytest.raises(CheckoutTimeout):
        pool.connect()
    gate.open()
    task.result()
    assert pool.connect().dbapi_connection.number == 1


@pytest.mark.parametrize("answers", [False, True])
def test_an_idle_connection_with_something_to_say(make, clock, answers):
    pool = make()
    returned(pool, 2)
    entry = pool.idle_entries()[0]
    entry.probe = lambda: Look.READABLE
    if not answers:
        pool._dialect.dead.add(1)
    work(pool, clock)
    assert pool._dialect.pings == [1]
    assert closed(pool) == ({} if answers else {"dead": 1})


def test_min_idle_is_opened_and_opened_again(make, clock, driver):
    pool = make(min_idle=3)
    handle = pool.connect()
    work(pool, clock)
    assert driver.connects == 4
    handle.close()
    pool.flush()
    assert driver.open_ones == []
    work(pool, clock)
    assert len(driver.open_ones) == 3


def test_min_idle_never_exceeds_the_limit(make, clock, driver):
    pool = make(pool_size=3, max_overflow=1, min_idle=3)
    handles = [pool.connect() for _ in range(3)]
    work(pool, clock)
    assert len(driver.open_ones) == 4
    assert len(handles) == 3


def test_a_database_that_is_down_is_asked_less_and_less(
    make, clock, driver, caplog
):
    pool = make(min_idle=1)
    pool.connect().invalidate()
    pool.flush()
    driver.then(*[StubError("password=hunter2")] * 60)
    pauses = []
    for _ in range(12):
        before = driver.connects
        _, again = work(pool, clock)
        assert driver.connects <= before + 1
        _, again = work(pool, clock)
        pauses.append(again - clock.now)
        clock.now = again
    assert pauses[0] <= 0.5
    assert 15 <= pauses[-1] <= 30
    assert "hunter2" not in caplog.text


def test_wait_ready_opens_min_idle_or_raises(make, driver):
    pool = make(min_idle=2)
    driver.then(StubError("down"))
    with pytest.raises(StubError, match="down"):
        pool.wait_ready()
    pool.wait_ready()
    assert pool.stats().idle == 2


def invalidate_two(pool, clock):
    for handle in [pool.connect(), pool.connect()]:
        handle.invalidate()


def take_two_back(pool, clock):
    # kept until they were reaped
    abandoned = in_ended_thread(lambda: [pool.connect(), pool.connect()])
    clock.now += 5
    assert pool.reap() == len(abandoned)


@pytest.mark.parametrize("empty", [invalidate_two, take_two_back])
@pytest.mark.parametrize("overflow", [0, 10])
@pytest.mark.parametrize("background", [False, True])
def test_min_idle_is_restored_in_places_that_are_empty(
    make, clock, driver, background, overflow, empty
):
    # instead of one connect after the other, for ever
    driver.then(*[None] * 4, *[StubError("one too many")] * 9)
    pool = make(pool_size=2, max_overflow=overflow, min_idle=2)
    empty(pool, clock)
    for _ in range(3):
        if background:
            work(pool, clock)
        else:
            pool.wait_ready()
    assert (driver.connects, pool.stats().idle) == (4, 2)
    # in the places that were there, not beside them
    assert (pool.checkedin(), pool.stats().opening) == (2, 0)


def test_min_idle_is_restored_beside_what_is_held(make, driver):
    driver.then(*[None] * 3, *[StubError("one too many")] * 9)
    pool = make(pool_size=2, max_overflow=0, min_idle=2)
    held, other = pool.connect(), pool.connect()
    other.invalidate()
    pool.wait_ready()
    assert (driver.connects, pool.stats().idle) == (3, 1)
    held.close()
    assert pool.stats().idle == 2


@pytest.mark.parametrize("verb", ["flush", "refresh"])
def test_nothing_is_opened_before_the_first_checkout(make, monkeypatch, verb):
    class Reaper:
        def look_after(self, pool):
            told.append("look after")
            return True

        def wake(self, pool):
            told.append("wake")

    told = []
    monkeypatch.setattr(entries, "reaper", Reaper())
    pool = make(min_idle=1)
    getattr(pool, verb)()
    assert told == []
    pool.connect().close()
    getattr(pool, verb)()
    assert told == ["look after", "wake"]


def test_flush_by_hand(make, clock):
    pool = make()
    returned(pool, 3)
    clock.now += 10
    pool.connect().close()
    assert pool.flush(idle_for=5) == 2
    assert pool.flush() == 1
    assert pool.flush() == 0
    assert closed(pool) == {"idle": 3}


def test_refresh_replaces_all_those_held_at_their_return(make, driver):
    pool = make()
    held, idle = pool.connect(), pool.connect()
    idle.close()
    pool.refresh()
    assert open_numbers(driver) == [1]
    held.close()
    assert driver.open_ones == []
    assert closed(pool) == {"refreshed": 2}
    pool.connect().close()
    assert open_numbers(driver) == [3]


def test_refresh_reaches_what_is_being_opened(make, driver):
    gate = Gate()
    driver.then(gate)
    pool = make()
    task = Task(pool.connect)
    gate.wait()
    pool.refresh()
    gate.open()
    task.result().close()
    assert driver.open_ones == []


def test_refresh_lends_nothing_that_it_is_about_to_close(make, driver):
    pool = make()
    returned(pool, 2)
    gate = Gate()
    driver.when_closed = lambda connection: connection.number == 1 and gate()
    task = Task(pool.refresh)
    gate.wait()
    handle = pool.connect()
    assert handle.dbapi_connection.number == 3
    handle.close()
    gate.open()
    task.result()
    # nor closes what took its place
    assert open_numbers(driver) == [3]
    assert closed(pool) == {"refreshed": 2}


def test_flush_closes_nothing_that_was_used_meanwhile(make, driver, clock):
    pool = make()
    returned(pool, 2)
    clock.now += 60
    gate = Gate()
    driver.when_closed = lambda connection: connection.number == 1 and gate()
    task = Task(pool.flush, 60)
    gate.wait()
    pool.connect().close()
    gate.open()
    assert task.result() == 1
    assert open_numbers(driver) == [2]
