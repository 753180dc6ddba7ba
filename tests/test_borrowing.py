"""What borrowers of a pool find, as the Ruby pools' own tests have it.

See behaviours.rst; most of what is there is shown elsewhere.
"""

from __future__ import annotations

import threading

import pytest
from clients import Client
from clients import Service
from clients import a_pool
from rounds import Clock
from rounds import a_pool as a_clocked_pool
from rounds import returned
from rounds import work
from stub import PATIENCE
from stub import Driver
from stub import Gate
from stub import Task
from stub import in_ended_thread
from stub import until

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ReaperPool


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def pool(driver):
    """Of three, whose abandoned connections need no grace."""
    return ReaperPool(
        driver.connect,
        pool_size=3,
        max_overflow=0,
        timeout=0,
        reaping_frequency=None,
        dead_connection_timeout=0,
    )


# opening


def test_all_connect_at_once(driver):
    size = 5
    pool = ReaperPool(driver.connect, pool_size=size, max_overflow=0)
    # SQLAlchemy's own mutex around an engine's very first connect aside
    pool.connect().close()
    pool.flush()
    together = threading.Barrier(size)
    driver.then(*[lambda: together.wait(PATIENCE)] * size)
    tasks = [Task(pool.connect) for _ in range(size)]
    handles = [task.result() for task in tasks]
    assert len({each.dbapi_connection.number for each in handles}) == size


def test_one_at_a_time_needs_one_only(pool, driver):
    for _ in range(10):
        with pool.with_connection():
            pass
        with pool.connect():
            pass
    assert driver.connects == 1


def test_generations_of_threads_share_what_there_is():
    service = Service()
    size, generations = 3, 4
    pool = a_pool(service.open, pool_size=size, timeout=PATIENCE)
    uses, together = [], threading.Barrier(size)

    def use():
        with pool.connect() as client:
            together.wait(PATIENCE)
            uses.append(client.number)

    for task in [Task(use) for _ in range(size * generations)]:
        task.result()
    assert sorted(uses) == sorted([1, 2, 3] * generations)


# taking back


def test_living_holders_are_left_alone(pool):
    handles = [pool.connect() for _ in range(3)]
    assert pool.reap() == 0
    assert pool.checkedout() == 3
    assert all(handle.is_valid for handle in handles)


def test_those_of_a_dead_thread_only(pool):
    mine = pool.connect()
    theirs = in_ended_thread(lambda: [pool.connect(), pool.connect()])
    assert pool.checkedout() == 3
    assert pool.reap() == 2
    assert pool.checkedout() == 1
    assert mine.is_valid and not any(each.is_valid for each in theirs)
    assert pool.reap() == 0


# whose turn it is


def test_whoever_came_first_is_served_first_in_groups(driver):
    size = 5
    pool = ReaperPool(driver.connect, pool_size=size, max_overflow=0)
    handles = [pool.connect() for _ in range(size)]
    served, may_end = [], Gate()

    def work(group):
        handle = pool.connect(timeout=None)
        served.append(group)
        may_end()
        handle.close()

    tasks = []
    for group in [1] * size + [2] * size:
        tasks.append(Task(work, group))
        until(lambda: pool.stats().waiting == len(tasks))
    while handles:
        handles.pop().close()
    until(lambda: len(served) == size)
    assert served == [1] * size
    assert pool.stats().waiting == size
    may_end.open()
    for task in tasks:
        task.result()
    assert served == [1] * size + [2] * size


def test_of_many_that_wait_one_is_served(driver):
    pool = ReaperPool(driver.connect, pool_size=1, max_overflow=0)
    inside, may_end = [], Gate()

    def work(number):
        with pool.with_connection():
            inside.append(number)
            may_end()

    tasks = [Task(work, number) for number in range(4)]
    until(lambda: pool.stats().waiting == 3)
    may_end.wait()
    assert len(inside) == 1
    may_end.open()
    for task in tasks:
        task.result()
    assert sorted(inside) == [0, 1, 2, 3]


# upkeep beside borrowers


def test_while_one_is_pinged_the_others_can_be_had(driver, monkeypatch):
    clock = Clock(monkeypatch)
    pool = a_clocked_pool(
        driver, pool_size=3, max_overflow=0, keepalive=30, liveness="off"
    )
    returned(pool, 3)
    gate, first = Gate(), []

    def pinged(connection):
        if not first:
            first.append(connection.number)
            gate()

    driver.when_reset = pinged
    task = Task(work, pool, clock, 30)
    gate.wait()
    handles = [pool.connect(), pool.connect()]
    lent = {handle.dbapi_connection.number for handle in handles}
    assert len(lent) == 2 and lent.isdisjoint(first)
    gate.open()
    task.result()
    # all but those that were lent meanwhile
    assert pool._dialect.pings == first
    assert pool.connect().dbapi_connection.number == first[0]


def test_who_needs_the_one_that_is_pinged_waits_for_it(driver, monkeypatch):
    clock = Clock(monkeypatch)
    pool = a_clocked_pool(driver, pool_size=1, max_overflow=0, keepalive=30)
    returned(pool, 1)
    gate = Gate()
    driver.when_reset = lambda connection: gate()
    task = Task(work, pool, clock, 30)
    gate.wait()
    waiter = Task(pool.connect, timeout=None)
    until(lambda: pool.stats().waiting == 1)
    gate.open()
    task.result()
    assert waiter.result().dbapi_connection.number == 1
    assert driver.connects == 1


def test_who_finds_room_beside_the_one_that_is_pinged(driver, monkeypatch):
    """A ping may take long; nobody waits for it who need not."""
    clock = Clock(monkeypatch)
    pool = a_clocked_pool(driver, pool_size=2, max_overflow=0, keepalive=30)
    returned(pool, 1)
    gate = Gate()
    driver.when_reset = lambda connection: connection.number == 1 and gate()
    task = Task(work, pool, clock, 30)
    gate.wait()
    with pool.connect() as handle:
        assert handle.dbapi_connection.number == 2
    gate.open()
    task.result()
    assert pool.stats().idle == 2


def test_no_more_than_the_size_after_a_refresh():
    service = Service()
    pool = a_pool(service.open, pool_size=1)
    with pool.connect() as client:
        pool.refresh()
        with pytest.raises(CheckoutTimeout):
            pool.connect()
        assert client.number == 1
    with pool.connect() as client:
        assert client.number == 2
    assert service.quits == [1]


def test_a_flush_ends_though_more_comes_back():
    service = Service()
    pool = a_pool(service.open, pool_size=2)
    for handle in [pool.connect(), pool.connect()]:
        handle.close()
    # while one is closed, the other is used and given back
    service.when_quitting = lambda: pool.connect().close()
    assert pool.flush() == 1
    service.when_quitting = lambda: None
    # what it found idle, and nothing that came back since
    assert service.quits == [1]
    assert pool.stats().idle == 1


def test_a_flush_of_no_number_closes_nothing(pool, driver):
    pool.connect().close()
    with pytest.raises(TypeError):
        pool.flush(idle_for="0")
    assert len(driver.open_ones) == 1
    assert pool.flush(idle_for=0) == 1


def test_a_flush_though_closes_fail(pool, driver):
    handles = [pool.connect() for _ in range(3)]
    while handles:
        handles.pop().close()
    tried = []

    def fail(connection):
        tried.append(connection.number)
        raise OSError("gone already")

    driver.when_closed = fail
    assert pool.flush() == 3
    assert sorted(tried) == [1, 2, 3]
    driver.when_closed = lambda connection: None
    handles = [pool.connect() for _ in range(3)]
    assert len(handles) == 3


def test_clients_that_quit_by_themselves_are_the_pools_to_replace():
    """The holder knows, and says so."""

    class Counting(Client):
        uses = 0

    service = Service(Counting)
    pool = a_pool(service.open, pool_size=1)
    for _ in range(4):
        with pool.connect() as handle:
            client = handle.driver_connection
            client.uses += 1
            if client.uses == 2:
                handle.invalidate()
    assert [client.uses for client in service.clients] == [2, 2]
    assert service.quits == [1, 2]
