"""What a checkout is told that gets nothing: real threads, one verdict each.

The situations are real, on a driver that opens nothing; on PostgreSQL they
are in tests/postgresql/test_verdicts.py.
"""

from __future__ import annotations

import pickle
import threading

import pytest
from actors import Actor
from rounds import Clock
from sqlalchemy import event
from stub import Driver
from stub import Gate
from stub import StubError
from stub import Task
from stub import until

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import LeaseInfo
from sa_reaperpool import PoolDeadlock
from sa_reaperpool import ReaperPool
from sa_reaperpool import TooManyWaiting


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def cast():
    """Makes actors, who leave in the end."""
    made = []

    def make(pool, *names):
        made.extend(Actor(pool, name) for name in names)
        return made[-len(names) :]

    yield make
    for actor in made:
        actor.leave()


def a_pool(driver, **options):
    options = {
        "pool_size": 2,
        "max_overflow": 0,
        "timeout": 0,
        "reaping_frequency": None,
        **options,
    }
    return ReaperPool(driver.connect, **options)


def refusal(pool, **options):
    with pytest.raises(CheckoutTimeout) as caught:
        pool.connect(**options)
    return caught.value


def in_use(pool, clock, seconds=0.05, times=20):
    """Let it see what is usual."""
    for _ in range(times):
        handle = pool.connect()
        clock.now += seconds
        handle.close()


# one situation for each verdict


def test_small(driver, clock, cast):
    pool = a_pool(driver)
    in_use(pool, clock)
    one, other = cast(pool, "one", "other")
    handles = [one.take(), other.take()]
    clock.now += 0.2
    error = refusal(pool)
    assert error.reason == "small"
    assert "all 2 connections are in brisk use" in error.verdict
    assert "19 of 20 are back within 0.05 s" in error.verdict
    assert "would need about 3" in error.verdict
    for handle in handles:
        handle.close()


def test_leak(driver, clock, cast):
    pool = a_pool(driver)
    in_use(pool, clock)
    forgetful, other = cast(pool, "forgetful", "other")
    handles = [forgetful.take()]
    clock.now += 60
    handles.append(other.take())
    error = refusal(pool)
    assert error.reason == "leak"
    assert "1 of 2 connections in use is held far longer" in error.verdict
    assert "the longest for 60.0 s, taken at" in error.verdict
    assert [lease.holders[0].name for lease in error.leases] == [
        "forgetful",
        "other",
    ]
    for handle in handles:
        handle.close()


def test_leak_by_a_thread_that_has_ended(driver, clock, cast):
    pool = a_pool(driver)
    in_use(pool, clock)
    handles = [Task(pool.connect).result(), cast(pool, "other")[0].take()]
    error = refusal(pool)
    assert error.reason == "leak"
    assert "of 1 all holders have ended" in error.verdict
    assert " ended, held 0.00 s" in str(error)
    handles.clear()


def test_long_as_usual_is_no_leak(driver, clock, cast):
    pool = a_pool(driver)
    in_use(pool, clock, seconds=30)
    handles = [actor.take() for actor in cast(pool, "one", "other")]
    clock.now += 200
    assert refusal(pool).reason == "small"
    clock.now += 200
    assert refusal(pool).reason == "leak"
    for handle in handles:
        handle.close()


def test_nested(driver, clock, cast):
    pool = a_pool(driver)
    handle = cast(pool, "other")[0].take()
    with pool.connect():
        error = refusal(pool)
    assert error.reason == "nested"
    assert "this thread itself holds 1 of 2" in error.verdict
    assert f"{__file__}:" in error.verdict
    handle.close()


@pytest.mark.parametrize("name", ["connect", "checkout"])
def test_nested_in_a_listener(driver, clock, name):
    """What the outer one has is nobody's lease yet."""
    pool = a_pool(driver, pool_size=1)
    told = []

    def listener(*args):
        told.append(refusal(pool))

    event.listen(pool, name, listener)
    pool.connect().close()
    assert told[0].reason == "nested"
    assert "holds 1 of 1 connections in use, whose" in told[0].verdict
    event.remove(pool, name, listener)
    # and that is over
    with pool.connect() as handle:
        pool.keep(handle)
        assert refusal(pool).reason == "small"


def test_an_open_cursor_is_shown(driver, clock, cast):
    pool = a_pool(driver, pool_size=1)
    actor = cast(pool, "reader")[0]
    handle = actor.take()
    cursor = actor.have(handle.cursor)
    assert ", a cursor is open, at" in str(refusal(pool))
    cursor.close()
    assert "a cursor" not in str(refusal(pool))
    handle.close()


def test_what_was_handed_on_is_not_nested(driver, cast, clock):
    """This thread has taken it, and another is who uses it."""
    pool = a_pool(driver, pool_size=1)
    handle = pool.connect()
    cast(pool, "other")[0].have(handle.cursor).close()
    assert refusal(pool).reason == "small"
    handle.close()


def test_what_is_kept_is_not_nested(driver, clock):
    pool = a_pool(driver, pool_size=1)
    with pool.connect() as handle:
        pool.keep(handle)
        error = refusal(pool)
    assert error.reason == "small"
    assert "all 1 connections are kept, by pool.keep()" in error.verdict


def test_unreachable_while_connects_hang(driver, clock):
    pool = a_pool(driver)
    gate = Gate()
    driver.then(gate, gate)
    tasks = [Task(pool.connect) for _ in range(2)]
    until(lambda: driver.connects == 2)
    # that is how long it takes
    clock.now += 0.5
    assert refusal(pool).reason == "small"
    clock.now += 0.6
    error = refusal(pool)
    assert error.reason == "unreachable" and error.connect_error is None
    assert "2 connections could be opened, and none comes" in error.verdict
    assert "under way for 1.10 s" in error.verdict
    gate.open()
    for task in tasks:
        task.result().close()
    pool.connect().close()


def test_unreachable_with_what_the_driver_said(driver, clock):
    pool = a_pool(driver, pool_size=1)
    gate = Gate()
    driver.then(StubError("no route\n to host, password=hunter2"), gate)
    with pytest.raises(StubError):
        pool.connect()
    task = Task(pool.connect)
    gate.wait()
    error = refusal(pool)
    assert error.reason == "unreachable"
    assert error.connect_error == (
        "StubError: no route to host, password=***"
    )
    assert f"Newest connect error: {error.connect_error}" in str(error)
    gate.open()
    task.result().close()
    with pool.connect():
        # once something was opened, it is past
        assert refusal(pool).connect_error is None


def test_a_connect_that_failed_long_ago(driver, clock):
    """What is opened just now is in nobody's way."""
    pool = a_pool(driver)
    gate = Gate()
    driver.then(None, StubError("refused"), gate)
    handle = pool.connect()
    with pytest.raises(StubError):
        pool.connect()
    clock.now += 3600
    task = Task(pool.connect)
    gate.wait()
    error = refusal(pool)
    assert error.reason != "unreachable"
    assert "Newest connect error, 60 min ago: StubError: refused" in str(error)
    gate.open()
    task.result().close()
    handle.close()


# max_waiting


def test_no_more_wait_than_may(driver, cast, clock):
    pool = a_pool(driver, pool_size=1, timeout=None, max_waiting=2)
    actors = cast(pool, "holder", "first", "second", "third")
    handle = actors[0].take()
    deeds = [actor.wait() for actor in actors[1:3]]
    with pytest.raises(TooManyWaiting) as caught:
        actors[3].take()
    error = caught.value
    assert isinstance(error, CheckoutTimeout)
    assert (error.waiting, error.limit, error.reason) == (2, None, "small")
    assert "reached, as many wait as may, max_waiting 2 (" in str(error)
    handle.close()
    for deed in deeds:
        deed.result().close()
    with pool.connect():
        pass


def test_nobody_may_wait(driver, cast):
    pool = a_pool(driver, pool_size=1, timeout=None, max_waiting=0)
    [holder] = cast(pool, "holder")
    handle = holder.take()
    assert type(refusal(pool)) is TooManyWaiting
    # who would not wait is not one too many
    assert type(refusal(pool, timeout=0)) is CheckoutTimeout
    handle.close()
    pool.connect().close()
    assert pool.stats().waits == 1


def test_one_that_comes_free_just_now_is_taken(driver, monkeypatch):
    """Between the look whether there is one, and the look at the line."""
    pool = a_pool(driver, pool_size=1, timeout=None, max_waiting=0)
    handle = pool.connect()
    prepare = pool._prepare_to_wait

    def give_back_meanwhile(now):
        handle.close()
        prepare(now)

    monkeypatch.setattr(pool, "_prepare_to_wait", give_back_meanwhile)
    pool.connect().close()
    assert driver.connects == 1


def test_exactly_as_many_wait(driver, cast):
    pool = a_pool(driver, pool_size=1, timeout=None, max_waiting=3)
    [holder] = cast(pool, "holder")
    handle = holder.take()
    start = threading.Barrier(12)

    def ask():
        start.wait()
        try:
            pool.connect().close()
        except TooManyWaiting:
            return 0
        return 1

    tasks = [Task(ask) for _ in range(12)]
    until(lambda: sum(not task.is_alive() for task in tasks) == 9)
    assert pool.stats().waiting == 3
    handle.close()
    assert sum(task.result() for task in tasks) == 3


def test_max_waiting_changes(driver, cast):
    pool = a_pool(driver, pool_size=1, timeout=0.01)
    handle = cast(pool, "holder")[0].take()
    assert type(refusal(pool)) is CheckoutTimeout
    pool.configure(max_waiting=0)
    assert type(refusal(pool)) is TooManyWaiting
    pool.configure(max_waiting=None)
    assert type(refusal(pool)) is CheckoutTimeout
    handle.close()


# the error


@pytest.mark.parametrize("kind", [CheckoutTimeout, PoolDeadlock])
def test_it_can_be_sent(driver, kind):
    mode = "raise" if kind is PoolDeadlock else "off"
    pool = a_pool(
        driver,
        pool_size=1,
        timeout=0.01,
        on_deadlock=mode,
        logging_name="books",
    )
    with pool.connect():
        error = refusal(pool)
    assert type(error) is kind
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and vars(again) == vars(error)
    assert str(again) == str(error)
    [lease] = again.leases
    assert isinstance(lease, LeaseInfo) and f"{__file__}:" in lease.where
    assert again.logging_name == "books" and "'books'" in str(error)


def test_many_holders_fit_on_a_screen(driver):
    pool = a_pool(driver, pool_size=60)
    handles = [pool.connect() for _ in range(60)]
    error = refusal(pool)
    assert len(str(error).splitlines()) <= 25
    assert "... and 42 more" in str(error)
    assert len(error.leases) == len(handles)


def test_each_refusal_is_counted(driver, cast):
    pool = a_pool(driver, pool_size=1, max_waiting=0, timeout=1)
    handle = cast(pool, "holder")[0].take()
    refusal(pool)
    refusal(pool, timeout=0)
    assert pool.stats().timeouts == 2
    handle.close()
