"""Nobody sleeps beside a free slot, by whatever way it came free."""

from __future__ import annotations

import gc
import threading

import pytest
from sqlalchemy import event
from stub import Driver
from stub import Gate
from stub import HookedLock
from stub import StubDialect
from stub import StubError
from stub import Task
from stub import in_ended_thread
from stub import switching_often
from stub import until

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ReaperPool
from sa_reaperpool import entries
from sa_reaperpool import place
from sa_reaperpool import stock
from sa_reaperpool import taking
from sa_reaperpool.adapter import handles
from sa_reaperpool.adapter import short

# All waiters here may wait for ever, and all rounds are off: what wakes
# them is what the test does, and neither time nor the background thread.


@pytest.fixture
def driver():
    return Driver()


def a_pool(driver, **options):
    options = {
        "pool_size": 1,
        "max_overflow": 0,
        "timeout": None,
        "reaping_frequency": None,
        "dead_connection_timeout": 3600,
        **options,
    }
    return ReaperPool(driver.connect, **options)


def waiting(pool, count=1):
    """Threads that wait for a connection, in this order."""
    tasks = []
    for _ in range(count):
        before = pool.stats().waiting
        tasks.append(Task(pool.connect))
        until(lambda: pool.stats().waiting == before + 1)
    return tasks


def all_served(*tasks):
    """Each gets one once the one before gave it back."""
    for task in tasks:
        task.result().close()


def test_waiters_are_served_in_the_order_they_came(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    tasks = waiting(pool, 4)
    handle.close()
    for served, task in enumerate(tasks):
        handle = task.result()
        assert all(later.is_alive() for later in tasks[served + 1 :])
        handle.close()
    assert driver.connects == 1


def test_failed_connect_lets_the_next_one_try(driver):
    gate = Gate(StubError("no"))
    driver.then(gate)
    pool = a_pool(driver)
    first = Task(pool.connect)
    gate.wait()
    tasks = waiting(pool, 2)
    gate.open()
    with pytest.raises(StubError):
        first.result()
    all_served(*tasks)
    assert driver.connects == 2


def test_every_waiter_tries_while_all_connects_fail(driver):
    gate = Gate(StubError("no"))
    driver.then(gate, StubError("1"), StubError("2"), StubError("3"))
    pool = a_pool(driver)
    tasks = [Task(pool.connect)]
    gate.wait()
    tasks += waiting(pool, 3)
    gate.open()
    for task in tasks:
        with pytest.raises(StubError):
            task.result()
    assert driver.connects == 4
    pool.connect().close()


def test_failed_reconnect_lets_the_next_one_try(driver):
    pool = a_pool(driver)
    pool.connect().invalidate()
    gate = Gate(StubError("no"))
    driver.then(gate)
    first = Task(pool.connect)
    gate.wait()
    tasks = waiting(pool, 2)
    gate.open()
    with pytest.raises(StubError):
        first.result()
    all_served(*tasks)


def test_failed_connect_event_lets_the_next_one_try(driver):
    pool = a_pool(driver)
    gate = Gate(StubError("no"))
    turns = [gate]

    @event.listens_for(pool, "connect")
    def connect(*args):
        if turns:
            turns.pop()()

    first = Task(pool.connect)
    gate.wait()
    tasks = waiting(pool)
    gate.open()
    with pytest.raises(StubError):
        first.result()
    all_served(*tasks)
    assert len(driver.open_ones) == 1


def test_failed_checkout_event_lets_the_next_one_try(driver):
    pool = a_pool(driver)
    gate = Gate(StubError("not you"))
    turns = [gate]

    @event.listens_for(pool, "checkout")
    def checkout(*args):
        if turns:
            turns.pop()()

    first = Task(pool.connect)
    gate.wait()
    tasks = waiting(pool)
    gate.open()
    with pytest.raises(StubError):
        first.result()
    all_served(*tasks)


def refresh_and_close(pool, handle):
    pool.refresh()
    handle.close()


def drop_in_a_cycle(pool, handles):
    cycle = [handles.pop()]
    cycle.append(cycle)
    del cycle
    gc.collect()


def close_failing(pool, handle):
    """Its reset fails, and its close as well."""

    def fail(connection):
        raise StubError("gone")

    driver = handle.dbapi_connection.driver
    driver.when_reset = driver.when_closed = fail
    handle.close()
    driver.when_reset = lambda connection: None


WAYS = {
    "close": lambda pool, handles: handles[0].close(),
    "invalidate": lambda pool, handles: handles[0].invalidate(),
    "detach": lambda pool, handles: handles[0].detach(),
    "dispose": lambda pool, handles: pool.dispose(),
    "refresh": lambda pool, handles: refresh_and_close(pool, handles[0]),
    "drop": lambda pool, handles: handles.clear(),
    "collect": drop_in_a_cycle,
    "failing close": lambda pool, handles: close_failing(pool, handles[0]),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_slot_that_comes_free_wakes_a_waiter(driver, way):
    pool = a_pool(driver)
    handles = [pool.connect()]
    tasks = waiting(pool, 2)
    way(pool, handles)
    all_served(*tasks)
    assert pool.checkedout() == 0


def test_too_old_at_its_return(driver, monkeypatch):
    now = [1000.0]
    for module in (handles, short, entries, stock, taking):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    pool = a_pool(driver, max_age=100, jitter=0)
    handle = pool.connect()
    tasks = waiting(pool)
    now[0] += 100
    handle.close()
    all_served(*tasks)
    assert dict(pool.stats().closed) == {"age": 1}
    assert driver.connects == 2


def test_reap_by_hand(driver):
    pool = a_pool(driver, dead_connection_timeout=0.01)
    gate = Gate()
    handles = []

    def die():
        handles.append(pool.connect())
        gate()

    task = Task(die)
    gate.wait()
    tasks = waiting(pool)
    gate.open()
    task.result()
    until(pool.reap)
    all_served(*tasks)
    assert len(driver.open_ones) == 1


def test_a_checkout_reaps_before_it_waits(driver):
    pool = a_pool(driver, timeout=0, dead_connection_timeout=0)
    kept = in_ended_thread(pool.connect)
    pool.connect().close()
    assert dict(pool.stats().closed) == {"reaped": 1}
    assert not kept.is_valid


def looks_of(pool, monkeypatch):
    """Who has looked at what dead holders have, and beside how many."""
    looks = []
    look = pool._prepare_to_wait

    def noted(now):
        looks.append((threading.current_thread(), pool.queue.waiting()))
        look(now)

    monkeypatch.setattr(pool, "_prepare_to_wait", noted)
    return looks


def test_who_does_not_look_before_it_waits_looks_later(driver, monkeypatch):
    """That is, where another one who waits has just looked."""
    monkeypatch.setattr(taking, "_JUST_NOW", 3600.0)
    pool = a_pool(driver, reaping_frequency=3600)
    handle = pool.connect()
    looks = looks_of(pool, monkeypatch)
    [first] = waiting(pool)
    # a finaliser that is interrupted in its first line
    with monkeypatch.context() as patch:
        patch.setattr(pool, "_handle_collected", lambda ref: None)
        del handle
        gc.collect()
    monkeypatch.setattr(place, "LONG", 0.01)
    second = Task(pool.connect)
    all_served(first, second)
    assert looks == [(first, 0), (second, 2)]


@pytest.mark.parametrize(
    "options", [{"max_waiting": 5}, {"timeout": 0.9}, {"timeout": 0}]
)
def test_who_may_have_no_time_for_that_looks_at_once(
    driver, monkeypatch, options
):
    monkeypatch.setattr(taking, "_JUST_NOW", 3600.0)
    pool = a_pool(driver, reaping_frequency=3600)
    handle = pool.connect()
    looks = looks_of(pool, monkeypatch)
    [first] = waiting(pool)
    pool.configure(**options)
    second = Task(lambda: pytest.raises(CheckoutTimeout, pool.connect))
    if "timeout" in options:
        second.result()
    else:
        until(lambda: pool.stats().waiting == 2)
    assert looks == [(first, 0), (second, 1)]
    pool.shutdown(0)
    handle.close()


def test_in_the_background_who_waits_already_is_served(driver):
    pool = a_pool(driver, reaping_frequency=3600, dead_connection_timeout=0)
    gate = Gate()
    handles = []

    def die():
        handles.append(pool.connect())
        gate()

    task = Task(die)
    gate.wait()
    # it closes its own, or that would be abandoned as well
    waiter = Task(lambda: pool.connect().close())
    until(lambda: pool.stats().waiting == 1)
    gate.open()
    task.result()
    waiter.result()
    assert dict(pool.stats().closed) == {"reaped": 1}


def test_time_up_for_one_leaves_the_slot_to_the_next(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    impatient = Task(pool.connect, timeout=0.05)
    until(lambda: pool.stats().waiting == 1)
    tasks = waiting(pool)
    with pytest.raises(CheckoutTimeout):
        impatient.result()
    handle.close()
    all_served(*tasks)


# nobody waits for somebody else's connect, close, reset


def test_a_slow_connect_delays_only_who_asked(driver):
    gate = Gate()
    pool = a_pool(driver, pool_size=2)
    # SQLAlchemy's own mutex around an engine's first connect aside
    pool.connect().close()
    idle = pool.connect()
    driver.then(gate)
    slow = Task(pool.connect)
    gate.wait()
    idle.close()
    for _ in range(3):
        Task(lambda: pool.connect().close()).result()
    assert Task(pool.stats).result().opening == 1
    Task(pool.leases).result()
    Task(pool.status).result()
    gate.open()
    slow.result().close()


@pytest.mark.parametrize("hook", ["when_reset", "when_closed"])
def test_a_slow_return_delays_nobody_else(driver, hook):
    pool = a_pool(driver, pool_size=2)
    first, second = pool.connect(), pool.connect()
    slow_one = first.dbapi_connection
    gate = Gate()
    setattr(driver, hook, lambda each: each is slow_one and gate())
    slow = Task(first.close if hook == "when_reset" else first.invalidate)
    gate.wait()
    second.close()
    for _ in range(3):
        Task(lambda: pool.connect().close()).result()
    Task(pool.flush).result()
    gate.open()
    slow.result()


def test_max_connecting_lets_the_next_in_when_one_is_done(driver):
    gates = [Gate(), Gate(StubError("no"))]
    driver.then(*gates)
    pool = a_pool(driver, pool_size=5, max_connecting=1)
    first = Task(pool.connect)
    gates[0].wait()
    second, third = Task(pool.connect), Task(pool.connect)
    until(lambda: pool.stats().waiting == 2)
    assert driver.connects == pool.stats().opening == 1
    gates[0].open()
    handles = [first.result()]
    gates[1].wait()
    gates[1].open()
    failures = 0
    for task in (second, third):
        try:
            handles.append(task.result())
        except StubError:
            failures += 1
    assert failures == 1
    assert len(handles) == 2


def test_who_waits_for_a_turn_gets_what_comes_back(driver):
    gate = Gate()
    pool = a_pool(driver, pool_size=5, max_connecting=1)
    handle = pool.connect()
    driver.then(gate)
    slow = Task(pool.connect)
    gate.wait()
    task = Task(pool.connect)
    until(lambda: pool.stats().waiting == 1)
    handle.close()
    assert task.result().dbapi_connection.number == 1
    gate.open()
    slow.result()


class Reconnecting:
    """A checkout got the one of two that has to be opened anew.

    It waits for its turn, since another is being opened, or for what comes
    back before.
    """

    def __init__(self, driver, how):
        self.gate = Gate()
        self.pool = pool = a_pool(
            driver,
            pool_size=5,
            max_connecting=1,
            dialect=StubDialect(),
            recycle=3600 if how == "recycled" else -1,
        )
        handle, self.other = pool.connect(), pool.connect()
        self.entry = handle._connection_record
        if how == "invalidated":
            handle.invalidate()
        handle.close()
        self.entry.traffic_at = self.entry.starttime = 0
        if how == "dead":
            pool._dialect.dead.add(1)
        driver.then(self.gate)
        # in the background, as the idle one would be taken in a checkout
        self.reserved = pool.queue.reserve()
        self._slow = Task(self.reserved.get_connection)
        self.gate.wait()
        self.checkout = self.waiting()

    def waiting(self):
        task = Task(self.pool.connect)
        until(lambda: self.pool.stats().waiting == 1)
        return task

    def go_on(self):
        """What is being opened is open."""
        self.gate.open()
        self._slow.result()


@pytest.mark.parametrize("how", ["dead", "invalidated", "recycled"])
def test_who_has_to_reconnect_gets_what_comes_back(driver, how):
    scene = Reconnecting(driver, how)
    scene.other.close()
    assert scene.checkout.result().dbapi_connection.number == 2
    # and that one is made when its turn comes
    other = scene.waiting()
    scene.go_on()
    assert other.result()._connection_record is scene.entry
    assert scene.pool.queue.making() == 0


def test_one_that_is_interrupted_as_it_gets_another(driver, monkeypatch):
    """Who keeps the exception keeps the frames, and what these refer to."""
    scene = Reconnecting(driver, "dead")
    queue = scene.pool.queue
    turn = queue.turn
    armed = [True]

    def interrupted(entry):
        if armed and threading.current_thread() is scene.checkout:
            armed.clear()
            raise KeyboardInterrupt
        return turn(entry)

    monkeypatch.setattr(queue, "turn", interrupted)
    scene.other.close()
    with pytest.raises(KeyboardInterrupt) as kept:
        scene.checkout.result()
    assert kept.value.__traceback__ is not None
    assert sorted(queue.entries(), key=id) == sorted(
        [scene.entry, scene.reserved], key=id
    )
    scene.go_on()


# the garbage collector's returns inside the queue's critical sections


SECTIONS = {
    "checkout": lambda pool, handle: pool.connect().close(),
    "return of what is not kept": lambda pool, handle: (
        pool.refresh(),
        handle.close(),
    ),
    "invalidate": lambda pool, handle: handle.invalidate(),
    "recovery": lambda pool, handle: pool.recover_lost(),
    "flush": lambda pool, handle: pool.flush(),
    "refresh": lambda pool, handle: pool.refresh(),
    "stats": lambda pool, handle: pool.stats(),
    "dispose": lambda pool, handle: pool.dispose(),
}


@pytest.mark.parametrize("section", SECTIONS)
def test_a_handle_collected_inside_a_critical_section(driver, section):
    pool = a_pool(driver, pool_size=3, timeout=0)
    dropped, handle = [pool.connect()], pool.connect()
    lock = pool._pool._lock = HookedLock()
    lock.hooks["begin"] = dropped.clear
    with switching_often():
        Task(SECTIONS[section], pool, handle).result()
    assert not lock.hooks, "there was no critical section"
    del handle
    # its place is there again before anybody waits for it
    handles = [pool.connect() for _ in range(3)]
    assert len({id(each.dbapi_connection) for each in handles}) == 3
    with pytest.raises(CheckoutTimeout):
        pool.connect()


def test_one_collected_during_a_return_wakes_a_waiter_too(driver):
    pool = a_pool(driver, pool_size=2)
    dropped, handle = [pool.connect()], pool.connect()
    tasks = waiting(pool, 2)
    under_lock = []
    driver.when_reset = lambda connection: under_lock.append(
        pool._pool.locked_here()
    )
    lock = pool._pool._lock = HookedLock()
    lock.hooks["begin"] = dropped.clear
    handle.close()
    # neither gives it back before the other has one
    assert len({id(task.result()) for task in tasks}) == 2
    assert under_lock[:2] == [False, False], "a reset ran under the lock"


WAITED_BESIDE = {
    "stats": lambda pool: pool.stats(),
    "flush": lambda pool: pool.flush(),
    "refresh": lambda pool: pool.refresh(),
    "wait_ready": lambda pool: pool.wait_ready(),
    "recovery": lambda pool: pool.recover_lost(),
}


@pytest.mark.parametrize("section", WAITED_BESIDE)
def test_one_collected_inside_somebody_elses_section_wakes(driver, section):
    pool = a_pool(driver, min_idle=1)
    dropped = [pool.connect()]
    tasks = waiting(pool)
    lock = pool.queue._lock = HookedLock()
    lock.hooks["begin"] = dropped.clear
    WAITED_BESIDE[section](pool)
    assert not lock.hooks, "there was no critical section"
    all_served(*tasks)


def test_one_collected_inside_the_waiters_own_section(driver):
    # who has to be counted lines up in a section
    pool = a_pool(driver, max_waiting=9)
    dropped = [pool.connect()]
    lock = pool.queue._lock = HookedLock()

    def once_in_line():
        if pool.queue.waiting():
            dropped.clear()
        else:
            lock.hooks["end"] = once_in_line

    lock.hooks["end"] = once_in_line
    all_served(Task(pool.connect))
    assert not dropped
