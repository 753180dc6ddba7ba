"""Connections that the server ended, and those that only look so."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest
from proxy import Proxy
from sqlalchemy import Engine
from sqlalchemy import exc
from sqlalchemy import make_url
from sqlalchemy import text
from waiting import Worker
from waiting import eventually
from waiting import throughout

from postgresql.conftest import Engines
from postgresql.conftest import Observer
from postgresql.conftest import backend_of
from sa_reaperpool import ConnectionReclaimed


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    url = make_url(postgres_url)
    proxy = Proxy(url.host or "localhost", url.port or 5432)
    yield proxy
    proxy.close()


@pytest.fixture
def proxied(proxy: Proxy, postgres_url: str) -> str:
    """The database's address, by way of the proxy."""

    url = make_url(postgres_url).set(host="127.0.0.1", port=proxy.port)
    # whether the relay is asked for TLS is no matter here
    url = url.update_query_dict({"sslmode": "disable"})
    return url.render_as_string(hide_password=False)


def opened(engine: Engine, number: int) -> list[int]:
    """Leave so many idle connections in the pool."""

    connections = [engine.connect() for _ in range(number)]
    pids = [backend_of(connection) for connection in connections]
    for connection in connections:
        connection.execute(text("SELECT 1"))
        connection.close()
    assert engine.pool.stats().idle == number
    return pids


def terminate(observer: Observer, pids: list[int]) -> None:
    observer.terminate(pids)
    # its last words are sent before it is gone from there
    eventually(lambda: not any(observer.runs(pid) for pid in pids))


def test_all_idle_ones_terminated(
    engines: Engines, observer: Observer, driver: str
) -> None:
    engine = engines(driver, pool_size=5, reaping_frequency=None)
    old = opened(engine, 5)
    terminate(observer, old)

    connections = [engine.connect() for _ in range(5)]
    for connection in connections:
        assert connection.scalar(text("SELECT 1")) == 1
    new = {backend_of(connection) for connection in connections}
    for connection in connections:
        connection.close()

    assert len(new) == 5
    assert new.isdisjoint(old)
    assert observer.backends(engine) == new
    assert engine.pool.stats().closed == {"dead": 5}


def test_one_dead_one_has_all_the_dead_replaced(
    engines: Engines, observer: Observer, driver: str
) -> None:
    engine = engines(driver, pool_size=5, reaping_frequency=None)
    old = opened(engine, 5)
    terminate(observer, old[:3])

    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1

        stats = engine.pool.stats()
        assert stats.closed == {"dead": 3}
        assert (stats.idle, stats.in_use, stats.opening) == (2, 1, 0)
        assert observer.backends(engine) == {*old[3:], backend_of(connection)}


def test_healthy_ones_are_not_pinged(
    engines: Engines, proxy: Proxy, proxied: str, driver: str
) -> None:
    engine = engines(driver, url=proxied, pool_size=4)
    opened(engine, 4)
    before = proxy.sent

    for _ in range(5):
        connections = [engine.connect() for _ in range(4)]
        for connection in connections:
            connection.close()
    # a ping would have waited for its answer, and so have been counted
    assert proxy.sent == before
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    assert proxy.sent > before
    assert engine.pool.stats().closed == {}


def test_healthy_ones_beside_dead_ones_are_not_pinged(
    engines: Engines,
    observer: Observer,
    proxy: Proxy,
    proxied: str,
    driver: str,
) -> None:
    engine = engines(
        driver, url=proxied, pool_size=4, reaping_frequency=None
    )
    pids = opened(engine, 4)
    terminate(observer, pids[:1])
    eventually(lambda: proxy.ended == 1)
    # the first is dead, and is replaced
    connections = [engine.connect()]
    before = proxy.sent

    connections += [engine.connect() for _ in range(3)]
    assert [backend_of(each) for each in connections[1:]] == pids[1:]
    for connection in connections:
        connection.close()

    assert proxy.sent == before
    assert engine.pool.stats().closed == {"dead": 1}


def test_pinged_if_told_so(
    engines: Engines, proxy: Proxy, proxied: str, driver: str
) -> None:
    # shows that the proxy would see a ping
    engine = engines(driver, url=proxied, liveness="ping")
    opened(engine, 1)
    before = proxy.sent

    engine.connect().close()

    eventually(lambda: proxy.sent > before)


@pytest.mark.parametrize("in_transaction", [True, False])
def test_held_one_terminated(
    engines: Engines, observer: Observer, driver: str, in_transaction: bool
) -> None:
    engine = engines(
        driver, dead_connection_timeout=0.4, reaping_frequency=0.2
    )
    connection = engine.connect()
    connection.execute(text("SELECT 1"))
    if not in_transaction:
        connection.commit()
    pid = backend_of(connection)

    def wait_in_line() -> int:
        with engine.connect() as other:
            return backend_of(other)

    waiter = Worker(wait_in_line)
    eventually(lambda: engine.pool.stats().waiting == 1)
    terminate(observer, [pid])
    eventually(lambda: engine.pool.stats().closed == {"dead": 1})
    assert waiter.result() != pid

    with pytest.raises(ConnectionReclaimed) as raised:
        connection.execute(text("SELECT 1"))
    assert raised.value.reason == "dead"
    assert "the server closed the connection" in str(raised.value)
    assert "Held by 'MainThread' for" in str(raised.value)
    connection.rollback()
    assert connection.scalar(text("SELECT 1")) == 1
    connection.close()


def test_held_one_terminated_and_used_at_once(
    engines: Engines, observer: Observer, driver: str
) -> None:
    engine = engines(driver, pool_size=2)
    opened(engine, 2)
    connection = engine.connect()
    terminate(observer, [backend_of(connection)])

    # as with any pool: the driver's error, a disconnect
    with pytest.raises(exc.OperationalError) as raised:
        connection.execute(text("SELECT 1"))
    assert raised.value.connection_invalidated
    connection.rollback()
    assert connection.scalar(text("SELECT 1")) == 1
    connection.close()


def test_idle_dead_ones_are_closed_by_the_round(
    engines: Engines, observer: Observer, driver: str
) -> None:
    engine = engines(driver, pool_size=5, reaping_frequency=0.05)
    pids = opened(engine, 5)

    terminate(observer, pids[1:])

    eventually(lambda: engine.pool.stats().closed == {"dead": 4})
    eventually(lambda: engine.pool.stats().idle == 1)
    with engine.connect() as connection:
        assert backend_of(connection) == pids[0]


def test_keepalive(
    engines: Engines,
    observer: Observer,
    proxy: Proxy,
    proxied: str,
    driver: str,
) -> None:
    engine = engines(
        driver,
        url=proxied,
        pool_size=2,
        keepalive=0.2,
        reaping_frequency=0.05,
    )
    pids = opened(engine, 2)

    for _ in range(3):
        before = proxy.sent
        eventually(lambda: proxy.sent > before)

    # not "idle in transaction"
    states = "SELECT state FROM pg_stat_activity WHERE pid IN (%s, %s)"
    eventually(lambda: set(observer.rows(states, *pids)) == {("idle",)})
    assert observer.backends(engine) == set(pids)
    assert engine.pool.stats().closed == {}


def test_keepalive_leaves_alone_what_is_in_use(
    engines: Engines, proxy: Proxy, proxied: str
) -> None:
    engine = engines(url=proxied, keepalive=0.05, reaping_frequency=0.02)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        before = proxy.sent
        throughout(lambda: proxy.sent == before, 0.5)


@pytest.mark.parametrize("frequency", [None, 0.05])
def test_notification_does_not_cost_the_connection(
    engines: Engines,
    observer: Observer,
    proxy: Proxy,
    proxied: str,
    driver: str,
    frequency: float | None,
) -> None:
    engine = engines(driver, url=proxied, reaping_frequency=frequency)
    with engine.connect() as connection:
        connection.execute(text("LISTEN reaperpool_test"))
        connection.commit()
        pid = backend_of(connection)
        socket = connection.connection.driver_connection.fileno()

    before = proxy.sent
    observer.rows("NOTIFY reaperpool_test, 'something'")
    if frequency is None:
        eventually(lambda: readable(socket))
    else:
        # the round asks whether it lives, and so reads it
        eventually(lambda: proxy.sent > before and not readable(socket))

    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
        assert backend_of(connection) == pid
    assert engine.pool.stats().closed == {}


def readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])
