"""An SQLite file: no socket to look at, and a writer that blocks others."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine
from sqlalchemy import text
from waiting import eventually
from waiting import in_a_thread_that_ends

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import ReaperPool


@pytest.fixture
def engine(tmp_path):
    engine = create_engine(
        f"sqlite:///{tmp_path}/file.db",
        poolclass=ReaperPool,
        pool_size=2,
        max_overflow=0,
        dead_connection_timeout=0.1,
        reaping_frequency=60,
    )
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
    yield engine
    engine.dispose()


def insert(connection, x):
    connection.execute(text("INSERT INTO t VALUES (:x)"), {"x": x})


def test_abandoned_write_lock_is_released(engine):
    """A leaked write transaction would block the next writer for 5 s."""
    kept = []

    def take():
        connection = engine.connect()
        insert(connection, 1)
        kept.append(connection)

    in_a_thread_that_ends(take)
    eventually(lambda: engine.pool.stats().in_use == 0)
    with engine.begin() as connection:
        insert(connection, 2)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT x FROM t")).scalars().all()
    assert rows == [2]
    with pytest.raises(ConnectionReclaimed):
        insert(kept[0], 3)


def test_transaction_state_is_told(engine):
    with engine.connect() as connection:
        assert engine.pool.leases()[0].in_transaction is False
        insert(connection, 1)
        assert engine.pool.leases()[0].in_transaction is True


def test_one_that_somebody_closed_is_still_told_of(engine):
    """As whoever looks may have seen it just before the pool closed it."""
    engine.pool.configure(pool_size=1, max_overflow=0, timeout=0)
    with engine.connect() as connection:
        connection.connection.driver_connection.close()
        [lease] = engine.pool.leases()
        assert lease.in_transaction is None
        with pytest.raises(CheckoutTimeout) as caught:
            engine.connect()
        assert caught.value.leases[0].where == lease.where
        connection.invalidate()


@pytest.mark.parametrize("unused_for, pings", [(0.9, 0), (1.1, 1)])
def test_recently_used_is_not_pinged(engine, monkeypatch, unused_for, pings):
    pinged = []
    monkeypatch.setattr(
        engine.dialect, "do_ping", lambda c: pinged.append(c) or True
    )
    (entry,) = engine.pool.idle_entries()
    entry.traffic_at -= unused_for
    with engine.connect():
        assert len(pinged) == pings


def test_dead_one_is_replaced_and_the_others_are_doubted(engine, monkeypatch):
    pinged = []

    def ping(connection):
        pinged.append(connection)
        return len(pinged) > 1

    with engine.connect(), engine.connect():
        pass
    monkeypatch.setattr(engine.dialect, "do_ping", ping)
    first, _ = engine.pool.idle_entries()
    first.traffic_at -= 2
    with engine.connect() as one, engine.connect() as other:
        assert one.execute(text("SELECT 1")).scalar() == 1
        assert other.execute(text("SELECT 1")).scalar() == 1
    assert len(pinged) == 2
    assert engine.pool.stats().closed == {"dead": 1}
