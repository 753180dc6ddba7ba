"""shutdown(): nothing is lent any more, nothing stays open, nobody hangs."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
import threading
from time import monotonic
from types import SimpleNamespace

import pytest
from rounds import Clock
from rounds import closed
from rounds import work
from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy import text
from sqlalchemy.exc import ResourceClosedError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as SQLAlchemyTimeout
from stub import PATIENCE
from stub import Driver
from stub import Gate
from stub import HookedLock
from stub import StubDialect
from stub import StubError
from stub import Task
from stub import in_ended_thread
from stub import switching_often
from stub import until
from test_interruption import Interrupter
from test_interruption import stub_pool

import sa_reaperpool
from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import PoolShutdown
from sa_reaperpool import ReaperPool
from sa_reaperpool import lifetime
from sa_reaperpool.reaper import reaper


@pytest.fixture
def driver():
    return Driver()


def a_pool(driver, **options):
    options = {
        "pool_size": 3,
        "max_overflow": 0,
        "timeout": None,
        "reaping_frequency": None,
        "dead_connection_timeout": 3600,
        **options,
    }
    return ReaperPool(driver.connect, **options)


def in_shutdown(pool, *args):
    """A thread that waits in shutdown()."""
    before = len(pool.queue._watchers)
    task = Task(pool.shutdown, *args)
    until(lambda: len(pool.queue._watchers) > before)
    return task


def waiting(pool, count):
    tasks = [Task(pool.connect) for _ in range(count)]
    until(lambda: pool.queue.waiting() == count)
    return tasks


def all_refused(tasks):
    for task in tasks:
        with pytest.raises(PoolShutdown):
            task.result()


# the error


def test_the_error_is_no_time_out():
    assert sa_reaperpool.PoolShutdown is PoolShutdown
    assert issubclass(PoolShutdown, (SQLAlchemyError, ResourceClosedError))
    assert not issubclass(PoolShutdown, (SQLAlchemyTimeout, TimeoutError))


def test_what_the_error_carries(driver):
    pool = a_pool(driver, logging_name="books")
    pool.shutdown()
    with pytest.raises(PoolShutdown, match="'books' was shut down") as caught:
        pool.connect()
    assert caught.value.logging_name == "books"
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is PoolShutdown
    assert (str(again), again.logging_name) == (str(caught.value), "books")


# who wants one


def test_a_pool_that_was_never_used(driver):
    pool = a_pool(driver)
    assert pool.shutdown() == ()
    with pytest.raises(PoolShutdown):
        pool.connect()
    assert driver.connects == 0


def test_all_who_wait_are_woken_at_once(driver):
    pool = a_pool(driver)
    handles = [pool.connect() for _ in range(3)]
    tasks = waiting(pool, 12)
    left = pool.shutdown(0)
    # though not one has come back
    assert len(left) == len(handles) == 3
    all_refused(tasks)
    assert pool.stats().waiting == 0


def test_all_who_wait_for_a_permit_are_woken_at_once(driver):
    gate = Gate()
    pool = a_pool(driver, pool_size=8, max_connecting=1)
    driver.then(gate)
    first = Task(pool.connect)
    gate.wait()
    tasks = waiting(pool, 5)
    pool.shutdown(0)
    all_refused(tasks)
    gate.open()
    all_refused([first])
    assert pool.stats().connect_failures == 0


def test_who_waits_is_woken_before_a_slow_close(driver):
    gate = Gate()
    pool = a_pool(driver, pool_size=2, max_connecting=1)
    pool.connect().close()
    connecting = Gate()
    driver.then(connecting)
    held = pool.connect()
    slow = Task(pool.connect)
    connecting.wait()
    held.close()
    driver.when_closed = lambda connection: gate()
    tasks = [Task(pool.shutdown)]
    gate.wait()
    # the idle one is being closed, for as long as it takes
    with pytest.raises(PoolShutdown):
        pool.connect()
    connecting.open()
    gate.open()
    all_refused([slow])
    assert tasks[0].result() == ()


def test_a_time_out_is_no_time_out_once_shut_down(driver):
    pool = a_pool(driver, pool_size=1)
    handle = pool.connect()
    pool.shutdown(0)
    for timeout in (0, 0.01, None):
        with pytest.raises(PoolShutdown):
            pool.connect(timeout=timeout)
    with pool.checkout_timeout(0), pytest.raises(PoolShutdown):
        pool.connect()
    handle.close()


def test_through_an_engine(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/a.db", poolclass=ReaperPool)
    with engine.connect() as connection:
        assert len(engine.pool.shutdown(0)) == 1
        # who has one goes on
        assert connection.scalar(text("select 1")) == 1
        connection.commit()
    assert engine.pool.shutdown() == ()
    with pytest.raises(PoolShutdown):
        engine.connect()
    # and with a new pool it works again
    shut = engine.pool
    engine.dispose()
    with engine.connect() as connection:
        assert connection.scalar(text("select 1")) == 1
    engine.dispose()
    with pytest.raises(PoolShutdown):
        shut.connect()


# what is open


def test_idle_ones_are_closed_now_and_held_ones_at_their_return(driver):
    pool = a_pool(driver)
    handles = [pool.connect() for _ in range(3)]
    handles.pop().close()
    [one, two] = pool.shutdown(0)
    assert one.where == pool.leases()[0].where
    assert two.holders[0].name == threading.current_thread().name
    assert [each.number for each in driver.open_ones] == [1, 2]
    assert closed(pool) == {"shutdown": 1}
    handles.pop().close()
    assert [each.number for each in driver.open_ones] == [1]
    # it is reset all the same
    assert driver.connections[1].calls == ["rollback"]
    assert len(pool.shutdown(0)) == 1
    handles.pop().close()
    assert driver.open_ones == []
    assert closed(pool) == {"shutdown": 3}
    assert pool.shutdown() == ()
    assert (pool.checkedin(), pool.checkedout(), pool.overflow()) == (0, 0, -3)
    stats = pool.stats()
    assert (stats.idle, stats.in_use, stats.opening) == (0, 0, 0)


def close_failing(pool, handle):
    def fail(connection):
        driver.count_close(connection)
        raise StubError("gone")

    driver = handle.dbapi_connection.driver
    driver.when_reset = driver.when_closed = fail
    handle.close()


def drop_in_a_cycle(pool, handles):
    cycle = [handles.pop()]
    cycle.append(cycle)
    del cycle
    gc.collect()


def close_in_a_thread(pool, handle):
    Task(handle.close).result()


def detach_and_close(pool, handle):
    handle.detach()
    handle.close()


WAYS = {
    "close": lambda pool, handles: handles[0].close(),
    "close in a thread": lambda pool, handles: close_in_a_thread(
        pool, handles[0]
    ),
    "invalidate": lambda pool, handles: handles[0].invalidate(),
    "detach": lambda pool, handles: detach_and_close(pool, handles[0]),
    "drop": lambda pool, handles: handles.clear(),
    "collect": drop_in_a_cycle,
    "failing close": lambda pool, handles: close_failing(pool, handles[0]),
}


@pytest.mark.parametrize("outdate", ["dispose", "refresh", None])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_each_way_in_which_a_lease_ends_ends_it(
    driver, monkeypatch, way, outdate
):
    # nobody but who ends it wakes it
    monkeypatch.setattr(lifetime, "_LOOK_AGAIN", 3600)
    pool = a_pool(driver)
    handles = [pool.connect()]
    if outdate is not None:
        getattr(pool, outdate)()
    tasks = [in_shutdown(pool), in_shutdown(pool), in_shutdown(pool, 3600)]
    way(pool, handles)
    assert [task.result() for task in tasks] == [(), (), ()]
    assert driver.open_ones == []
    assert pool.queue.live() == 0


def test_a_detached_one_is_not_the_pools_any_more(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    handle.detach()
    assert pool.shutdown() == ()
    assert len(driver.open_ones) == 1
    handle.close()


def test_the_time_is_up(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    began = monotonic()
    [lease] = pool.shutdown(timeout=0.05)
    assert 0.05 <= monotonic() - began < PATIENCE
    assert not lease.kept
    # again, and it is up again
    assert len(pool.shutdown(0.01)) == 1
    assert len(pool.shutdown(-1)) == 1
    handle.close()
    assert pool.shutdown(0.01) == ()


def test_it_waits_for_all_of_them(driver):
    pool = a_pool(driver)
    handles = [pool.connect() for _ in range(3)]
    task = in_shutdown(pool)
    while handles:
        assert task.is_alive()
        handles.pop().close()
    assert task.result() == ()


def test_what_is_kept_counts_as_out(driver):
    pool = a_pool(driver, dead_connection_timeout=0)
    handle = in_ended_thread(pool.connect)
    pool.keep(handle)
    [lease] = pool.shutdown(0)
    assert lease.kept
    handle.close()
    assert pool.shutdown() == ()


def test_a_failing_listener_does_not_keep_the_others_open(driver, caplog):
    pool = a_pool(driver)
    handles = [pool.connect() for _ in range(3)]
    for handle in handles:
        handle.close()

    @event.listens_for(pool, "close")
    def close(connection, record):
        if connection.number == 1:
            raise StubError("a listener's")

    with caplog.at_level(logging.ERROR, "sqlalchemy.pool"):
        assert pool.shutdown() == ()
    assert driver.open_ones == []
    assert "a listener's" in caplog.text


# while one is being opened


@pytest.mark.parametrize("disposed", [False, True])
def test_a_connect_under_way(driver, disposed):
    gate = Gate()
    pool = a_pool(driver)
    driver.then(gate)
    borrower = Task(pool.connect)
    gate.wait()
    if disposed:
        pool.dispose()
        assert pool.shutdown() == ()
    else:
        assert pool.shutdown(0) == ()
        task = in_shutdown(pool)
        assert task.is_alive()
    gate.open()
    all_refused([borrower])
    assert disposed or task.result() == ()
    assert driver.open_ones == []
    assert closed(pool) == {"shutdown": 1}
    assert pool.stats().connect_failures == 0


def test_a_connect_under_way_that_fails(driver):
    gate = Gate(StubError("no"))
    pool = a_pool(driver)
    driver.then(gate)
    borrower = Task(pool.connect)
    gate.wait()
    task = in_shutdown(pool)
    gate.open()
    with pytest.raises(StubError):
        borrower.result()
    assert task.result() == ()


def test_one_that_is_being_looked_at(driver):
    """By a checkout, which then has it; it is waited for."""
    gate = Gate()
    pool = a_pool(driver, dialect=StubDialect(), liveness="passive")
    pool.connect().close()
    [entry] = pool.idle_entries()
    entry.probe = gate
    entry.look = SimpleNamespace(quiet=lambda: False)
    borrower = Task(pool.connect)
    gate.wait()
    task = in_shutdown(pool)
    gate.open()
    handle = borrower.result()
    assert task.is_alive()
    handle.close()
    assert task.result() == ()
    assert driver.open_ones == []


def test_one_that_is_being_pinged_in_the_background(driver, monkeypatch):
    clock = Clock(monkeypatch)
    gate = Gate()
    dialect = StubDialect()
    dialect.do_ping = lambda connection: gate() or True
    pool = a_pool(driver, keepalive=10, dialect=dialect)
    pool.connect().close()
    pinging = Task(work, pool, clock, 20)
    gate.wait()
    assert pool.shutdown(0) == ()
    gate.open()
    pinging.result()
    assert driver.open_ones == []
    assert closed(pool) == {"shutdown": 1}


# min_idle


def test_nothing_is_opened_for_min_idle(driver, monkeypatch):
    clock = Clock(monkeypatch)
    pool = a_pool(driver, min_idle=2)
    handle = pool.connect()
    pool.shutdown(0)
    work(pool, clock, 60)
    handle.close()
    work(pool, clock, 60)
    assert driver.connects == 1
    assert driver.open_ones == []


def test_min_idle_being_opened(driver, monkeypatch, caplog):
    clock = Clock(monkeypatch)
    gate = Gate()
    pool = a_pool(driver, min_idle=2)
    pool.connect().close()
    driver.then(gate)
    refill = Task(work, pool, clock)
    gate.wait()
    assert pool.shutdown(0) == ()
    gate.open()
    with caplog.at_level(logging.WARNING, "sqlalchemy.pool"):
        refill.result()
    assert driver.open_ones == []
    assert driver.connects == 2
    assert caplog.text == ""


@pytest.mark.parametrize("min_idle", [0, 2])
def test_wait_ready_is_refused(driver, min_idle):
    pool = a_pool(driver, min_idle=min_idle)
    pool.shutdown()
    with pytest.raises(PoolShutdown):
        pool.wait_ready()
    with pytest.raises(PoolShutdown):
        pool.wait_ready(timeout=60)
    assert driver.connects == 0


@pytest.mark.parametrize("timeout", [None, 3600])
def test_wait_ready_while_it_opens(driver, timeout):
    gate = Gate()
    pool = a_pool(driver, min_idle=2)
    driver.then(gate)
    task = Task(pool.wait_ready, timeout)
    gate.wait()
    pool.shutdown(0)
    gate.open()
    all_refused([task])
    assert driver.open_ones == []


def test_wait_ready_between_two_attempts(driver, monkeypatch):
    monkeypatch.setattr(
        sa_reaperpool.upkeep, "backoff", lambda failures, random: 3600
    )
    pool = a_pool(driver, min_idle=1)
    driver.then(StubError("down"))
    task = Task(pool.wait_ready, 3600)
    until(lambda: pool.queue._watchers)
    pool.shutdown()
    all_refused([task])


# dead holders


def test_who_waits_takes_back_what_dead_holders_left(driver, monkeypatch):
    monkeypatch.setattr(lifetime, "_LOOK_AGAIN", 0.01)
    pool = a_pool(driver, dead_connection_timeout=0)
    may_end, handles = Gate(), []

    def hold():
        handles.append(pool.connect())
        may_end()

    holder = Task(hold)
    may_end.wait()
    task = in_shutdown(pool)
    may_end.open()
    holder.result()
    assert task.result() == ()
    assert driver.open_ones == []
    assert closed(pool) == {"reaped": 1}
    with pytest.raises(ConnectionReclaimed):
        handles[0].cursor()


def test_what_dead_holders_left_is_taken_back_without_waiting_too(driver):
    pool = a_pool(driver, dead_connection_timeout=0)
    handle = in_ended_thread(pool.connect)
    assert pool.shutdown(0) == ()
    assert closed(pool) == {"reaped": 1}
    assert not handle.is_valid


def test_reap_by_hand_does_nothing_any_more(driver):
    pool = a_pool(driver, dead_connection_timeout=0)
    may_end, handles = Gate(), []
    holder = Task(lambda: handles.append(pool.connect()) or may_end())
    may_end.wait()
    pool.shutdown(0)
    may_end.open()
    holder.result()
    assert pool.reap() == 0
    assert len(driver.open_ones) == 1
    assert pool.flush() == 0
    assert pool.shutdown(0) == ()
    assert pool.reap() == 0


def looked_after(pool):
    return any(ref() is pool for ref in list(reaper._rounds))


def test_the_reaper_takes_back_the_rest_and_lets_go(driver, monkeypatch):
    monkeypatch.setattr(lifetime, "_LOOK_AGAIN", 3600)
    pool = a_pool(driver, reaping_frequency=3600, dead_connection_timeout=0)
    may_end, handles = Gate(), []
    holder = Task(lambda: handles.append(pool.connect()) or may_end())
    may_end.wait()
    until(lambda: looked_after(pool))
    task = in_shutdown(pool)
    may_end.open()
    holder.result()
    assert task.result() == ()
    assert closed(pool) == {"reaped": 1}
    until(lambda: not looked_after(pool))


def test_the_reaper_stays_for_what_is_out_and_nobody_waits_for(driver):
    pool = a_pool(driver, reaping_frequency=3600, dead_connection_timeout=0)
    may_end, handles = Gate(), []
    holder = Task(lambda: handles.append(pool.connect()) or may_end())
    may_end.wait()
    pool.shutdown(0)
    may_end.open()
    holder.result()
    until(lambda: closed(pool) == {"reaped": 1})
    assert driver.open_ones == []


# again, beside others


def test_dispose_is_harmless_and_recreate_gives_a_new_one(driver):
    pool = a_pool(driver, max_age=77)
    handle = pool.connect()
    pool.shutdown(0)
    pool.dispose()
    with pytest.raises(PoolShutdown):
        pool.connect()
    assert len(pool.shutdown(0)) == 1
    handle.close()
    assert driver.open_ones == []
    assert pool.shutdown() == ()
    new = pool.recreate()
    assert new.settings.max_age == 77
    new.connect().close()
    assert new.shutdown() == ()
    assert driver.open_ones == []


def test_dispose_while_somebody_waits(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    task = in_shutdown(pool)
    pool.dispose()
    assert task.is_alive()
    handle.close()
    assert task.result() == ()
    assert driver.open_ones == []


def test_in_the_middle_of_a_storm(driver):
    pool = a_pool(driver, pool_size=3, max_overflow=1, max_connecting=2)
    begun = threading.Barrier(11)

    def storm(number):
        begun.wait()
        served = 0
        while True:
            try:
                handle = pool.connect()
            except PoolShutdown:
                return served
            served += 1
            way = (served + number) % 4
            if way == 0:
                handle.invalidate()
            elif way == 1:
                # or it would be open beside the pool's
                handle.dbapi_connection.close()
                handle.detach()
            elif way == 2:
                handle.close()
            del handle

    with switching_often():
        for _ in range(5):
            tasks = [Task(storm, number) for number in range(10)]
            begun.wait()
            until(lambda: pool.stats().checkouts >= 30)
            ends = [Task(pool.shutdown) for _ in range(3)]
            assert [end.result() for end in ends] == [(), (), ()]
            assert driver.open_ones == []
            for task in tasks:
                task.result()
            assert driver.open_ones == []
            assert pool.queue.live() == pool.queue.making() == 0
            pool = pool.recreate()
    assert driver.most_open <= 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_of_a_shut_down_pool(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    pool.shutdown(0)
    child = os.fork()
    if not child:
        status = 1
        try:
            # what is out is the parent's
            assert pool.shutdown() == ()
            with pytest.raises(PoolShutdown):
                pool.connect(timeout=0)
            pool.recreate().connect()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert len(pool.shutdown(0)) == 1
    handle.close()


# with


def test_the_end_of_a_block(driver):
    with a_pool(driver) as pool:
        pool.connect().close()
        assert len(driver.open_ones) == 1
    assert driver.open_ones == []
    with pytest.raises(PoolShutdown):
        pool.connect()
    with pytest.raises(PoolShutdown):
        with pool:
            pytest.fail("it is shut down")


def test_the_end_of_a_block_waits_for_others(driver):
    leave = Gate()
    pool = a_pool(driver)
    handle = pool.connect()

    def block():
        with pool:
            leave()
        return list(driver.open_ones)

    task = Task(block)
    leave.open()
    until(lambda: pool.queue._watchers)
    handle.close()
    assert task.result() == []


def test_the_end_of_a_block_does_not_wait_for_ever(
    driver, monkeypatch, caplog
):
    monkeypatch.setattr(lifetime, "_AT_EXIT", 0.01)
    with caplog.at_level(logging.WARNING, "sqlalchemy.pool"):
        with a_pool(driver) as pool:
            handle = pool.connect()
    assert "still out: held by 'MainThread'" in caplog.text
    assert "test_shutdown.py" in caplog.text
    handle.close()
    assert driver.open_ones == []


def test_an_exception_in_a_block_does_not_wait_at_all(driver, monkeypatch):
    monkeypatch.setattr(lifetime, "_AT_EXIT", 3600)

    def block():
        with a_pool(driver) as pool:
            handle = pool.connect()
            idle = pool.connect()
            idle.close()
            raise StubError(handle)

    with pytest.raises(StubError) as caught:
        Task(block).result()
    [handle] = caught.value.args
    assert [each.number for each in driver.open_ones] == [1]
    handle.close()
    assert driver.open_ones == []


# interrupted


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals")
def test_a_keyboard_interrupt_ends_the_wait(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    main = threading.get_ident()

    def interrupt():
        until(lambda: pool.queue._watchers)
        signal.pthread_kill(main, signal.SIGINT)

    task = Task(interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.shutdown()
    task.result()
    assert not pool.queue._watchers
    handle.close()
    assert pool.shutdown() == ()
    assert driver.open_ones == []


@pytest.mark.parametrize("moment", ["begin", "end"])
def test_in_a_signals_handler_inside_a_critical_section(driver, moment):
    """Its thread cannot wait for what it holds itself."""
    pool = a_pool(driver, pool_size=2)
    idle, handle = pool.connect(), pool.connect()
    idle.close()
    tasks = []
    lock = pool.queue._lock = HookedLock()

    def handler():
        tasks.append(pool.shutdown())

    lock.hooks[moment] = handler
    Task(pool.stats).result()
    assert len(tasks[0]) == 1
    assert len(driver.open_ones) == 1
    handle.close()
    assert Task(pool.shutdown).result() == ()
    assert driver.open_ones == []


def test_an_interrupted_shutdown_leaves_nothing_behind():
    """At each of its lines; it is called again, and all is as it should."""
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.freeze()
    try:
        nth = 0
        while True:
            nth += 1
            pool, open_ones = stub_pool(pool_size=3, timeout=None)
            handles = [pool.connect() for _ in range(3)]
            handles.pop().close()
            handles.pop().close()
            interrupter = Interrupter(nth)
            interrupter.run(lambda: pool.shutdown(0))
            # kept, with all that the frames in its traceback refer to
            where = interrupter.where
            assert len(pool.shutdown(0)) == 1, where
            assert len(open_ones) == 1, where
            handles.pop().close()
            assert pool.shutdown() == (), where
            assert len(open_ones) == 0, where
            assert pool.stats().opening == 0, where
            if where is None:
                break
        assert nth > 60
    finally:
        gc.unfreeze()
        logging.disable(logging.NOTSET)
