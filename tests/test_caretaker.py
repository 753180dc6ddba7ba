"""Acting on leases: reap, look at the server, report a leak."""

from __future__ import annotations

import functools
import logging
import threading
import weakref

import pytest
from rounds import Clock
from rounds import a_pool
from rounds import closed
from rounds import work
from stub import Driver
from stub import StubError
from stub import in_ended_thread

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ConnectionReclaimed
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


def test_an_abandoned_lease_is_taken_back_after_its_grace(make, clock):
    pool = make(dead_connection_timeout=5)
    handle = in_ended_thread(pool.connect)
    assert work(pool, clock, 4.9) == (1005.0, None)
    assert closed(pool) == {}
    work(pool, clock, 0.1)
    assert closed(pool) == {"reaped": 1}
    with pytest.raises(ConnectionReclaimed):
        handle.cursor()


def test_a_lease_that_was_handed_on_is_left_alone(make, clock):
    pool = make(dead_connection_timeout=5)
    handle = in_ended_thread(pool.connect)
    work(pool, clock, 4)
    handle.cursor()
    work(pool, clock, 50)
    assert closed(pool) == {}


def test_a_kept_lease_is_left_alone(make, clock):
    pool = make(dead_connection_timeout=5, leak_timeout=1)
    handle = in_ended_thread(pool.connect)
    pool.keep(handle)
    work(pool, clock, 5000)
    assert closed(pool) == {}
    # for that one use
    handle.close()
    handle = in_ended_thread(pool.connect)
    work(pool, clock, 5)
    assert closed(pool) == {"reaped": 1}
    del handle


def test_an_open_cursor_is_a_use(make, clock):
    pool = make(dead_connection_timeout=5)

    def leave():
        handle = pool.connect()
        return handle, handle.cursor()

    handle, cursor = in_ended_thread(leave)
    # nobody tells when it is closed: looked at again
    due, _ = work(pool, clock, 60)
    assert due == clock.now + 5
    assert closed(pool) == {}
    cursor.close()
    # it may have been read a moment ago, by somebody who goes on
    due, _ = work(pool, clock, 5)
    assert due == clock.now + 5
    assert closed(pool) == {}
    work(pool, clock, 5)
    assert closed(pool) == {"reaped": 1}
    del handle


def test_use_goes_on_after_an_open_cursor(make, clock):
    pool = make(dead_connection_timeout=5)

    def leave():
        handle = pool.connect()
        return handle, handle.cursor()

    handle, cursor = in_ended_thread(leave)
    for _ in range(3):
        work(pool, clock, 5)
    cursor.close()
    work(pool, clock, 5)
    # what came of the cursor took so long to look at
    work(pool, clock, 4.9)
    handle.cursor().close()
    work(pool, clock, 4.9)
    assert closed(pool) == {}


def test_the_end_of_a_cursor_is_a_use(make, clock):
    """One that nobody looked at between its beginning and its end."""
    pool = make(dead_connection_timeout=5)

    def leave():
        handle = pool.connect()
        return handle, handle.cursor()

    handle, cursor = in_ended_thread(leave)
    clock.now += 4.9
    del cursor
    assert work(pool, clock, 4.8)[0] == pytest.approx(clock.now + 0.2)
    assert closed(pool) == {}
    work(pool, clock, 0.3)
    assert closed(pool) == {"reaped": 1}
    del handle


def test_a_cursor_that_is_kept_keeps_no_lease(make):
    pool = make(reservation="explicit")
    handle = pool.connect()
    cursor = handle.cursor()
    entry = weakref.ref(handle._connection_record)
    handle.detach()
    pool.dispose()
    del handle
    assert entry() is None
    cursor.close()


def test_a_running_command_is_a_use(make, clock, driver):
    class Info:
        transaction_status = 1

    pool = make(dead_connection_timeout=5)
    handle = in_ended_thread(pool.connect)
    driver.connections[0].info = Info()
    work(pool, clock, 60)
    assert closed(pool) == {}
    Info.transaction_status = 2
    work(pool, clock, 5)
    assert closed(pool) == {}
    work(pool, clock, 5)
    assert closed(pool) == {"reaped": 1}
    del handle


def test_a_holder_whose_server_is_gone(make, clock):
    pool = make(dead_connection_timeout=5)
    handle = pool.connect()
    looks = []
    entry = handle._connection_record
    entry.probe = lambda: looks.append(1) or Look.CLOSED
    work(pool, clock, 4.9)
    assert looks == []
    work(pool, clock, 0.1)
    assert closed(pool) == {"dead": 1}
    with pytest.raises(ConnectionReclaimed, match="server closed") as caught:
        handle.cursor()
    assert caught.value.reason == "dead"


def test_a_holder_whose_server_is_gone_keeps_a_cursor_open(make, clock):
    pool = make(dead_connection_timeout=5)
    handle = pool.connect()
    cursor = handle.cursor()
    handle._connection_record.probe = lambda: Look.CLOSED
    work(pool, clock, 5)
    assert closed(pool) == {"dead": 1}
    assert not cursor.closed


def test_a_holder_whose_server_is_gone_in_a_command(make, clock, driver):
    """It is about to hear so itself."""

    class Info:
        transaction_status = 1

    pool = make(dead_connection_timeout=5)
    handle = pool.connect()
    driver.connections[0].info = Info()
    handle._connection_record.probe = lambda: Look.CLOSED
    work(pool, clock, 5)
    assert closed(pool) == {}
    del handle


@pytest.mark.parametrize("look", [Look.QUIET, Look.READABLE])
def test_a_holder_whose_server_is_there(make, clock, look):
    pool = make(dead_connection_timeout=5)
    handle = pool.connect()
    handle._connection_record.probe = lambda: look
    work(pool, clock, 500)
    assert closed(pool) == {}


def test_looks_are_not_taken_more_often_than_is_of_use(make, clock):
    """Each end of a thread asks, and there may be thousands of leases."""
    pool = make(dead_connection_timeout=5)
    handle = pool.connect()
    entry = handle._connection_record
    looks = []
    entry.probe = lambda: looks.append(1) or Look.QUIET
    due, _ = work(pool, clock, 5)
    assert (len(looks), due) == (1, None)
    # what asks within a second has its look at the end of it
    for _ in range(8):
        due, _ = work(pool, clock, 0.0625)
        assert (len(looks), due) == (1, 1006.0)
    work(pool, clock, 0.5)
    assert len(looks) == 2
    entry.probe = lambda: Look.CLOSED
    due, _ = work(pool, clock, 0.5)
    assert closed(pool) == {}
    work(pool, clock, due - clock.now)
    assert closed(pool) == {"dead": 1}


def test_a_leak_is_reported_once(make, clock, caplog):
    pool = make(leak_timeout=10)
    handle = pool.connect()
    with caplog.at_level(logging.WARNING, "sqlalchemy.pool"):
        assert work(pool, clock, 9) == (clock.now + 1, None)
        assert caplog.records == []
        work(pool, clock, 2)
        work(pool, clock, 100)
    [record] = caplog.records
    message = record.getMessage()
    assert record.levelno == logging.WARNING
    assert "leak" in message and "11.0 s" in message
    assert f"{__file__}:" in message and "pool.keep()" in message
    assert closed(pool) == {}
    handle.close()


def test_what_is_not_used_for_long_is_reclaimed(make, clock, caplog):
    pool = make(reclaim_timeout=40)
    handle = pool.connect()
    # first it is seen to be quiet, and then for long enough
    assert work(pool, clock, 9) == (clock.now + 1, None)
    work(pool, clock, 1)
    assert work(pool, clock, 39) == (clock.now + 1, None)
    assert closed(pool) == {}
    with caplog.at_level(logging.WARNING, "sqlalchemy.pool"):
        work(pool, clock, 1)
    assert closed(pool) == {"reclaimed": 1}
    assert pool.checkedout() == 0
    [record] = caplog.records
    assert "not used for the reclaim_timeout" in record.getMessage()
    assert "pool.keep()" in record.getMessage()
    with pytest.raises(ConnectionReclaimed, match="reclaim_timeout") as caught:
        handle.cursor()
    assert caught.value.reason == "reclaimed"
    handle.close()


def test_what_is_used_is_not_reclaimed(make, clock):
    pool = make(reclaim_timeout=40)
    handle = pool.connect()
    for _ in range(5):
        work(pool, clock, 39)
        handle.cursor().close()
    work(pool, clock, 10)
    handle.cursor().close()
    # it was quiet before that, which counts no more
    work(pool, clock, 39.9)
    work(pool, clock, 39.9)
    assert closed(pool) == {}
    work(pool, clock, 0.1)
    assert closed(pool) == {"reclaimed": 1}


@pytest.mark.parametrize("how", ["a cursor is open", "a command runs"])
def test_what_is_in_use_is_not_reclaimed(make, clock, driver, how):
    class Info:
        transaction_status = 1

    pool = make(reclaim_timeout=40)
    handle = pool.connect()
    cursor = handle.cursor()
    if how == "a command runs":
        cursor.close()
        driver.connections[0].info = Info()
    for _ in range(9):
        assert work(pool, clock, 100)[0] == clock.now + 10
    Info.transaction_status = 2
    cursor.close()
    # from its end on it has the whole time
    work(pool, clock, 10)
    work(pool, clock, 39)
    assert closed(pool) == {}
    work(pool, clock, 1)
    assert closed(pool) == {"reclaimed": 1}


def test_what_begins_at_the_last_moment_is_not_reclaimed(make, clock, driver):
    class Info:
        transaction_status = 2

    pool = make(reclaim_timeout=40)
    handle = pool.connect()
    driver.connections[0].info = Info()
    work(pool, clock, 10)
    # past the handle, so that there is no use to be seen
    Info.transaction_status = 1
    work(pool, clock, 40)
    Info.transaction_status = 2
    work(pool, clock, 10)
    work(pool, clock, 39)
    assert closed(pool) == {}
    work(pool, clock, 1)
    assert closed(pool) == {"reclaimed": 1}
    handle.close()


def test_what_is_kept_is_not_reclaimed(make, clock):
    pool = make(reclaim_timeout=1)
    with pool.connect() as handle:
        pool.keep(handle)
        for _ in range(5):
            work(pool, clock, 100)
        assert closed(pool) == {}


def test_reclaimed_without_a_reaper(make, clock):
    """By those who come to wait."""
    pool = make(reclaim_timeout=40, pool_size=1, max_overflow=0)
    handle = pool.connect()
    for seconds in (10, 39):
        clock.now += seconds
        with pytest.raises(CheckoutTimeout):
            pool.connect()
    clock.now += 1
    pool.connect().close()
    assert closed(pool) == {"reclaimed": 1}
    handle.close()


def test_each_reap_is_one_warning(make, clock, caplog):
    pool = make(dead_connection_timeout=5, logging_name="books")

    def take():
        threading.current_thread().name = "forgetful"
        return pool.connect()

    handles = [in_ended_thread(take) for _ in range(2)]
    with caplog.at_level(logging.WARNING, "sqlalchemy.pool"):
        work(pool, clock, 7)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    message = caplog.records[0].getMessage()
    for part in ("'books'", "'forgetful'", "7.0 s", __file__, "pool.keep()"):
        assert part in message
    assert len(handles) == 2


def test_a_close_that_fails_is_that_connections_own(make, clock, driver):
    pool = make(dead_connection_timeout=5)
    handles = [in_ended_thread(pool.connect) for _ in range(3)]

    def fail(connection):
        if connection.number == 1:
            raise StubError("close")

    driver.when_closed = fail
    work(pool, clock, 5)
    assert closed(pool) == {"reaped": 3}
    assert pool.checkedout() == 0
    assert [each.number for each in driver.open_ones] == [1]
    assert len(handles) == 3


def test_what_changed_since_the_decision_counts(make, clock):
    pool = make(dead_connection_timeout=5)
    handle = in_ended_thread(pool.connect)
    tasks = []
    clock.now += 5
    pool.tend_leases(clock.now, lambda key, task: tasks.append(task))
    handle.cursor()
    [task] = tasks
    task()
    assert closed(pool) == {}
    handle.close()
    task()
    assert closed(pool) == {}


def test_a_leases_end_before_the_act(make, clock):
    pool = make(dead_connection_timeout=5)
    handle = in_ended_thread(pool.connect)
    tasks = []
    clock.now += 5
    pool.tend_leases(clock.now, lambda key, task: tasks.append(task))
    handle.close()
    again = in_ended_thread(pool.connect)
    for task in tasks:
        task()
    assert closed(pool) == {}
    again.close()


def test_what_is_lost_just_now_may_be_on_its_way(make, clock, monkeypatch):
    """Another thread's garbage collector has cleared the weak reference,
    and is about to call what returns the connection."""
    pool = make()
    handle = pool.connect()
    lease = handle.lease
    # as if its callback had not been called so far
    monkeypatch.setattr(pool, "_handle_collected", lambda lease: None)
    del handle, lease
    assert pool.has_lost()
    due, _ = work(pool, clock)
    assert pool.checkedout() == 1
    assert clock.now < due <= clock.now + 0.1
    work(pool, clock, due - clock.now)
    assert (pool.checkedout(), pool.checkedin()) == (0, 1)
