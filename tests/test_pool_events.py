"""Events, resets and recreate(): what SQLAlchemy documents of its pools."""

from __future__ import annotations

import gc
import logging
import threading
import time

import pytest
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import QueuePool
from sqlalchemy.pool import reset_commit
from sqlalchemy.pool import reset_none
from stub import Driver
from stub import HookedLock
from stub import StubDialect
from stub import StubError
from stub import Task
from stub import in_ended_thread

from sa_reaperpool import ReaperPool
from sa_reaperpool.options import OPTIONS

EVENTS = (
    "connect",
    "first_connect",
    "checkout",
    "checkin",
    "reset",
    "invalidate",
    "soft_invalidate",
    "close",
    "detach",
    "close_detached",
)


@pytest.fixture
def driver():
    return Driver()


def a_pool(driver, poolclass=ReaperPool, **options):
    if poolclass is ReaperPool:
        options.setdefault("reaping_frequency", None)
    options = {"pool_size": 1, "max_overflow": 0, "timeout": 0, **options}
    return poolclass(driver.connect, **options)


def noted(pool):
    """All events of a pool from here on, as they come."""
    told = []

    def listen(name):
        event.listen(pool, name, lambda *args: told.append(name))

    for name in EVENTS:
        listen(name)
    return told


def drop(handles):
    handles.clear()
    gc.collect()


def cycle(pool, handles):
    handles[0].close()
    handles[:] = [pool.connect()]


LIVES = {
    "close": lambda pool, handles: handles[0].close(),
    "close twice used": cycle,
    "invalidate": lambda pool, handles: handles[0].invalidate(),
    "soft": lambda pool, handles: (
        handles[0].invalidate(soft=True),
        cycle(pool, handles),
    ),
    "detach": lambda pool, handles: handles[0].detach(),
    "detach and close": lambda pool, handles: (
        handles[0].detach(),
        handles[0].close(),
    ),
    "drop": lambda pool, handles: drop(handles),
    "dispose": lambda pool, handles: (handles[0].close(), pool.dispose()),
    "dispose before": lambda pool, handles: (
        pool.dispose(),
        handles[0].close(),
    ),
}


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)
def test_events_are_queuepools(life):
    told, lent = [], []
    for poolclass in (QueuePool, ReaperPool):
        driver = Driver()
        pool = a_pool(driver, poolclass)
        events = noted(pool)
        handles = [pool.connect()]
        life(pool, handles)
        told.append(list(events))
        lent.append([list(each.calls) for each in driver.connections])
    assert told[1] == told[0]
    assert "checkout" in told[0]
    assert lent[1] == lent[0]


@pytest.mark.parametrize("invalidates_pool", [False, True])
def test_disconnect_at_checkout_tries_again(driver, invalidates_pool):
    pool = a_pool(driver, pool_size=2)
    for handle in [pool.connect(), pool.connect()]:
        handle.close()

    @event.listens_for(pool, "checkout")
    def checkout(connection, record, handle):
        if connection.number < 3:
            error = DisconnectionError("gone")
            error.invalidate_pool = invalidates_pool
            raise error

    handle = pool.connect()
    assert handle.dbapi_connection.number == 3
    handle.close()
    assert pool.checkedout() == 0


def test_disconnect_at_each_checkout_is_an_error_and_no_loss(driver):
    pool = a_pool(driver)
    dead = [True]

    @event.listens_for(pool, "checkout")
    def checkout(*args):
        if dead:
            raise DisconnectionError("gone")

    with pytest.raises(Exception, match="closed"):
        pool.connect()
    dead.clear()
    pool.connect().close()


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("way", ["close", "invalidate", "detach", "drop"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_event_that_raises_loses_no_slot(driver, name, way):
    pool = a_pool(driver)
    raising = [True]

    @event.listens_for(pool, name)
    def fail(*args):
        if raising:
            raise StubError(name)

    handles = []
    try:
        handles.append(pool.connect())
        if way == "drop":
            drop(handles)
        else:
            getattr(handles[0], way)()
    except StubError:
        pass
    raising.clear()
    # the handle is kept all the while
    pool.connect().close()
    assert pool.checkedout() == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("inside", [False, True])
def test_checkin_event_that_raises_in_a_collected_handles_return(
    driver, caplog, inside
):
    """Whoever runs this return has nothing to do with it."""
    pool = a_pool(driver, pool_size=1, max_overflow=0, timeout=0)
    handles = [pool.connect()]
    raised = []

    @event.listens_for(pool, "checkin")
    def checkin(*args):
        if not raised:
            raised.append(threading.current_thread())
            raise StubError("broken listener")

    def innocent():
        if inside:
            lock = pool.queue._lock = HookedLock()
            lock.hooks["begin"] = handles.clear
            pool.stats()
        else:
            handles.clear()
        return threading.current_thread()

    with caplog.at_level(logging.ERROR, "sqlalchemy.pool"):
        assert [Task(innocent).result()] == raised
    assert "broken listener" in caplog.text
    # although the log record is kept
    assert (pool.stats().in_use, pool.stats().opening) == (0, 0)
    pool.connect().close()


def test_events_of_a_connection_taken_back(driver):
    pool = a_pool(driver, dead_connection_timeout=0)
    events = noted(pool)
    handle = in_ended_thread(pool.connect)
    del events[:]
    assert pool.reap() == 1
    # as for any connection that is invalidated
    assert events == ["invalidate", "close", "checkin"]
    handle.close()
    assert events == ["invalidate", "close", "checkin"]


@pytest.mark.parametrize(
    "given, calls",
    [
        (True, ["rollback"]),
        ("commit", ["commit"]),
        (None, []),
        (False, []),
        ("none", []),
    ],
)
def test_reset_on_return(driver, given, calls):
    pool = a_pool(driver, reset_on_return=given)
    pool.connect().close()
    assert driver.connections[0].calls == calls


def test_a_failing_reset_closes_the_connection_and_frees_its_place(driver):
    def fail(connection):
        raise StubError("reset")

    driver.when_reset = fail
    pool = a_pool(driver)
    pool.connect().close()
    assert driver.open_ones == []
    assert pool.connect().dbapi_connection.number == 2


def test_recycle(driver, monkeypatch):
    pool = a_pool(driver, recycle=60)
    pool.connect().close()
    handle = pool.connect()
    assert handle.dbapi_connection.number == 1
    handle.close()
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert pool.connect().dbapi_connection.number == 2
    assert dict(pool.stats().closed) == {"age": 1}


# recreate


OTHER_VALUES = {
    "reservation": "thread",
    "pool_size": 7,
    "max_overflow": 3,
    "timeout": 1.5,
    "use_lifo": True,
    "recycle": 90,
    "pre_ping": True,
    "reset_on_return": "commit",
    "reaping_frequency": 7,
    "dead_connection_timeout": 8,
    "max_age": 9,
    "idle_timeout": 10,
    "min_idle": 2,
    "keepalive": 11,
    "jitter": 0.1,
    "liveness": "off",
    "max_waiting": 5,
    "max_connecting": 4,
    "leak_timeout": 12,
    "reclaim_timeout": 13,
    "on_deadlock": "raise",
}


def state(pool):
    """What of a pool the options have made, as another sees it."""
    return {
        **vars(pool.settings),
        "pool_size": pool.size(),
        "use_lifo": pool._pool.use_lifo,
        "limit": pool._pool.limit,
        "max_overflow": pool._max_overflow,
        "timeout": pool._timeout,
        "recycle": pool._recycle,
        "pre_ping": pool._pre_ping,
        "reset_on_return": pool._reset_on_return,
    }


def test_every_option_has_another_value_here():
    assert OTHER_VALUES.keys() == {option.keyword for option in OPTIONS}


@pytest.mark.parametrize("keyword", OTHER_VALUES)
def test_recreate_carries_each_option(driver, keyword):
    pool = ReaperPool(driver.connect, **{keyword: OTHER_VALUES[keyword]})
    again = pool.recreate().recreate()
    assert state(again) == state(pool)
    assert state(again) != state(ReaperPool(driver.connect))


def test_recreate_carries_values_that_switch_off(driver):
    options = {
        "timeout": None,
        "reaping_frequency": None,
        "reset_on_return": None,
        "max_overflow": -1,
        "liveness": "off",
    }
    pool = ReaperPool(driver.connect, **options)
    assert state(pool.recreate()) == state(pool)
    assert pool.recreate()._reset_on_return is reset_none
    unlimited = ReaperPool(driver.connect, pool_size=0)
    assert unlimited.recreate()._pool.limit is None


def test_recreate_carries_the_rest(driver):
    class Mine(ReaperPool):
        pass

    dialect = StubDialect()
    pool = Mine(
        driver.connect,
        reset_on_return="commit",
        logging_name="books",
        echo="debug",
        dialect=dialect,
    )
    events = noted(pool)
    again = pool.recreate()
    assert type(again) is Mine
    assert again is not pool
    assert again.logging_name == "books"
    assert again.echo == "debug"
    assert again._dialect is dialect
    assert again._reset_on_return is reset_commit
    again.connect().close()
    assert driver.connects == 1
    assert events == [
        "first_connect",
        "connect",
        "checkout",
        "reset",
        "checkin",
    ]


def test_recreate_begins_empty(driver):
    pool = a_pool(driver)
    handle = pool.connect()
    again = pool.recreate()
    assert again.checkedout() == 0
    assert again.leases() == ()
    assert again.stats().checkouts == 0
    again.connect()
    handle.close()
