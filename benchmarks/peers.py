"""The pools that are measured beside each other, each as its users open it.

Libraries that are not installed leave their pool out; :func:`open_all` says
why.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import contextmanager
from itertools import repeat
from typing import Any
from typing import Callable
from typing import NamedTuple

from pyperf import perf_counter
from sqlalchemy import create_engine
from sqlalchemy import make_url
from sqlalchemy.pool import NullPool
from sqlalchemy.pool import QueuePool

from sa_reaperpool import ReaperPool
from sa_reaperpool.timings import Timings

from . import stub_driver
from .rows import Skip
from .ruby import Ruby

Batch = Callable[[int], float]
"""Uses a pool so many times, and returns the seconds that it took."""

OURS = "ReaperPool"
STOCK = "QueuePool"
PINGING = "QueuePool, pre_ping"
LEAST = "QueuePool in turn"
RESERVED = "ReaperPool, reserved"
UNWATCHED = "ReaperPool, liveness=off"
MEASURING = "ReaperPool, histograms"
RAW = "psycopg_pool, raw"
UNDER = "psycopg_pool under NullPool"
STEADY = "DBUtils PooledDB"

SIZE = 5
"""Connections that each pool may have; one thread uses one of them."""


class Peer(NamedTuple):
    name: str
    batch: Batch


# the ways to use a pool, each a loop of its own so that none pays for calls
# that belong to the bench


def closes(connect: Callable[[], Any]) -> Batch:
    def batch(count: int) -> float:
        began = perf_counter()
        for _ in repeat(None, count):
            connect().close()
        return perf_counter() - began

    return batch


def gives_back(take: Callable[[], Any], give: Callable[[Any], Any]) -> Batch:
    def batch(count: int) -> float:
        began = perf_counter()
        for _ in repeat(None, count):
            give(take())
        return perf_counter() - began

    return batch


def enters(block: Callable[[], Any]) -> Batch:
    def batch(count: int) -> float:
        began = perf_counter()
        for _ in repeat(None, count):
            with block():
                pass
        return perf_counter() - began

    return batch


# pools, of the stub driver's connections where there is no URL


class StubStatus:
    """Of a connection outside a transaction, for psycopg_pool to look at."""

    transaction_status = 0


class StubConnection(stub_driver.Connection):
    """What psycopg_pool needs to know of a connection, and no more."""

    pgconn = StubStatus()
    _pool: Any = None

    @classmethod
    def connect(cls, conninfo: str = "", **kw: Any) -> StubConnection:
        return cls()

    def close(self) -> None:
        if self._pool is not None and self._pool.close_returns:
            self._pool.putconn(self)
        else:
            self.closed = True


@contextmanager
def sqlalchemy_pool(
    url: str | None, poolclass: type[QueuePool], **options: Any
) -> Iterator[Any]:
    """Without a URL a pool of its own, unless it needs an engine's ping."""
    if url is None and not options:
        pool: Any = poolclass(stub_driver.connect)
    else:
        pool = create_engine(
            url or "stub://", poolclass=poolclass, **options
        ).pool
    try:
        # an engine's first connect asks the server for this and that
        pool.connect().close()
        yield pool
    finally:
        pool.dispose()


@contextmanager
def psycopg_pool(
    url: str | None, size: int = SIZE, **options: Any
) -> Iterator[Any]:
    """psycopg_pool's own pool, of psycopg 3's connections if there is a URL.

    :raises Skip: it is not installed.

    """
    ConnectionPool = needs("psycopg_pool").ConnectionPool
    if url is None:
        options["connection_class"] = StubConnection
    else:
        address = make_url(url).set(drivername="postgresql")
        options["conninfo"] = address.render_as_string(hide_password=False)
    with ConnectionPool(
        min_size=size, max_size=size, open=False, **options
    ) as pool:
        pool.wait()
        yield pool


@contextmanager
def under_sqlalchemy(url: str | None) -> Iterator[Any]:
    """An engine's pool on psycopg_pool, as its documentation has it."""
    with psycopg_pool(url, close_returns=True) as inner:
        if url is None:
            engine = create_engine(
                "stub://", creator=inner.getconn, poolclass=NullPool
            )
        else:
            engine = create_engine(
                "postgresql+psycopg://",
                creator=inner.getconn,
                poolclass=NullPool,
            )
        engine.pool.connect().close()
        yield engine.pool


@contextmanager
def dbutils_pool(url: str | None, size: int = SIZE) -> Iterator[Any]:
    """DBUtils' pool, which waits for a connection as the others do.

    :raises Skip: it is not installed.

    """
    PooledDB = needs("dbutils.pooled_db").PooledDB
    if url is None:
        pool = PooledDB(
            stub_driver,
            maxconnections=size,
            blocking=True,
            failures=stub_driver.Error,
        )
    else:
        address = make_url(url).set(drivername="postgresql")
        pool = PooledDB(
            needs("psycopg2"),
            maxconnections=size,
            blocking=True,
            dsn=address.render_as_string(hide_password=False),
        )
    try:
        yield pool
    finally:
        pool.close()


def needs(module: str) -> Any:
    """Import this, or raise :class:`Skip`."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise Skip(f"{module.partition('.')[0]} is not installed") from None


# all of them


@contextmanager
def _sqlalchemy(
    url: str | None, poolclass: type[QueuePool], **options: Any
) -> Iterator[Batch]:
    with sqlalchemy_pool(url, poolclass, **options) as pool:
        yield closes(pool.connect)


@contextmanager
def _measuring(url: str | None) -> Iterator[Batch]:
    with sqlalchemy_pool(url, ReaperPool) as pool:
        pool.timings = Timings()
        yield closes(pool.connect)


@contextmanager
def _reserved(url: str | None) -> Iterator[Batch]:
    with sqlalchemy_pool(url, ReaperPool) as pool, pool.with_connection():
        yield enters(pool.with_connection)


@contextmanager
def _raw(url: str | None) -> Iterator[Batch]:
    with psycopg_pool(url) as pool:
        yield gives_back(pool.getconn, pool.putconn)


@contextmanager
def _under(url: str | None) -> Iterator[Batch]:
    with under_sqlalchemy(url) as pool:
        yield closes(pool.connect)


@contextmanager
def _dbutils(url: str | None) -> Iterator[Batch]:
    with dbutils_pool(url) as pool:
        yield closes(pool.connection)


PEERS: dict[str, Callable[[str | None], Any]] = {
    STOCK: lambda url: _sqlalchemy(url, QueuePool),
    OURS: lambda url: _sqlalchemy(url, ReaperPool),
    PINGING: lambda url: _sqlalchemy(url, QueuePool, pool_pre_ping=True),
    RESERVED: _reserved,
    UNWATCHED: lambda url: _sqlalchemy(url, ReaperPool, liveness="off"),
    MEASURING: _measuring,
    RAW: _raw,
    UNDER: _under,
    STEADY: _dbutils,
}


def open_all(
    url: str | None, names: list[str], stack: ExitStack
) -> tuple[list[Peer], dict[str, str]]:
    """Open these, and Ruby's; say why for each that cannot be.

    :param stack: closes them.

    """
    peers: list[Peer] = []
    missing: dict[str, str] = {}
    for name in names:
        try:
            batch = stack.enter_context(PEERS[name](url))
        except Skip as reason:
            missing[name] = str(reason)
        else:
            peers.append(Peer(name, batch))
    try:
        ruby = stack.enter_context(Ruby(url))
    except Skip as reason:
        missing["Ruby's pools"] = str(reason)
    else:
        missing |= ruby.missing
        peers += [Peer(name, ruby.batch(name)) for name in ruby.names]
    return peers, missing
