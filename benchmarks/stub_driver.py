"""A database of nothing, for benchmarks that want an engine all the same.

``create_engine("stub://")`` after importing this.  Each connection has a
``user``, which belongs to who holds it.
"""

from __future__ import annotations

import gc
from typing import Any

from sqlalchemy.dialects import registry
from sqlalchemy.engine.default import DefaultDialect

apilevel, threadsafety, paramstyle = "2.0", 1, "named"


class Error(Exception):
    """The root of what a DBAPI raises."""


class Cursor:
    description = (("x", None, None, None, None, None, None),)
    rowcount = 1
    lastrowid = None

    def __init__(self) -> None:
        self._rows = [(1,)]

    def execute(self, statement: str, parameters: Any = None) -> None:
        pass

    def fetchone(self) -> tuple[int] | None:
        return self._rows.pop() if self._rows else None

    def fetchall(self) -> list[tuple[int]]:
        rows, self._rows = self._rows, []
        return rows

    def close(self) -> None:
        pass


class Connection:
    def __init__(self) -> None:
        self.closed = False
        self.user: object = None

    def cursor(self) -> Cursor:
        return Cursor()

    def commit(self) -> None:
        pass

    def rollback(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def connect(*args: Any, **kw: Any) -> Connection:
    return Connection()


def open_connections() -> list[Connection]:
    """All there are, as the interpreter itself knows them."""
    gc.collect()
    return [
        each
        for each in gc.get_objects()
        if type(each) is Connection and not each.closed
    ]


class StubDialect(DefaultDialect):
    driver = name = "stub"
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        import benchmarks.stub_driver as driver

        return driver

    def do_ping(self, dbapi_connection: Any) -> bool:
        return not dbapi_connection.closed


registry.register("stub", __name__, "StubDialect")
