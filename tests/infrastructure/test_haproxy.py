"""Behind a load balancer: connections move on, without a failure."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest
from postgresql.conftest import Observer
from servers import HAProxy
from servers import PostgreSQL
from sqlalchemy import Engine
from sqlalchemy import event
from sqlalchemy import make_url
from sqlalchemy import text
from sqlalchemy.orm import Session
from waiting import Worker
from waiting import eventually

from infrastructure.conftest import Engines

Pair = tuple[PostgreSQL, PostgreSQL]

# seconds; given, say as 5, on a machine that has nothing else to do
GIVEN_MAX_AGE = os.environ.get("REAPERPOOL_TEST_MAX_AGE")
MAX_AGE = float(GIVEN_MAX_AGE or 2)
SIZE = 20
THREADS = 8


class Opened:
    """An engine's connections: where they lead, and which are open."""

    def __init__(self, engine: Engine, servers: dict[int, str]) -> None:
        self._servers = servers
        self._lock = threading.Lock()
        self._open: dict[Any, int] = {}
        self.leading: list[str] = []
        """To which server, for all that were ever opened, in order."""
        event.listen(engine, "connect", self._connected)
        event.listen(engine, "close", self._closed)

    def _connected(self, connection: Any, record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT inet_server_port()")
            [port] = cursor.fetchone()
        connection.rollback()
        with self._lock:
            self._open[connection] = len(self.leading)
            self.leading.append(self._servers[port])

    def _closed(self, connection: Any, record: Any) -> None:
        with self._lock:
            self._open.pop(connection, None)

    def replaced(self, since: int) -> bool:
        """Is the pool full, with none that was opened before this one?"""
        with self._lock:
            numbers = list(self._open.values())
        return len(numbers) == SIZE and min(numbers) >= since


class Load:
    """Threads that make transactions until told to stop."""

    def __init__(self, engine: Engine, threads: int, table: str) -> None:
        self._engine = engine
        self._table = table
        self._stop = threading.Event()
        self.failures: list[Counter[str]] = [
            Counter() for _ in range(threads)
        ]
        self.commits = [Counter[str]() for _ in range(threads)]
        self._workers = [
            Worker(lambda n=number: self._work(n)) for number in range(threads)
        ]

    def _work(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                with Session(self._engine) as session, session.begin():
                    port = session.scalar(
                        text(
                            f"INSERT INTO {self._table} VALUES ({number}) "
                            "RETURNING inet_server_port()"
                        )
                    )
            except Exception as error:
                self.failures[number][repr(error)] += 1
            else:
                self.commits[number][port] += 1
            # steady, and no more than the machine can give
            self._stop.wait(0.01)

    def all_commit(self, port: int) -> None:
        """Wait until each thread has committed there from now on."""
        before = [count[port] for count in self.commits]
        eventually(
            lambda: all(
                count[port] > was for count, was in zip(self.commits, before)
            ),
            what=f"commits by all: {self.commits}, {self.failures}",
        )

    def end(self) -> None:
        self._stop.set()
        for worker in self._workers:
            worker.result()


@pytest.fixture
def table(servers: Pair) -> Iterator[str]:
    """The same on both servers."""
    name = "infrastructure_load"
    for server in servers:
        observer = Observer(server.dsn)
        observer.rows(f"CREATE TABLE {name} (x integer)")
        observer.close()
    yield name
    for server in servers:
        if not server.runs():
            server.start()
        observer = Observer(server.dsn)
        observer.rows(f"DROP TABLE {name}")
        observer.close()


@pytest.fixture
def url(haproxy: HAProxy, servers: Pair, driver: str) -> str:
    url = make_url(servers[0].url(driver)).set(port=haproxy.port)
    return url.render_as_string(hide_password=False)


def test_a_second_server_takes_its_share(
    engines: Engines, haproxy: HAProxy, servers: Pair, url: str, table: str
) -> None:
    """Within twice max_age, and without one failed transaction."""

    engine = engines(
        url,
        pool_size=SIZE,
        min_idle=SIZE,
        max_age=MAX_AGE,
        reaping_frequency=0.05,
    )
    one, two = servers
    opened = Opened(engine, {one.port: "one", two.port: "two"})
    began = time.monotonic()
    engine.pool.wait_ready()
    opening = time.monotonic() - began
    load = Load(engine, THREADS, table)
    load.all_commit(one.port)

    before = len(opened.leading)
    haproxy.enable("two")
    enabled = time.monotonic()
    # Those opened before are gone after max_age at most, and those opened
    # since begin to go only then: now they are all that there are.
    eventually(lambda: opened.replaced(before), within=20 * MAX_AGE)
    took = time.monotonic() - enabled
    shares = Counter(opened.leading[before:])
    load.all_commit(two.port)
    load.end()

    # a machine under load takes its time to open as many again
    slack = 0 if GIVEN_MAX_AGE else 10 * opening
    assert took < 2 * MAX_AGE + slack
    assert set(opened.leading[:before]) == {"one"}
    assert 0.4 <= shares["two"] / shares.total() <= 0.6, shares
    assert not any(load.failures), load.failures
    assert engine.pool.stats().closed.keys() == {"age"}


def cut_over(haproxy: HAProxy, old: PostgreSQL) -> None:
    """The balancer closes what still leads to the old one."""
    haproxy.cut("one")


def stop(haproxy: HAProxy, old: PostgreSQL) -> None:
    """The old one is stopped, and tells its sessions so."""
    old.stop()


@pytest.mark.parametrize("end", [stop, cut_over])
def test_planned_failover(
    engines: Engines,
    haproxy: HAProxy,
    servers: Pair,
    url: str,
    table: str,
    end: Callable[[HAProxy, PostgreSQL], None],
) -> None:
    """It costs each thread one failed transaction at most."""

    engine = engines(url, pool_size=SIZE)
    one, two = servers
    load = Load(engine, THREADS, table)
    load.all_commit(one.port)

    haproxy.enable("two")
    haproxy.disable("one")
    end(haproxy, one)
    load.all_commit(two.port)
    load.end()

    failed = [count.total() for count in load.failures]
    assert max(failed) <= 1, load.failures
    assert engine.pool.stats().in_use == 0
