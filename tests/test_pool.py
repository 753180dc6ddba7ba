"""The pool as a drop-in QueuePool, and the verbs that it adds."""

from __future__ import annotations

import random
import threading

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.pool import QueuePool
from stub import Driver
from stub import Gate
from stub import Task
from stub import in_ended_thread
from stub import switching_often

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ConnectionReclaimed
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


# bounded


@pytest.mark.parametrize("size, overflow", [(1, 0), (3, 0), (2, 3)])
def test_no_more_connections_than_allowed(driver, size, overflow):
    pool = a_pool(driver, pool_size=size, max_overflow=overflow)
    handles = [pool.connect() for _ in range(size + overflow)]
    with pytest.raises(CheckoutTimeout):
        pool.connect()
    for handle in handles:
        handle.close()
    assert len(driver.open_ones) == size


@pytest.mark.parametrize("options", [{"pool_size": 0}, {"max_overflow": -1}])
def test_no_limit(driver, options):
    pool = a_pool(driver, **options)
    handles = [pool.connect() for _ in range(30)]
    assert pool.checkedout() == 30
    for handle in handles:
        handle.close()
    kept = 30 if options.get("pool_size") == 0 else 2
    assert pool.checkedin() == len(driver.open_ones) == kept


def test_connections_being_opened_count(driver):
    gate = Gate()
    driver.then(gate)
    pool = a_pool(driver, pool_size=1)
    task = Task(pool.connect)
    gate.wait()
    with pytest.raises(CheckoutTimeout):
        pool.connect()
    gate.open()
    task.result()


@pytest.mark.parametrize("use_lifo", [False, True])
def test_which_idle_connection_is_lent(driver, use_lifo):
    pool = a_pool(driver, pool_size=3, use_lifo=use_lifo)
    handles = [pool.connect() for _ in range(3)]
    for handle in handles:
        handle.close()
    lent = [pool.connect() for _ in range(3)]
    numbers = [handle.dbapi_connection.number for handle in lent]
    assert numbers == ([3, 2, 1] if use_lifo else [1, 2, 3])


def test_a_storm_never_shares_and_never_exceeds(driver):
    pool = a_pool(driver, pool_size=3, max_overflow=2, timeout=None)
    held, shared = {}, []

    def work(seed):
        chance = random.Random(seed)
        for _ in range(60):
            handle = pool.connect()
            number = handle.dbapi_connection.number
            if held.setdefault(number, seed) != seed:
                shared.append(number)
            held.pop(number, None)
            way = chance.random()
            if way < 0.7:
                handle.close()
            elif way < 0.8:
                handle.invalidate()
            elif way < 0.9:
                connection = handle.dbapi_connection
                connection.close()
                handle.detach()
            del handle

    with switching_often():
        tasks = [Task(work, seed) for seed in range(8)]
        for task in tasks:
            task.result()
    assert shared == []
    assert driver.most_open <= 5
    assert pool.checkedout() == 0
    handles = [pool.connect(timeout=0) for _ in range(5)]
    with pytest.raises(CheckoutTimeout):
        pool.connect(timeout=0)
    assert len(handles) == 5


# numbers


def numbers(pool):
    return (
        pool.size(),
        pool.checkedin(),
        pool.overflow(),
        pool.checkedout(),
        pool.status().replace(type(pool).__name__, ""),
    )


def same_steps(options):
    """The numbers of both pools after each step of a pool's life."""
    told = []
    for poolclass in (QueuePool, ReaperPool):
        pool = poolclass(Driver().connect, timeout=0, **options)
        steps = [numbers(pool)]
        handles = []
        for _ in range(3):
            handles.append(pool.connect())
            steps.append(numbers(pool))
        handles.pop().invalidate()
        steps.append(numbers(pool))
        handles.pop().close()
        steps.append(numbers(pool))
        handles.pop().detach()
        steps.append(numbers(pool))
        told.append(steps)
    return told


@pytest.mark.parametrize(
    "options",
    [
        {"pool_size": 2, "max_overflow": 1},
        {"pool_size": 3, "max_overflow": 0},
        {"pool_size": 2, "max_overflow": -1},
        {"pool_size": 0},
    ],
)
def test_numbers_are_queuepools(options):
    theirs, ours = same_steps(options)
    assert ours == theirs


def test_numbers_across_a_dispose_with_connections_out(driver):
    pool = a_pool(driver)
    out, idle = pool.connect(), pool.connect()
    idle.close()
    pool.dispose()
    assert numbers(pool)[:4] == (2, 0, -2, 0)
    assert [each.number for each in driver.open_ones] == [1]
    # full capacity for those who come now
    handles = [pool.connect(), pool.connect()]
    assert numbers(pool)[:4] == (2, 0, 0, 2)
    with pytest.raises(CheckoutTimeout):
        pool.connect()
    # there is no room for what comes back late
    out.close()
    assert numbers(pool)[:4] == (2, 0, 0, 2)
    assert len(driver.open_ones) == 2
    assert len(handles) == 2


def test_what_comes_back_after_a_dispose_is_served_again(driver):
    pool = a_pool(driver)
    out = pool.connect()
    pool.dispose()
    out.close()
    assert numbers(pool)[:4] == (2, 1, -1, 0)
    assert pool.connect().dbapi_connection.number == 1


# keep, leases


def test_keep_takes_handles_and_connections(driver, tmp_path):
    pool = a_pool(driver, dead_connection_timeout=0)
    handles = [in_ended_thread(pool.connect)]
    pool.keep(handles[0])
    assert pool.reap() == 0
    engine = create_engine(f"sqlite:///{tmp_path}/a", poolclass=ReaperPool)
    with engine.connect() as connection:
        engine.pool.keep(connection)
        assert engine.pool.leases()[0].kept
    # for that checkout only
    with engine.connect():
        assert not engine.pool.leases()[0].kept
    engine.dispose()


# a closed handle has names that only warn by now
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "wrong",
    [
        lambda pool, driver: None,
        lambda pool, driver: "connection",
        lambda pool, driver: driver.connections[0],
        lambda pool, driver: pool,
        lambda pool, driver: a_pool(driver).connect(),
        lambda pool, driver: closed(pool.connect()),
    ],
)
def test_keep_refuses_what_is_not_checked_out_of_it(driver, wrong):
    pool = a_pool(driver)
    handle = pool.connect()
    with pytest.raises(InvalidRequestError, match="checked out of this pool"):
        pool.keep(wrong(pool, driver))
    assert not any(lease.kept for lease in pool.leases())
    handle.close()


def closed(handle):
    handle.close()
    return handle


def test_keep_comes_too_late_for_what_was_taken_back(driver):
    pool = a_pool(driver, dead_connection_timeout=0)
    handle = in_ended_thread(pool.connect)
    assert pool.reap() == 1
    with pytest.raises((InvalidRequestError, ConnectionReclaimed)):
        pool.keep(handle)


def test_leases_are_a_copy_oldest_first(driver):
    pool = a_pool(driver)
    before = pool.leases()
    first = pool.connect()
    one = pool.leases()
    second = pool.connect()
    assert (len(before), len(one), len(pool.leases())) == (0, 1, 2)
    assert [each.where for each in pool.leases()][0] == one[0].where
    assert threading.current_thread().name == one[0].holders[0].name
    first.close()
    second.close()
    assert len(one) == 1
    assert pool.leases() == ()
