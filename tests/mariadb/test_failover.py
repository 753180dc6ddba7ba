"""MariaDB says that it is read-only: all connections are replaced."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import create_engine
from sqlalchemy import exc
from sqlalchemy import make_url
from sqlalchemy import text
from waiting import eventually

from sa_reaperpool import ReaperPool


@pytest.fixture
def admin(mariadb_url):
    engine = create_engine(mariadb_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def engine(admin, mariadb_url):
    """Of a user who is nobody special: others may write all the same."""
    name = f"reaperpool_{uuid.uuid4().hex[:12]}"
    url = make_url(mariadb_url)
    admin.execute(text(f"CREATE TABLE {name} (x integer)"))
    admin.exec_driver_sql(
        f"CREATE USER '{name}' IDENTIFIED BY '{name}'"
    )
    admin.exec_driver_sql(f"GRANT ALL ON {url.database}.* TO '{name}'")
    engine = create_engine(
        url.set(username=name, password=name),
        poolclass=ReaperPool,
        pool_size=3,
        max_overflow=0,
        pool_timeout=10,
    )
    engine.table = name
    yield engine
    engine.dispose()
    admin.exec_driver_sql(f"DROP USER '{name}'")
    admin.execute(text(f"DROP TABLE {name}"))


@pytest.fixture
def read_only(admin):
    """Makes it so, for all; others' tests do not run at the same time."""
    yield lambda on: admin.execute(text(f"SET GLOBAL read_only = {on}"))
    admin.execute(text("SET GLOBAL read_only = 0"))


def opened(engine):
    connections = [engine.connect() for _ in range(3)]
    ids = [
        connection.scalar(text("SELECT CONNECTION_ID()"))
        for connection in connections
    ]
    for connection in connections:
        connection.close()
    return set(ids)


def write(engine):
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO {engine.table} VALUES (1)"))


def test_a_demoted_primary(engine, read_only):
    write(engine)
    old = opened(engine)
    read_only(1)
    with pytest.raises(exc.DBAPIError, match="--read-only"):
        write(engine)
    read_only(0)
    eventually(lambda: engine.pool.stats().closed == {"refreshed": 3})
    assert opened(engine).isdisjoint(old)
    write(engine)


def test_a_transaction_that_the_application_made_read_only(engine):
    old = opened(engine)
    with engine.connect() as connection:
        connection.execute(text("SET SESSION TRANSACTION READ ONLY"))
        connection.rollback()
        with pytest.raises(exc.DBAPIError):
            connection.execute(text(f"INSERT INTO {engine.table} VALUES (1)"))
        connection.rollback()
    assert opened(engine) == old
    assert engine.pool.stats().closed == {}
