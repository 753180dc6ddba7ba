"""What depends on the driver, with PyMySQL on a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from waiting import Worker
from waiting import eventually
from waiting import in_a_thread_that_ends

from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import ReaperPool


@pytest.fixture
def engine(mariadb_url: str) -> Iterator[Engine]:
    engine = create_engine(
        mariadb_url,
        poolclass=ReaperPool,
        pool_size=3,
        max_overflow=0,
        pool_timeout=10,
        dead_connection_timeout=0.2,
        reaping_frequency=60,
    )
    yield engine
    engine.dispose()


def server_id(connection):
    return connection.execute(text("SELECT CONNECTION_ID()")).scalar()


def opened(engine, number):
    connections = [engine.connect() for _ in range(number)]
    ids = [server_id(connection) for connection in connections]
    for connection in connections:
        connection.close()
    return ids


def kill(mariadb_url, ids):
    observer = create_engine(mariadb_url)
    with observer.connect() as connection:
        for number in ids:
            connection.execute(text(f"KILL {number}"))
        eventually(
            lambda: not {
                row.ID
                for row in connection.execute(
                    text("SELECT ID FROM information_schema.PROCESSLIST")
                )
            }.intersection(ids)
        )
    observer.dispose()


def test_killed_connections_are_replaced_unnoticed(engine, mariadb_url):
    ids = opened(engine, 3)
    kill(mariadb_url, ids)

    assert set(opened(engine, 3)).isdisjoint(ids)
    assert engine.pool.stats().closed == {"dead": 3}


def test_healthy_ones_are_not_pinged(engine, monkeypatch):
    ids = opened(engine, 3)
    pings = []
    ping = engine.dialect.do_ping
    monkeypatch.setattr(
        engine.dialect, "do_ping", lambda c: pings.append(c) or ping(c)
    )

    assert opened(engine, 3) == ids
    assert pings == []


def test_abandoned_connection_is_taken_back(engine, mariadb_url):
    kept = []

    def take():
        connection = engine.connect()
        kept.append((connection, server_id(connection)))

    in_a_thread_that_ends(take)
    connection, number = kept[0]
    eventually(lambda: engine.pool.stats().in_use == 0)
    with pytest.raises(ConnectionReclaimed):
        connection.execute(text("SELECT 1"))
    connection.rollback()
    assert server_id(connection) != number
    connection.close()


def test_streamed_result_is_in_use(engine):
    """An unbuffered cursor is read without the pool's seeing it."""
    kept = []

    def take():
        connection = engine.connect().execution_options(stream_results=True)
        kept.append(connection)
        kept.append(connection.execute(text("SELECT seq FROM seq_1_to_9999")))

    in_a_thread_that_ends(take)
    connection, result = kept
    checks = []
    event.listen(engine.pool, "invalidate", lambda *args: checks.append(args))
    eventually(lambda: engine.pool.leases()[0].unused_for > 0.3)
    assert engine.pool.reap() == 0

    assert len(result.all()) == 9999
    assert checks == []
    result.close()
    del result
    kept.clear()
    assert eventually(engine.pool.reap) == 1


def test_what_runs_is_ended_before_a_close(engine):
    """PyMySQL's close() would wait for it, and its user have its result."""

    def run():
        with pytest.raises(DBAPIError) as caught:
            connection.execute(text("SELECT SLEEP(20)"))
        return caught.value

    connection = engine.connect()
    number = server_id(connection)
    worker = Worker(run)
    observer = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    eventually(
        lambda: observer.execute(
            text(
                "SELECT COUNT(*) FROM information_schema.PROCESSLIST "
                f"WHERE ID = {number} AND INFO LIKE '%SLEEP(20)%'"
            )
        ).scalar()
    )
    observer.close()
    # PyMySQL is past the line before which it forgets its last result
    raw = connection.connection._connection_record.dbapi_connection
    eventually(lambda: raw._result is None)
    engine.pool.disconnect()
    assert worker.result().connection_invalidated
    connection.close()
    assert engine.pool.stats().in_use == 0
