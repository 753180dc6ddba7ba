"""The databases that random programs of joins run on."""

from __future__ import annotations

import gc
import sqlite3
import uuid
import warnings
from collections.abc import Iterator
from contextlib import closing
from contextlib import contextmanager
from typing import Any
from typing import Callable

import psycopg2
from sqlalchemy import Engine
from sqlalchemy import create_engine
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column

from sa_reaperpool import ProvisionalCommitLost
from sa_reaperpool import ReaperPool


class Bench:
    """An engine with a pool of one, a table, and a look from outside.

    :param engine: makes one; it is used until something went wrong.

    :param outside: a plain connection of its own, in autocommit.

    :param begins_late: does the driver begin its transactions only when
     something is written?  This one's cursors are also as good as closed
     once they are read to their end.

    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        outside: Any,
        table: str,
        begins_late: bool,
    ) -> None:
        self._make_engine = engine
        self._outside = outside
        self.table = table
        self.begins_late = begins_late
        self.cursors_stay_open = not begins_late
        self.engine = engine()
        self.insert = text(f"INSERT INTO {table} VALUES (:x)")
        self.select = text(f"SELECT x FROM {table} ORDER BY x")

        class Base(DeclarativeBase):
            pass

        class Row(Base):
            __tablename__ = table
            x: Mapped[int] = mapped_column(primary_key=True)

        self.Row = Row

    def begin(self) -> None:
        """Empty the table."""
        self.execute(f"DELETE FROM {self.table}")

    def rows(self) -> list[int]:
        """What is committed."""
        return [row for (row,) in self.execute(self.select.text)]

    def execute(self, statement: str) -> list[Any]:
        with closing(self._outside.cursor()) as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def left(self) -> str:
        """What is wrong with the pool, when all should have been given back.

        A pool of one has then room for one, and nothing is begun on it.
        """
        pool: Any = self.engine.pool
        for entry in pool.idle_entries():
            if entry.connected and _in_transaction(entry.driver_connection):
                return "a connection was given back in a transaction"
        if pool.leases() or pool.checkedout() or pool.stats().in_use:
            return "a connection was not given back"
        if pool.active_connection():
            return "this thread still has a connection"
        connection = pool.connect(timeout=0)
        begun = _in_transaction(connection.driver_connection)
        connection.close()
        return "a connection came in a transaction" if begun else ""

    def renew(self) -> None:
        """Take another engine, whatever the old one's connection does."""
        pool: Any = self.engine.pool
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProvisionalCommitLost)
            pool.disconnect()
        pool.release_connection()
        self.engine.dispose()
        self.engine = self._make_engine()

    def close(self) -> None:
        self.engine.dispose()
        self._outside.close()


def _in_transaction(connection: Any) -> bool:
    if isinstance(connection, sqlite3.Connection):
        return connection.in_transaction
    return bool(connection.info.transaction_status)


def _engine(url: str, **options: Any) -> Engine:
    return create_engine(
        url,
        poolclass=ReaperPool,
        reservation="thread",
        pool_size=1,
        max_overflow=0,
        pool_timeout=5,
        reaping_frequency=None,
        **options,
    )


@contextmanager
def _little_garbage() -> Iterator[None]:
    """Programs that drop things collect; what is there now can wait."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def sqlite(folder: Any) -> Iterator[Bench]:
    path = f"{folder}/joins.db"
    outside = sqlite3.connect(path, timeout=1, isolation_level=None)
    outside.execute("PRAGMA journal_mode = WAL")
    outside.execute("PRAGMA synchronous = OFF")
    outside.execute("CREATE TABLE joins (x INTEGER PRIMARY KEY)")
    bench = Bench(lambda: _engine(f"sqlite:///{path}"), outside, "joins", True)
    with closing(bench), _little_garbage():
        yield bench


@contextmanager
def postgresql(url: str) -> Iterator[Bench]:
    """
    :param url: for psycopg2.
    """
    name = f"joins_{uuid.uuid4().hex[:12]}"
    outside = psycopg2.connect(url.replace("+psycopg2", ""))
    outside.autocommit = True
    bench = Bench(lambda: _engine(url), outside, name, False)
    with closing(bench), _little_garbage():
        bench.execute(f"CREATE TABLE {name} (x integer PRIMARY KEY)")
        try:
            yield bench
        finally:
            bench.renew()
            bench.execute(f"DROP TABLE {name}")
