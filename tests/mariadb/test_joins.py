"""Joins through PyMySQL: late errors, and results that are not read."""

from __future__ import annotations

import uuid
import warnings
from contextlib import closing

import pymysql.cursors
import pytest
from sqlalchemy import create_engine
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from sa_reaperpool import JoinOrder
from sa_reaperpool import JoinRefused
from sa_reaperpool import ProvisionalCommitLost
from sa_reaperpool import ReaperPool


@pytest.fixture
def engine(mariadb_url):
    engine = create_engine(
        mariadb_url,
        poolclass=ReaperPool,
        reservation="thread",
        pool_size=1,
        max_overflow=0,
        pool_timeout=10,
        reaping_frequency=None,
    )
    yield engine
    engine.dispose()


@pytest.fixture
def outside(mariadb_url):
    engine = create_engine(mariadb_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def table(outside):
    name = f"joins_{uuid.uuid4().hex[:12]}"
    outside.execute(text(f"CREATE TABLE {name} (x integer) ENGINE=InnoDB"))
    yield name
    outside.execute(text(f"DROP TABLE {name}"))


@pytest.fixture
def rows(outside, table):
    def rows():
        found = outside.execute(text(f"SELECT x FROM {table} ORDER BY x"))
        return list(found.scalars())

    return rows


@pytest.fixture
def insert(table):
    def insert(cursor, x):
        cursor.execute(f"INSERT INTO {table} VALUES ({x})")

    return insert


def test_kept_cursors_and_text(engine, rows, table, insert):
    pool = engine.pool
    outer = pool.connect()
    kept = outer.cursor()
    assert type(kept).__name__ == "Cursor"
    insert(kept, 1)
    join = pool.connect()
    with closing(join.cursor(pymysql.cursors.DictCursor)) as cursor:
        assert isinstance(cursor, pymysql.cursors.DictCursor)
        insert(cursor, 2)
        for statement in ("START TRANSACTION", "COMMIT", "ROLLBACK"):
            # the first would commit as well
            with pytest.raises(JoinRefused):
                cursor.execute(statement)
    with pytest.raises(JoinRefused):
        join.begin()
    with pytest.raises(JoinOrder):
        kept.executemany(f"INSERT INTO {table} VALUES (%s)", [(3,), (4,)])
    with pytest.raises(JoinRefused):
        join.query("ROLLBACK")
    join.rollback()
    outer.query(f"INSERT INTO {table} VALUES (5)")
    kept.close()
    join.close()
    outer.commit()
    outer.close()
    assert rows() == [1, 5]


def test_unread_results(engine, rows, insert):
    pool = engine.pool
    outer = pool.connect()
    join = pool.connect()
    streamed = outer.cursor(pymysql.cursors.SSCursor)
    streamed.execute("SELECT 1 UNION SELECT 2")
    streamed.fetchone()
    with closing(join.cursor()) as cursor:
        with pytest.raises(JoinRefused, match="not read to its end"):
            insert(cursor, 1)
        streamed.fetchall()
        insert(cursor, 2)
    join.commit()
    join.close()
    outer.commit()
    outer.close()
    assert rows() == [2]


@pytest.mark.parametrize("wrote", [False, True])
def test_provisional_commits(engine, rows, table, wrote):
    statement = f"INSERT INTO {table} VALUES (1)"
    with warnings.catch_warnings():
        warnings.simplefilter("error", ProvisionalCommitLost)
        outer = engine.connect()
        outer.execute(text(statement if wrote else "SELECT 1 FOR UPDATE"))
        with Session(engine) as session:
            session.execute(text(f"INSERT INTO {table} VALUES (2)"))
            session.commit()
        if wrote:
            outer.invalidate()
        else:
            with pytest.warns(ProvisionalCommitLost):
                outer.invalidate()
        outer.close()
    assert rows() == []


@pytest.mark.parametrize("joined", [False, True])
def test_values_that_look_like_statements(engine, outside, joined):
    """PyMySQL makes one text of many rows, with backslashes in it."""
    table = f"words_{uuid.uuid4().hex[:12]}"
    outside.execute(text(f"CREATE TABLE {table} (x text) ENGINE=InnoDB"))
    words = ["it's; ROLLBACK; it's", "'; COMMIT; --", '"; ROLLBACK']
    try:
        with engine.connect() as outer:
            outer.execute(text(f"INSERT INTO {table} VALUES ('outer')"))
            with Session(engine) as session:
                (session if joined else outer).execute(
                    text(f"INSERT INTO {table} VALUES (:x)"),
                    [{"x": word} for word in words],
                )
                session.execute(text(f"INSERT INTO {table} VALUES ('inner')"))
                session.commit()
            outer.rollback()
        found = outside.execute(text(f"SELECT x FROM {table}"))
        assert list(found.scalars()) == []
    finally:
        outside.execute(text(f"DROP TABLE {table}"))


def test_a_deadlock_undoes_all(engine, rows, table):
    deadlock = text("SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213")
    with engine.connect() as outer:
        outer.execute(text("SELECT 1"))
        with Session(engine) as session:
            session.execute(text(f"INSERT INTO {table} VALUES (1)"))
            session.commit()
        # as the server does then, unseen
        outer.connection.dbapi_connection.rollback()
        with pytest.warns(ProvisionalCommitLost, match="test_joins"):
            with pytest.raises(OperationalError, match="1213"):
                outer.execute(deadlock)
        # as without joins, MySQL begins anew
        outer.execute(text(f"INSERT INTO {table} VALUES (5)"))
        outer.commit()
    assert rows() == [5]
