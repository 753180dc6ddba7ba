"""The pool's own event: ``reap``."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy import create_engine
from sqlalchemy import event
from stub import Driver
from stub import Task

from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import LeaseInfo
from sa_reaperpool import ReaperPool


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def pool(driver):
    return ReaperPool(
        driver.connect, reaping_frequency=None, dead_connection_timeout=0
    )


def abandon(pool):
    """Have a thread die with a connection; return its handle."""
    return Task(pool.connect).result()


def test_it_tells_of_the_lease_and_the_reason(pool, driver):
    told = []

    @event.listens_for(pool, "reap")
    def reaped(lease, reason):
        told.append((lease, reason, pool.checkedout(), driver.open_ones))

    handle = abandon(pool)
    assert pool.reap() == 1
    [(lease, reason, out, open_ones)] = told
    assert isinstance(lease, LeaseInfo) and not lease.holders[0].alive
    assert "stub.py" in lease.where
    assert reason == "abandoned"
    # the slot is free and the connection closed by then
    assert out == 0 and open_ones == []
    with pytest.raises(ConnectionReclaimed):
        handle.cursor()


def test_a_return_is_none(pool):
    told = []
    event.listen(pool, "reap", lambda *args: told.append(args))
    pool.connect().close()
    pool.connect().invalidate()
    assert pool.reap() == 0 and told == []


def test_an_exception_in_it_is_logged_and_the_next_is_told(pool, caplog):
    told = []

    def fails(lease, reason):
        raise RuntimeError("no pager")

    event.listen(pool, "reap", fails)
    event.listen(pool, "reap", lambda lease, reason: told.append(reason))
    handles = [abandon(pool), abandon(pool)]
    with caplog.at_level(logging.ERROR):
        assert pool.reap() == len(handles)
    assert told == ["abandoned", "abandoned"]
    assert caplog.text.count("RuntimeError: no pager") == 2


def test_disconnect_tells_it(pool):
    told = []
    event.listen(pool, "reap", lambda lease, reason: told.append(reason))
    handle = pool.connect()
    pool.disconnect()
    assert told == ["disconnected"] and not handle.is_valid


def test_it_is_listened_for_on_an_engine_and_kept_by_recreate(tmp_path):
    told = []
    engine = create_engine(
        f"sqlite:///{tmp_path}/a.db",
        poolclass=ReaperPool,
        reaping_frequency=None,
        dead_connection_timeout=0,
    )
    event.listen(engine, "reap", lambda lease, reason: told.append(reason))
    engine.dispose()
    handle = abandon(engine.pool)
    assert engine.pool.reap() == 1
    assert told == ["abandoned"] and not handle.is_valid


def test_those_of_all_pools(driver):
    told = []

    def listener(lease, reason):
        told.append(reason)

    event.listen(ReaperPool, "reap", listener)
    try:
        pool = ReaperPool(
            driver.connect, reaping_frequency=None, dead_connection_timeout=0
        )
        handle = abandon(pool)
        pool.reap()
    finally:
        event.remove(ReaperPool, "reap", listener)
    assert told == ["abandoned"] and not handle.is_valid
