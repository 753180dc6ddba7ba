"""Circles of threads that wait for each other: told at once, or not at all."""

from __future__ import annotations

import logging
import threading
from time import monotonic

import actors
import pytest
from actors import Actor
from rounds import Clock
from stub import PATIENCE
from stub import Driver
from stub import StubDialect
from stub import Task
from stub import until

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import PoolDeadlock
from sa_reaperpool import ReaperPool
from sa_reaperpool import waiter
from sa_reaperpool.liveness import Look
from sa_reaperpool.place import Place


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def told(caplog):
    """What the pool has logged as warnings."""
    caplog.set_level(logging.WARNING, "sqlalchemy.pool")
    return lambda: [record.getMessage() for record in caplog.records]


def a_pool(driver, **options):
    options = {
        "pool_size": 4,
        "max_overflow": 0,
        "timeout": None,
        "reaping_frequency": None,
        "dead_connection_timeout": None,
        "on_deadlock": "raise",
        "dialect": StubDialect(),
        **options,
    }
    return ReaperPool(driver.connect, **options)


class Circle:
    """Actors with a connection each; all but the last wait for another."""

    def __init__(self, pool, number=4):
        self.pool = pool
        self.actors = [Actor(pool, f"actor-{n}") for n in range(number)]
        self.handles = [actor.take() for actor in self.actors]
        self.deeds = [actor.wait() for actor in self.actors[:-1]]
        self.last = self.actors[-1]

    def end(self):
        """Let all of them go, one by one; who waits is served."""
        for handle in self.handles:
            handle.close()
        for deed in self.deeds:
            deed.result().close()
        for actor in self.actors:
            actor.leave()


@pytest.fixture
def circle():
    made = []

    def make(pool, number=4):
        made.append(Circle(pool, number))
        return made[-1]

    yield make
    for each in made:
        each.end()


def test_a_handlers_own_checkout_hides_no_circle(driver, circle):
    """That of a signal's handler, in a thread that stands in line."""
    pool = a_pool(driver)
    threads = circle(pool)
    [waiter, *_] = pool.queue.line()
    # what it does, as if in that thread
    inner = Place(pool._exhaustion, monotonic(), True, None)
    inner.holder = waiter.holder
    inner._before = inner.holder.waits
    inner.holder.waits = True
    inner.leave()
    with pytest.raises(PoolDeadlock):
        threads.last.take()


def test_raise_frees_the_circle_at_once(driver, circle, told):
    pool = a_pool(driver, logging_name="books")
    threads = circle(pool)
    began = monotonic()
    with pytest.raises(PoolDeadlock) as caught:
        threads.last.take()
    took = monotonic() - began
    error = caught.value
    assert isinstance(error, CheckoutTimeout)
    assert error.reason == "deadlock" and error.waited < 0.5 + took
    assert error.waiting == 3 and error.limit is None
    assert (error.size, error.overflow) == (4, 0)
    assert error.logging_name == "books"
    lines = str(error).splitlines()
    assert lines[0].startswith("Deadlock suspected: all 4 connections")
    assert "QueuePool limit of size 4 overflow 0 reached" in lines[1]
    assert sum("waits for this pool" in line for line in lines) == 4
    assert [len(lease.holders) for lease in error.leases] == [1] * 4
    # nobody else has been told, and there is nothing to be said of them
    assert not any(deed.done.is_set() for deed in threads.deeds)
    assert told() == []
    # the one that was refused gives its own back, and all go on
    threads.last.have(threads.handles[-1].close)
    assert threads.deeds[0].result() is not None


def test_warn_says_so_at_once_and_once(driver, circle, told):
    pool = a_pool(driver, on_deadlock="warn")
    threads = circle(pool)
    assert told() == []
    threads.deeds.append(threads.last.wait())
    until(told)
    [message] = told()
    assert "Deadlock suspected: all 4 connections" in message
    assert "actor-2 alive" in message and f"at {actors.__file__}:" in message
    # whoever comes later does not make it another one
    outsider = Actor(pool)
    with pytest.raises(CheckoutTimeout) as caught:
        outsider.take(timeout=0.01)
    outsider.leave()
    assert caught.value.reason == "deadlock"
    assert len(told()) == 1


def test_the_next_circle_is_another_one(driver, circle, told):
    pool = a_pool(driver, on_deadlock="warn")
    threads = circle(pool)
    threads.deeds.append(threads.last.wait())
    until(told)
    # by a thread that never used it, so that the pool did not know of it
    threads.handles[0].close()
    threads.handles.append(threads.deeds.pop(0).result())
    assert len(told()) == 1
    threads.deeds.append(threads.actors[0].wait())
    until(lambda: len(told()) == 2)


def test_a_log_that_is_written_to_the_same_database(driver):
    class Handler(logging.Handler):
        def emit(self, record):
            emitted.append(record)
            with pytest.raises(CheckoutTimeout):
                pool.connect(timeout=0.02)

    emitted = []
    pool = a_pool(driver, pool_size=1, on_deadlock="warn")
    handler = Handler(level=logging.WARNING)
    logger = logging.getLogger("sqlalchemy.pool.impl.ReaperPool")
    logger.addHandler(handler)
    try:
        with pool.connect():
            with pytest.raises(CheckoutTimeout):
                pool.connect(timeout=0.05)
    finally:
        logger.removeHandler(handler)
    assert len(emitted) == 1


def test_off_says_nothing_but_knows_it_in_the_end(driver, circle, told):
    threads = circle(a_pool(driver, on_deadlock="off"))
    with pytest.raises(CheckoutTimeout) as caught:
        threads.last.take(timeout=0.05)
    assert caught.value.reason == "deadlock"
    assert type(caught.value) is CheckoutTimeout
    assert told() == []


def test_all_whose_time_is_up_are_told_the_same(driver, monkeypatch):
    """Though the first to give up has broken the circle."""
    clock = Clock(monkeypatch)
    monkeypatch.setattr(waiter, "monotonic", clock)
    time_is_up = threading.Event()
    monkeypatch.setattr(
        waiter.Waiter, "sleep", lambda *_: time_is_up.wait(PATIENCE)
    )
    pool = a_pool(driver, timeout=30, on_deadlock="off")
    all_have_one = threading.Barrier(4)

    def work():
        handle = pool.connect()
        all_have_one.wait(PATIENCE)
        with pytest.raises(CheckoutTimeout) as caught:
            pool.connect()
        return caught.value.reason, handle

    tasks = [Task(work) for _ in range(4)]
    until(lambda: pool.stats().waiting == 4)
    clock.now += 30
    time_is_up.set()
    assert [task.result()[0] for task in tasks] == ["deadlock"] * 4


def test_a_thread_that_waits_for_itself(driver):
    pool = a_pool(driver, pool_size=2)
    handles = [pool.connect(), pool.connect()]
    with pytest.raises(PoolDeadlock) as caught:
        pool.connect()
    assert caught.value.reason == "nested"
    assert "this thread itself holds 2 of 2" in caught.value.verdict
    for handle in handles:
        handle.close()
    pool.connect().close()


def test_only_one_of_those_who_close_it_together(driver):
    """Each of them sees the other, and one refusal is enough."""
    for _ in range(20):
        pool = a_pool(driver, pool_size=4)
        barrier = threading.Barrier(4)

        def work(pool=pool, barrier=barrier):
            handle = pool.connect()
            barrier.wait()
            try:
                pool.connect().close()
            except PoolDeadlock:
                return 1
            finally:
                handle.close()
            return 0

        tasks = [Task(work) for _ in range(4)]
        assert sum(task.result() for task in tasks) == 1
        assert pool.checkedout() == 0


# nobody is accused while somebody can go on


def nobody_is_accused(threads, told):
    """The last one waits as well, until its time is up."""
    deed = threads.last.wait()
    assert not deed.done.is_set()
    threads.last = Actor(threads.pool)
    threads.deeds.append(deed)
    assert told() == []


@pytest.fixture(params=["raise", "warn"])
def pool(driver, request):
    return a_pool(driver, on_deadlock=request.param)


def test_one_who_does_not_wait(pool, circle, told, monkeypatch):
    clock = Clock(monkeypatch)
    threads = circle(pool)
    outsider = Actor(pool)
    deed = outsider.wait(timeout=0.02)
    clock.now += 0.02
    with pytest.raises(CheckoutTimeout) as caught:
        deed.result()
    assert caught.value.reason == "small"
    outsider.leave()
    assert told() == []
    assert threads.last.is_alive()


def test_one_who_holds_what_another_took(pool, circle, told):
    threads = circle(pool)
    other = Actor(pool)
    other.have(threads.handles[0].cursor).close()
    nobody_is_accused(threads, told)
    other.leave()


def test_one_who_asks_without_waiting(pool, circle, told):
    threads = circle(pool)
    with pytest.raises(CheckoutTimeout) as caught:
        threads.last.take(timeout=0)
    assert caught.value.reason == "nested"
    assert not isinstance(caught.value, PoolDeadlock)
    assert told() == []


def test_one_that_is_kept(pool, circle, told):
    threads = circle(pool)
    pool.keep(threads.handles[1])
    nobody_is_accused(threads, told)


def test_one_whose_holders_have_ended(pool, circle, told):
    other = Actor(pool)
    handle = other.take()
    threads = circle(pool, 3)
    other.leave()
    nobody_is_accused(threads, told)
    handle.close()


def test_one_that_is_being_opened(driver, pool, circle, told):
    gate = threading.Event()
    driver.then(gate.wait)
    opening = Task(pool.connect)
    until(lambda: pool.stats().opening == 1)
    threads = circle(pool, 3)
    nobody_is_accused(threads, told)
    gate.set()
    opening.result().close()


def test_one_with_an_open_cursor(pool, circle, told):
    """Another thread may fetch from it, which nobody sees."""
    threads = circle(pool)
    cursor = threads.last.have(threads.handles[-1].cursor)
    nobody_is_accused(threads, told)
    # but when that has not helped, it was one
    with pytest.raises(CheckoutTimeout) as caught:
        threads.last.take(timeout=0.02)
    assert caught.value.reason == "deadlock"
    cursor.close()


def test_one_who_holds_nothing_is_not_refused(driver, circle, told):
    """It has not closed the circle, and would open nothing by leaving."""
    pool = a_pool(driver)
    threads = circle(pool)
    cursor = threads.last.have(threads.handles[-1].cursor)
    nobody_is_accused(threads, told)
    # which closes the circle, unseen
    cursor.close()
    threads.deeds.append(threads.last.wait())
    until(told)
    assert "Deadlock suspected" in told()[0]
    assert not threads.deeds[-1].done.is_set()


def test_one_that_runs_a_command(driver, pool, circle, told):
    class Info:
        transaction_status = 1

    threads = circle(pool)
    driver.connections[0].info = Info()
    nobody_is_accused(threads, told)
    with pytest.raises(CheckoutTimeout) as caught:
        threads.last.take(timeout=0.02)
    assert caught.value.reason != "deadlock"


def test_one_that_its_server_closed(pool, circle, told):
    threads = circle(pool)
    threads.handles[0]._connection_record.probe = lambda: Look.CLOSED
    nobody_is_accused(threads, told)


def test_room_for_more(driver, told):
    pool = a_pool(driver, pool_size=1, max_overflow=-1)
    handles = [pool.connect() for _ in range(9)]
    pool.configure(pool_size=1, max_overflow=8)
    with pytest.raises(PoolDeadlock):
        pool.connect()
    pool.configure(max_overflow=9)
    pool.connect().close()
    for handle in handles:
        handle.close()


def test_one_that_is_given_back_before_the_last_look(
    driver, monkeypatch, told
):
    """Between the look and the step that it leads to."""
    pool = a_pool(driver, pool_size=1)
    handle = pool.connect()
    leave_if = pool.queue.leave_if

    def give_back_first(waiter, due):
        Task(handle.close).result()
        return leave_if(waiter, due)

    monkeypatch.setattr(pool.queue, "leave_if", give_back_first)
    # it was handed on unused, and so it is not refused
    pool.connect().close()
    assert told() == []


def test_one_that_is_used_by_another_before_the_last_look(
    driver, monkeypatch, told
):
    pool = a_pool(driver, pool_size=1)
    handle = pool.connect()
    other = Actor(pool)
    leave_if = pool.queue.leave_if

    def use_first(waiter, due):
        other.have(handle.cursor).close()
        return leave_if(waiter, due)

    monkeypatch.setattr(pool.queue, "leave_if", use_first)
    with pytest.raises(CheckoutTimeout) as caught:
        pool.connect(timeout=0.02)
    assert not isinstance(caught.value, PoolDeadlock)
    assert told() == []
    other.leave()


def test_what_was_out_at_a_dispose_frees_nothing(pool, circle, told):
    old = pool.connect()
    pool.dispose()
    threads = circle(pool)
    deed = threads.last.wait(timeout=0.02)
    with pytest.raises(CheckoutTimeout) as caught:
        deed.result()
    assert caught.value.reason == "deadlock"
    old.close()


@pytest.mark.parametrize("mode", ["raise", "warn", "off"])
def test_the_end_of_one_who_could_go_on(driver, told, mode):
    """It closes the circle, in which nobody begins to wait."""
    pool = a_pool(
        driver,
        pool_size=2,
        on_deadlock=mode,
        reaping_frequency=60,
        dead_connection_timeout=5,
    )
    bystander = Actor(pool, "bystander")
    circle = Circle(pool, 2)
    bystander.have(circle.handles[0].cursor).close()
    circle.deeds.append(circle.last.wait())
    assert told() == []
    bystander.leave()
    if mode == "raise":
        with pytest.raises(PoolDeadlock, match="waited for any longer") as it:
            circle.deeds.pop().result()
        assert it.value.reason == "deadlock"
    elif mode == "warn":
        until(told)
        assert "Deadlock suspected: all 2" in told()[0]
    else:
        until(lambda: not pool._exhaustion.circles.suspicious())
    circle.end()
    assert len(told()) == (mode == "warn")


def test_joins_do_not_wait(driver, told):
    pool = a_pool(driver, pool_size=1, reservation="thread")
    with pool.connect():
        pool.connect().close()
    assert told() == []
