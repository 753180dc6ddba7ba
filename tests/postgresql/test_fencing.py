"""What a handle does once the pool took its connection back."""

from __future__ import annotations

import datetime
import gc
import logging
import re
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy import exc
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import Session
from sqlalchemy.orm import mapped_column
from waiting import eventually
from waiting import in_a_thread_that_ends

from postgresql.conftest import Engines
from postgresql.conftest import Observer
from postgresql.conftest import backend_of
from sa_reaperpool import ConnectionReclaimed

NAME = "worker 7"


class Others:
    """A pool's other connections: two idle ones and two in use.

    And a fifth, which the test takes.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.used = [engine.connect() for _ in range(2)]
        idle = [engine.connect() for _ in range(3)]
        self.idle = {backend_of(connection) for connection in idle}
        for connection in idle:
            connection.close()
        for connection in self.used:
            connection.execute(text("SELECT set_config('a.b', 'kept', true)"))

    def check(self) -> None:
        """All four are as they were, and in no way under suspicion."""

        for connection in self.used:
            setting = connection.scalar(text("SELECT current_setting('a.b')"))
            assert setting == "kept"
        pids = {backend_of(connection) for connection in self.used}
        for connection in self.used:
            connection.close()
        again = [self.engine.connect() for _ in range(6)]
        now = {backend_of(connection) for connection in again}
        assert len((pids | self.idle) - now) == 1
        for connection in again:
            connection.close()
        assert self.engine.pool.stats().closed == {"reaped": 1}


@pytest.fixture
def engine(engines: Engines, driver: str) -> Engine:
    return engines(
        driver,
        pool_size=6,
        dead_connection_timeout=0.05,
        reaping_frequency=None,
        pool_logging_name="ledger",
    )


@pytest.fixture
def others(engine: Engine) -> Iterator[Others]:
    others = Others(engine)
    yield others
    others.check()


def reclaimed(engine: Engine, take: Callable[[], Any]) -> Any:
    """What a thread took and left, taken back by the pool meanwhile."""

    taken = in_a_thread_that_ends(take, NAME)
    eventually(lambda: engine.pool.reap() == 1)
    return taken


def check_message(error: BaseException) -> None:
    assert isinstance(error, ConnectionReclaimed)
    assert isinstance(error, exc.OperationalError)
    assert error.connection_invalidated
    assert error.reason == "abandoned"
    assert error.logging_name == "ledger"
    at = datetime.datetime.fromtimestamp(error.reclaimed_at)
    assert abs(datetime.datetime.now() - at) < datetime.timedelta(minutes=1)
    message = str(error)
    assert "pool 'ledger' took back a connection" in message
    assert "all its holders have ended" in message
    assert re.search(rf"Held by '{NAME}' \(ended\) for \d+\.\d s", message)
    assert re.search(r"last used \d+\.\d s ago", message)
    assert re.search(r"checked out at .+:\d+ in \w+\.", message)


# a Connection

USES: dict[str, Callable[[Any], object]] = {
    "execute": lambda connection: connection.execute(text("SELECT 1")),
    "begin and execute": lambda connection: (
        connection.rollback(),
        connection.begin(),
        connection.execute(text("SELECT 1")),
    ),
    "commit": lambda connection: connection.commit(),
    "begin_nested": lambda connection: connection.begin_nested(),
    "exec_driver_sql": lambda connection: connection.exec_driver_sql(
        "SELECT 1"
    ),
    "stream": lambda connection: connection.execution_options(
        stream_results=True
    ).execute(text("SELECT 1")),
}


def outside_a_transaction(engine: Engine) -> Any:
    connection = engine.connect()
    connection.execute(text("SELECT 1"))
    connection.commit()
    return connection


def inside_a_transaction(engine: Engine) -> Any:
    connection = engine.connect()
    connection.execute(text("SELECT 1"))
    return connection


@pytest.mark.parametrize(
    "take, use",
    [
        *((inside_a_transaction, use) for use in USES),
        # there a commit commits nothing, and so uses no connection
        *((outside_a_transaction, use) for use in USES if use != "commit"),
    ],
)
def test_connection(
    engine: Engine, others: Others, take: Callable[..., Any], use: str
) -> None:
    connection = reclaimed(engine, lambda: take(engine))

    with pytest.raises(ConnectionReclaimed) as raised:
        USES[use](connection)
    check_message(raised.value)
    assert connection.invalidated

    # SQLAlchemy's rules for invalidated ones from here
    begun = use != "commit" and (
        take is inside_a_transaction or use.startswith("begin")
    )
    assert connection.in_transaction() == begun
    if begun:
        with pytest.raises(exc.PendingRollbackError):
            connection.execute(text("SELECT 1"))
    connection.rollback()
    assert connection.scalar(text("SELECT 1")) == 1
    connection.commit()
    connection.close()


def test_a_result_that_is_read_on(engine: Engine) -> None:
    """Its cursor knows nothing of the pool, and fails by itself."""
    connection = engine.connect().execution_options(
        stream_results=True, max_row_buffer=10
    )
    result = connection.execute(text("SELECT generate_series(1, 1000)"))
    assert next(result) == (1,)
    engine.pool.disconnect()

    with pytest.raises(ConnectionReclaimed):
        result.all()
    assert connection.invalidated
    connection.rollback()
    assert connection.scalar(text("SELECT 1")) == 1
    connection.close()


def test_rollback_and_reconnect_at_once(
    engine: Engine, others: Others
) -> None:
    connection = reclaimed(engine, lambda: inside_a_transaction(engine))

    with pytest.raises(ConnectionReclaimed):
        connection.execute(text("SELECT 1"))
    connection.rollback()
    with connection.begin():
        connection.execute(text("SELECT 1"))
    connection.close()


@pytest.mark.parametrize("take", [inside_a_transaction, outside_a_transaction])
@pytest.mark.parametrize("way", ["close", "rollback", "forget"])
def test_close_is_silent(
    engine: Engine,
    others: Others,
    take: Callable[..., Any],
    way: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    connection = reclaimed(engine, lambda: take(engine))

    if way == "rollback":
        connection.rollback()
    if way != "forget":
        connection.close()
    del connection
    gc.collect()

    # the warning of the reaping, and nothing else
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert engine.pool.stats().in_use == len(others.used)


# a Session


class Base(DeclarativeBase):
    pass


class Number(Base):
    __tablename__ = "reaperpool_number"
    __table_args__ = {"prefixes": ["TEMPORARY"]}

    x: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    y: Mapped[int]


def session_with_changes(engine: Engine) -> Session:
    session = Session(engine)
    Base.metadata.create_all(session.connection())
    session.add(Number(x=1, y=1))
    session.flush()
    session.add(Number(x=2, y=2))
    return session


@pytest.mark.parametrize("use", ["flush", "execute", "get", "commit"])
def test_session(engine: Engine, others: Others, use: str) -> None:
    session = reclaimed(engine, lambda: session_with_changes(engine))

    with pytest.raises(ConnectionReclaimed) as raised:
        if use == "execute":
            session.execute(text("SELECT 1"))
        elif use == "get":
            session.get(Number, 3)
        else:
            getattr(session, use)()
    check_message(raised.value)

    session.rollback()
    # it is another connection: without the table, and usable
    assert session.scalar(text("SELECT to_regclass('reaperpool_number')")) is (
        None
    )
    Base.metadata.create_all(session.connection())
    session.add(Number(x=1, y=3))
    session.flush()
    assert session.scalars(text("SELECT y FROM reaperpool_number")).all() == [
        3
    ]
    session.close()


@pytest.mark.parametrize("use", ["flush", "commit"])
def test_session_whose_transaction_has_just_begun(
    engine: Engine, others: Others, use: str
) -> None:
    def take() -> Session:
        session = Session(engine)
        session.connection()
        session.add(Number(x=1, y=1))
        return session

    session = reclaimed(engine, take)

    with pytest.raises(ConnectionReclaimed) as raised:
        getattr(session, use)()
    check_message(raised.value)
    session.rollback()
    assert session.scalar(text("SELECT 1")) == 1
    session.close()


@pytest.mark.parametrize("way", ["close", "rollback"])
def test_session_ends_silently(
    engine: Engine, others: Others, way: str
) -> None:
    session = reclaimed(engine, lambda: session_with_changes(engine))

    getattr(session, way)()
    assert session.scalar(text("SELECT 1")) == 1
    session.close()


@pytest.mark.parametrize("take", [inside_a_transaction, session_with_changes])
def test_message_has_the_line(
    engine: Engine, others: Others, take: Callable[..., Any]
) -> None:
    taken = reclaimed(engine, lambda: take(engine))

    with pytest.raises(ConnectionReclaimed) as raised:
        taken.execute(text("SELECT 1"))

    line = take.__code__.co_firstlineno + (
        2 if take is session_with_changes else 1
    )
    where = f"checked out at {__file__}:{line} in {take.__name__}."
    assert where in str(raised.value)
    taken.close()


# a handle, and what was kept of it


@pytest.mark.parametrize(
    "use", ["cursor", "commit", "detach", "autocommit", "driver_connection"]
)
def test_handle(engine: Engine, others: Others, use: str) -> None:
    handle = reclaimed(engine, engine.raw_connection)
    assert not handle.is_valid

    for _ in range(2):
        with pytest.raises(ConnectionReclaimed) as raised:
            # two of these are no methods, and raise by themselves
            getattr(handle, use)()
        check_message(raised.value)
    handle.close()
    handle.close()
    handle.invalidate()


def test_what_was_kept_aside(
    engine: Engine, others: Others, observer: Observer
) -> None:
    def take() -> tuple[Any, Any, Any]:
        handle = engine.raw_connection()
        raw: Any = handle.driver_connection
        # past the handle: a cursor of the handle's own keeps it in use
        cursor = raw.cursor()
        cursor.execute("SELECT 1")
        return handle, raw, cursor

    handle, raw, cursor = reclaimed(engine, take)

    dbapi: Any = engine.dialect.loaded_dbapi
    with pytest.raises((dbapi.OperationalError, dbapi.InterfaceError)):
        cursor.execute("SELECT 1")
    with pytest.raises((dbapi.OperationalError, dbapi.InterfaceError)):
        raw.commit()
    assert raw.closed
    eventually(lambda: len(observer.backends(engine)) == 4)
