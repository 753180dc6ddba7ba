"""What is executed through a cursor that was kept while others joined."""

from __future__ import annotations

import sqlite3
import sys
import threading
from contextlib import closing

import pytest
from sqlalchemy import Column
from sqlalchemy import Integer
from sqlalchemy import MetaData
from sqlalchemy import Table
from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy import text
from sqlalchemy.orm import Session
from sqlalchemy.orm import declarative_base

from sa_reaperpool import JoinEnded
from sa_reaperpool import JoinOrder
from sa_reaperpool import JoinRefused
from sa_reaperpool import NotOwner
from sa_reaperpool import ProvisionalCommitLost
from sa_reaperpool import ReaperPool


def make_engine(folder, reservation="thread", **options):
    engine = create_engine(
        f"sqlite:///{folder}/joins.db",
        poolclass=ReaperPool,
        reservation=reservation,
        pool_size=1,
        max_overflow=0,
        pool_timeout=1,
        reaping_frequency=None,
        **options,
    )
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER, y INTEGER)"))
    return engine


@pytest.fixture
def engine(tmp_path):
    engine = make_engine(tmp_path)
    yield engine
    engine.dispose()


@pytest.fixture
def pool(engine):
    return engine.pool


@pytest.fixture
def rows(tmp_path):
    """What is committed, as another process would see it."""

    def rows():
        with closing(sqlite3.connect(f"{tmp_path}/joins.db")) as outside:
            return [x for (x,) in outside.execute("SELECT x FROM t")]

    return rows


def insert(connection, x):
    connection.execute(text("INSERT INTO t (x) VALUES (:x)"), {"x": x})


class Joining:
    """A column's default that joins, writes, and leaves its join open."""

    def __init__(self, engine):
        self.engine = engine
        self.join = None

    def __call__(self):
        self.join = self.engine.connect()
        insert(self.join, 100)
        return 1

    def over(self):
        if self.join is not None:
            self.join.close()


@pytest.fixture
def default(engine):
    default = Joining(engine)
    yield default
    default.over()


# between SQLAlchemy's cursor() and its execute()


def test_a_default_that_joins_loses_no_row_of_core(engine, rows, default):
    table = Table(
        "t", MetaData(), Column("x", Integer), Column("y", default=default)
    )
    with engine.connect() as connection:
        insert(connection, 1)
        with pytest.raises(JoinOrder):
            connection.execute(table.insert(), {"x": 2})
        default.over()
        connection.execute(table.insert().values(y=0), {"x": 3})
        connection.commit()
    assert rows() == [1, 3]


def test_a_default_that_joins_loses_no_row_of_a_flush(engine, rows, default):
    class Row(declarative_base()):
        __tablename__ = "t"
        x = Column(Integer, primary_key=True)
        y = Column(Integer, default=default)

    with Session(engine) as session:
        insert(session, 1)
        session.add(Row(x=2))
        with pytest.raises(JoinOrder):
            session.flush()
        session.rollback()
        default.over()
        session.add(Row(x=3, y=0))
        session.commit()
    assert rows() == [3]


def test_a_default_that_joins_and_commits_is_as_any_join(engine, rows):
    def number():
        with engine.begin() as connection:
            insert(connection, 100)
        return 1

    table = Table(
        "t", MetaData(), Column("x", Integer), Column("y", default=number)
    )
    with engine.connect() as connection:
        connection.execute(table.insert(), {"x": 2})
        connection.rollback()
        assert rows() == []
        connection.execute(table.insert(), {"x": 3})
        connection.commit()
    assert rows() == [100, 3]


def test_a_listener_that_joins_before_execute(engine, rows):
    joins = []

    def join(*args):
        if not joins:
            joins.append(engine.connect())
            insert(joins[0], 100)

    with engine.connect() as connection:
        insert(connection, 1)
        event.listen(engine, "before_cursor_execute", join)
        with pytest.raises(JoinOrder):
            insert(connection, 2)
        joins[0].close()
        insert(connection, 3)
        connection.commit()
    assert rows() == [1, 3]


# raw cursors


@pytest.mark.parametrize("many", [False, True])
def test_a_kept_cursor_waits_for_the_joins_end(pool, rows, many):
    outer = pool.connect()
    kept = outer.cursor()
    kept.execute("INSERT INTO t (x) VALUES (1)")
    join = pool.connect()
    join.cursor().execute("INSERT INTO t (x) VALUES (2)")
    with pytest.raises(JoinOrder):
        if many:
            kept.executemany("INSERT INTO t (x) VALUES (?)", [(3,), (4,)])
        else:
            kept.execute("INSERT INTO t (x) VALUES (3)")
    join.rollback()
    kept.execute("INSERT INTO t (x) VALUES (5)")
    outer.commit()
    assert rows() == [1, 5]
    join.close()
    outer.close()


def test_the_cursor_that_a_connections_execute_gives(pool, rows):
    outer = pool.connect()
    kept = outer.execute("SELECT 1")
    assert type(kept).__name__ == "Cursor"
    join = pool.connect()
    join.execute("INSERT INTO t (x) VALUES (2)")
    with pytest.raises(JoinOrder):
        kept.execute("INSERT INTO t (x) VALUES (3)")
    with pytest.raises(JoinOrder):
        outer.execute("INSERT INTO t (x) VALUES (3)")
    join.close()
    kept.execute("INSERT INTO t (x) VALUES (4)")
    outer.commit()
    outer.close()
    assert rows() == [4]


def test_cursors_of_the_drivers_own_kind(pool):
    outer = pool.connect()
    cursor = outer.cursor()
    assert isinstance(cursor, sqlite3.Cursor)
    assert repr(cursor).startswith("<sqlite3.Cursor ")

    class Own(sqlite3.Cursor):
        pass

    assert isinstance(outer.cursor(Own), Own)
    assert isinstance(outer.cursor(factory=Own), Own)
    outer.close()


def test_a_cursor_begins_with_its_first_statement(pool, rows):
    outer = pool.connection()
    cursor = outer.cursor()
    with closing(pool.connect()) as join:
        join.execute("INSERT INTO t (x) VALUES (1)")
        join.commit()
    # the outer has begun nothing: this was a real commit
    assert rows() == [1]
    cursor.execute("INSERT INTO t (x) VALUES (2)")
    pool.release_connection()
    assert rows() == [1]


def test_a_cursor_of_a_join_that_was_lost(pool, rows):
    outer = pool.connect()
    outer.execute("INSERT INTO t (x) VALUES (1)")
    join = pool.connect()
    cursor = join.execute("INSERT INTO t (x) VALUES (2)")
    outer.rollback()
    with pytest.raises(JoinEnded):
        cursor.execute("INSERT INTO t (x) VALUES (3)")
    join.rollback()
    cursor.execute("INSERT INTO t (x) VALUES (4)")
    join.commit()
    assert rows() == [4]
    join.close()
    with pytest.raises(JoinEnded):
        cursor.execute("SELECT 1")
    outer.close()


def test_a_cursor_of_what_was_given_back(pool):
    outer = pool.connect()
    cursor = outer.cursor()
    outer.close()
    with pytest.raises(JoinEnded):
        cursor.execute("SELECT 1")


# bound methods


def in_a_thread(call):
    caught = []

    def run():
        try:
            call()
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    return caught


@pytest.mark.parametrize("joined", [False, True])
def test_bound_methods_know_their_owner(pool, rows, joined):
    with closing(pool.connect()) as base, closing(pool.connect()) as join:
        handle = join if joined else base
        insert = "INSERT INTO t (x) VALUES (1)"
        for call in (
            handle.cursor().execute,
            handle.execute,
            handle.create_function,
            handle.cursor,
        ):
            (error,) = in_a_thread(lambda call=call: call(insert))
            assert isinstance(error, NotOwner), call
        (error,) = in_a_thread(handle.commit)
        assert isinstance(error, NotOwner)
        handle.execute(insert)
        handle.commit()
    assert rows() == [1]


# the ends of transactions as text


@pytest.mark.parametrize(
    "statement",
    [
        "ROLLBACK",
        "rollback transaction;",
        "/* and so */ ROLLBACK",
        "-- well\nROLLBACK",
        "COMMIT",
        "END",
        "BEGIN",
        "ROLLBACK TO outers",
        "ROLLBACK TO SAVEPOINT reaper_join_1",
        "RELEASE outers",
    ],
)
def test_a_join_does_not_end_its_outers_work_by_text(pool, rows, statement):
    outer = pool.connect()
    outer.execute("INSERT INTO t (x) VALUES (1)")
    outer.execute("SAVEPOINT outers")
    outer.execute("INSERT INTO t (x) VALUES (2)")
    join = pool.connect()
    join.execute("INSERT INTO t (x) VALUES (3)")
    with pytest.raises(JoinRefused):
        join.execute(statement)
    with pytest.raises(JoinRefused):
        join.cursor().execute(statement)
    join.rollback()
    outer.commit()
    assert rows() == [1, 2]
    join.close()
    outer.close()


def test_a_joins_connection_does_not_either(engine, rows):
    with engine.connect() as outer:
        insert(outer, 1)
        with engine.connect() as join:
            with pytest.raises(JoinRefused):
                join.execute(text("ROLLBACK"))
        outer.commit()
    assert rows() == [1]


def test_savepoints_of_a_joins_own_as_text(pool, rows):
    outer = pool.connect()
    outer.execute("INSERT INTO t (x) VALUES (1)")
    outer.execute("SAVEPOINT one")
    join = pool.connect()
    for statement in (
        "SAVEPOINT one",
        "INSERT INTO t (x) VALUES (2)",
        'SAVEPOINT "Two"',
        "ROLLBACK TO one",
        "INSERT INTO t (x) VALUES (3)",
        "RELEASE SAVEPOINT one",
    ):
        join.execute(statement)
    for statement in ("ROLLBACK TO one", 'ROLLBACK TO "Two"'):
        with pytest.raises(JoinRefused):
            join.execute(statement)
    join.commit()
    outer.commit()
    join.close()
    outer.close()
    assert rows() == [1, 3]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
@pytest.mark.parametrize("joined", [False, True])
def test_text_of_whoever_has_the_transaction_ends_it(pool, rows, end, joined):
    base = pool.connection()
    handle = pool.connect() if joined else base
    handle.execute("INSERT INTO t (x) VALUES (1)")
    handle.execute(end)
    with closing(pool.connect()) as join:
        # nothing is begun: a real transaction of its own
        join.execute("INSERT INTO t (x) VALUES (2)")
        join.commit()
    pool.release_connection()
    assert rows() == ([1, 2] if end == "COMMIT" else [2])


def test_rollback_as_text_by_who_only_read_warns(pool, rows):
    outer = pool.connect()
    outer.execute("SELECT x FROM t").fetchall()
    with closing(pool.connect()) as join:
        join.execute("INSERT INTO t (x) VALUES (2)")
        join.commit()
    with pytest.warns(ProvisionalCommitLost):
        outer.execute("ROLLBACK")
    outer.close()
    assert rows() == []


def test_rollback_to_as_text_by_who_only_read_warns(pool, rows):
    outer = pool.connect()
    outer.execute("SELECT x FROM t").fetchall()
    outer.execute("SAVEPOINT one")
    with closing(pool.connect()) as join:
        join.execute("INSERT INTO t (x) VALUES (2)")
        join.commit()
    with pytest.warns(ProvisionalCommitLost):
        outer.execute("ROLLBACK TO one")
    outer.commit()
    outer.close()
    assert rows() == []


def test_a_joins_script_would_commit(pool, rows):
    outer = pool.connect()
    outer.execute("INSERT INTO t (x) VALUES (1)")
    join = pool.connect()
    script = "INSERT INTO t (x) VALUES (2); INSERT INTO t (x) VALUES (3);"
    with pytest.raises(JoinRefused):
        join.executescript(script)
    with pytest.raises(JoinRefused):
        join.cursor().executescript(script)
    outer.rollback()
    outer.executescript(script)
    outer.close()
    join.close()
    assert rows() == [2, 3]


# what is open for long


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no blobopen()")
def test_a_blob_is_written_in_turn(pool, tmp_path):
    outer = pool.connect()
    outer.execute("INSERT INTO t (x) VALUES (zeroblob(4))")
    join = pool.connect()
    join.execute("INSERT INTO t (x) VALUES (2)")
    with pytest.raises(JoinOrder):
        outer.blobopen("t", "x", 1)
    join.rollback()
    with outer.blobopen("t", "x", 1) as blob:
        # as SQLite has it
        with pytest.raises(JoinRefused, match="in progress"):
            join.execute("INSERT INTO t (x) VALUES (3)")
        blob.write(b"ab")
        blob[2:4] = b"cd"
        assert len(blob) == 4
        assert blob[0:3] == b"abc"
    blob = outer.blobopen("t", "x", 1, readonly=True)
    join.execute("INSERT INTO t (x) VALUES (4)")
    with pytest.raises(JoinOrder):
        blob.read()
    join.close()
    outer.commit()
    outer.close()
    with closing(sqlite3.connect(f"{tmp_path}/joins.db")) as outside:
        assert outside.execute("SELECT x FROM t").fetchall() == [(b"abcd",)]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_half_read_cursors(pool, rows, end):
    outer = pool.connect()
    outer.executemany("INSERT INTO t (x) VALUES (?)", [(1,), (2,), (3,)])
    outer.commit()
    outer.execute("INSERT INTO t (x) VALUES (4)")
    half = outer.execute("SELECT x FROM t ORDER BY x")
    assert half.fetchone() == (1,)
    join = pool.connect()
    other = join.execute("SELECT x FROM t ORDER BY x")
    assert other.fetchone() == (1,)
    join.execute("INSERT INTO t (x) VALUES (5)")
    getattr(join, end)()
    other.close()
    assert half.fetchone() == (2,)
    join.close()
    outer.commit()
    outer.close()
    assert rows() == [1, 2, 3, 4, 5][: 5 if end == "commit" else 4]


@pytest.mark.skipif(
    sqlite3.sqlite_version_info < (3, 35), reason="no RETURNING"
)
def test_a_half_read_returning_is_told_and_loses_nothing(pool, rows):
    outer = pool.connect()
    half = outer.execute("INSERT INTO t (x) VALUES (1), (2) RETURNING x")
    half.fetchone()
    join = pool.connect()
    with pytest.raises(JoinRefused, match="in progress"):
        join.execute("INSERT INTO t (x) VALUES (3)")
    half.fetchall()
    join.execute("INSERT INTO t (x) VALUES (4)")
    join.commit()
    join.close()
    outer.commit()
    outer.close()
    assert rows() == [1, 2, 4]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no autocommit")
def test_a_driver_that_is_always_in_a_transaction(tmp_path, rows):
    engine = make_engine(tmp_path, connect_args={"autocommit": False})
    pool = engine.pool
    base = pool.connection()
    half = base.execute("SELECT 1 UNION SELECT 2")
    half.fetchone()
    base.commit()
    with engine.begin() as connection:
        # the base has begun nothing
        insert(connection, 1)
    assert rows() == [1]
    base.execute("INSERT INTO t (x) VALUES (2)")
    with engine.connect() as connection:
        insert(connection, 3)
    with engine.begin() as connection:
        insert(connection, 4)
    assert rows() == [1]
    base.commit()
    assert rows() == [1, 2, 4]
    base.execute("INSERT INTO t (x) VALUES (5)")
    pool.release_connection()
    assert rows() == [1, 2, 4]
    engine.dispose()


# the raw connection


def test_a_joins_raw_connection_works_in_its_savepoint(pool, rows):
    outer = pool.connect()
    outer.execute("INSERT INTO t (x) VALUES (1)")
    join = pool.connect()
    join.driver_connection.execute("INSERT INTO t (x) VALUES (2)")
    with pytest.raises(JoinOrder):
        outer.execute("INSERT INTO t (x) VALUES (3)")
    join.rollback()
    join.dbapi_connection.execute("INSERT INTO t (x) VALUES (4)")
    join.commit()
    outer.commit()
    assert rows() == [1, 4]
    join.close()
    assert join.driver_connection is None
    outer.close()


def test_what_an_outer_did_on_its_raw_connection_is_its_own(pool, rows):
    outer = pool.connect()
    outer.driver_connection.execute("INSERT INTO t (x) VALUES (1)")
    join = pool.connect()
    join.execute("INSERT INTO t (x) VALUES (2)")
    join.rollback()
    outer.commit()
    assert rows() == [1]
    join.close()
    outer.close()


def test_what_is_no_dbapi_connection_has_no_turns():
    class Client:
        def query(self, *args):
            return args

        pipeline = execute = transaction = query

    pool = ReaperPool(Client, 1, 0, reset_on_return=None, reservation="thread")
    with pool.connect() as outer, pool.connect() as join:
        for handle in (outer, join, outer):
            assert handle.query("ROLLBACK") == ("ROLLBACK",)
            assert handle.execute(1) == handle.pipeline(1) == (1,)
            assert handle.transaction(1) == (1,)
            assert handle.driver_connection is outer.driver_connection
        (error,) = in_a_thread(join.query)
        assert isinstance(error, NotOwner)
    assert pool.stats().idle == 1


class Plain(sqlite3.Connection):
    """One whose cursors cannot be had in another class."""

    def cursor(self):
        return super().cursor()


def test_cursors_that_cannot_be_checked(tmp_path, rows):
    engine = make_engine(tmp_path, connect_args={"factory": Plain})
    pool = engine.pool
    joins = []

    def join():
        joins.append(engine.connect())
        insert(joins[-1], 100)
        return 1

    table = Table(
        "t", MetaData(), Column("x", Integer), Column("y", default=join)
    )
    with engine.connect() as outer:
        # SQLAlchemy's statements are seen all the same
        with pytest.raises(JoinOrder):
            outer.execute(table.insert(), {"x": 1})
        joins[0].close()
        insert(outer, 2)
        outer.commit()
        with engine.connect() as other:
            with pytest.raises(JoinRefused):
                insert(outer, 3)
                insert(other, 4)
                other.exec_driver_sql("ROLLBACK")
        outer.commit()
    assert rows() == [2, 3]
    # others count as begun when they are taken
    base = pool.connection()
    cursor = base.cursor()
    with engine.begin() as connection:
        insert(connection, 5)
    assert rows() == [2, 3]
    cursor.execute("INSERT INTO t (x) VALUES (6)")
    base.commit()
    pool.release_connection()
    assert rows() == [2, 3, 5, 6]
    engine.dispose()


@pytest.mark.parametrize("joined", [False, True])
def test_a_triggers_end_is_no_commit(engine, rows, joined):
    trigger = text(
        "CREATE TRIGGER a AFTER INSERT ON t BEGIN UPDATE t SET y = x; END"
    )
    with engine.connect() as outer:
        outer.execute(text("INSERT INTO t (x) VALUES (1)"))
        with Session(engine) as session:
            (session if joined else outer).execute(trigger)
            session.execute(text("INSERT INTO t (x) VALUES (2)"))
            session.commit()
        outer.rollback()
    assert rows() == []


@pytest.mark.parametrize("joined", [False, True])
def test_another_thread_may_end_what_runs(pool, joined):
    with closing(pool.connect()) as outer, closing(pool.connect()) as join:
        handle = join if joined else outer
        assert in_a_thread(lambda: handle.interrupt()) == []
        [error] = in_a_thread(lambda: handle.execute("SELECT 1"))
        assert isinstance(error, NotOwner)
