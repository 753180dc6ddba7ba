"""What the tests on PostgreSQL share: engines, and the server's own view."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy import create_engine
from sqlalchemy import make_url
from sqlalchemy.orm import Session

from sa_reaperpool import ReaperPool

Engines = Callable[..., Engine]


class Observer:
    """Sees what the server sees, through a connection of its own."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True

    def rows(self, statement: str, *parameters: object) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def scalar(self, statement: str, *parameters: object) -> Any:
        return self.rows(statement, *parameters)[0][0]

    def backends(self, engine: Engine) -> set[int]:
        """The process ids of this engine's sessions."""

        found = self.rows(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s",
            engine.url.query["application_name"],
        )
        return {pid for (pid,) in found}

    def runs(self, pid: int) -> bool:
        return bool(
            self.rows("SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid)
        )

    def terminate(self, pids: Iterable[int]) -> None:
        for pid in pids:
            assert self.scalar("SELECT pg_terminate_backend(%s)", pid)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def observer(postgres_server: Any) -> Iterator[Observer]:
    observer = Observer(postgres_server.dsn)
    yield observer
    observer.close()


@pytest.fixture
def engines(postgres_url: str) -> Iterator[Engines]:
    """Makes engines with a ReaperPool, by default of one connection.

    Each has an ``application_name`` of its own, to be told by.
    """

    made = []

    def make(
        driver: str = "psycopg2", url: str = postgres_url, **options: Any
    ) -> Engine:
        name = f"reaperpool-{uuid.uuid4().hex[:12]}"
        options = {
            "poolclass": ReaperPool,
            "pool_size": 1,
            "max_overflow": 0,
            "pool_timeout": 10,
            **options,
        }
        engine = create_engine(
            make_url(url)
            .set(drivername=f"postgresql+{driver}")
            .update_query_dict({"application_name": name}),
            **options,
        )
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.dispose()


@pytest.fixture(params=["psycopg2", "psycopg"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def table(observer: Observer) -> Iterator[str]:
    """An empty table with one column, ``x``."""

    name = f"reaperpool_{uuid.uuid4().hex[:12]}"
    observer.rows(f"CREATE TABLE {name} (x integer PRIMARY KEY)")
    yield name
    # whoever still locks it belongs to this test, which is over
    observer.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_locks "
        "WHERE relation = to_regclass(%s) AND pid <> pg_backend_pid()",
        name,
    )
    observer.rows(f"DROP TABLE {name}")


def backend_of(connection: Any) -> int:
    """The server's process id, without asking the server.

    And past the handle, which would take it for a use by this thread.

    :param connection: a Connection, a Session, or a pool's handle.
    """

    if isinstance(connection, Session):
        connection = connection.connection()
    if isinstance(connection, Connection):
        connection = connection.connection
    record = connection._connection_record
    pid: int = record.driver_connection.info.backend_pid
    return pid
