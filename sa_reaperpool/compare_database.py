"""The user's database, as the comparison uses it: its engines and its table.

The table is a TEMPORARY one, made by each connection for itself, and not one
table for all, because this database is not ours:

* The database drops it with its connection, whatever way that ends: also
  after ``kill -9``, when nobody is left to drop anything.
* It needs the least rights.  In PostgreSQL everybody may make one unless
  that was taken away, while since version 15 only the database's owner may
  make tables in ``public``; MySQL and MariaDB have a right for it alone.
* Nobody else sees it; its rows are not replicated, nor part of a backup.
* The threads wait for no locks of each other's, only for connections, which
  is what is to be compared.

PostgreSQL, MySQL, MariaDB and SQLite have such tables under one name, and
there are no others.
"""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateTable

from . import demo_database
from .demo_url import Unusable
from .demo_url import sqlite_file

ROWS = 50
"""In each table."""

LANE = "reaperpool-compare-lane"
"""Where a connection's number is, in its ``info``."""

_TOKEN = secrets.token_hex(4)
_BACKENDS = ("postgresql", "mysql", "sqlite")

# A server that was told that a connection ends takes a moment to count it no
# more, and may allow no others.
_PATIENCE = 3


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = f"reaperpool_compare_{_TOKEN}"
    __table_args__ = {"prefixes": ["TEMPORARY"]}

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    amount: Mapped[int]


TABLE: str = Item.__tablename__


class Database(demo_database.Database):
    """Use :meth:`opened`, and :meth:`leave` in the end."""

    _new_file: Path | None = None

    def _settings(self, name: str) -> list[str]:
        # No limits for locks: nobody else has this table.
        if self.backend == "postgresql":
            return [
                f"SET application_name TO 'reaperpool-compare-{_TOKEN}-{name}'"
            ]
        return []

    @property
    def dialect(self) -> str:
        """What a picture may show of the address."""

        return self._url.drivername

    def leave(self) -> None:
        """Remove the file that SQLite made because it was not there."""

        with suppress(OSError):
            if self._new_file and not self._new_file.stat().st_size:
                self._new_file.unlink()

    def _try(self) -> None:
        if self.backend not in _BACKENDS:
            raise Unusable(
                f"cannot use {self.name}: there is a temporary table to be "
                "made, which is known for PostgreSQL, MySQL, MariaDB and "
                "SQLite"
            )
        path = sqlite_file(self._url)
        if path is not None and not path.exists():
            self._new_file = path
        try:
            super()._try()
            self._try_table()
        except BaseException:
            self.leave()
            raise

    def _try_table(self) -> None:
        engine = self._engine(self._url, "try", poolclass=NullPool)
        self._make_tables(engine)
        with self._explained(f"cannot make a temporary table in {self.name}"):
            engine.connect().close()

    def queue_pool(self, connections: int, timeout: float) -> Engine:
        return self._ready(super().queue_pool(connections, timeout))

    def reaper_pool(self, options: dict[str, str]) -> Engine:
        return self._ready(super().reaper_pool(options))

    def _ready(self, engine: Engine) -> Engine:
        self._make_tables(engine)
        lanes = iter(range(1, 1_000_000))

        @event.listens_for(engine, "connect")
        def number(
            connection: DBAPIConnection, record: ConnectionPoolEntry
        ) -> None:
            record.info[LANE] = next(lanes)

        return engine

    def _make_tables(self, engine: Engine) -> None:
        """Have each connection make and fill the table."""

        create = str(CreateTable(Item.metadata.tables[TABLE]).compile(engine))
        rows = ", ".join(f"({number}, 1000)" for number in range(ROWS))
        fill = f"INSERT INTO {TABLE} (id, amount) VALUES {rows}"

        @event.listens_for(engine, "connect")
        def prepare(connection: DBAPIConnection, record: object) -> None:
            cursor = connection.cursor()
            cursor.execute(create)
            cursor.execute(fill)
            cursor.close()
            connection.commit()

    def open_all(self, engine: Engine, connections: int) -> None:
        """Open as many as the pool may, and give them back."""

        deadline = time.monotonic() + _PATIENCE
        opened: list[Connection] = []
        words = f"cannot open {connections} connections to {self.name}"
        try:
            with self._explained(words):
                while len(opened) < connections:
                    try:
                        opened.append(engine.connect())
                    except Exception:
                        if time.monotonic() > deadline:
                            raise
                        time.sleep(0.05)
        finally:
            for connection in opened:
                connection.close()
