"""How an outer can end, and whether that undoes what joins committed."""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import closing

import pytest
from sqlalchemy import Column
from sqlalchemy import Integer
from sqlalchemy import event
from sqlalchemy import text
from sqlalchemy.orm import Session
from sqlalchemy.orm import declarative_base
from test_joins_cursors import engine as engine
from test_joins_cursors import in_a_thread
from test_joins_cursors import insert
from test_joins_cursors import make_engine
from test_joins_cursors import pool as pool
from test_joins_cursors import rows as rows

import sa_reaperpool
from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import JoinEnded
from sa_reaperpool import JoinOrder
from sa_reaperpool import JoinRefused
from sa_reaperpool import NotOwner
from sa_reaperpool import ProvisionalCommitLost


def read(handle):
    return handle.execute("SELECT x FROM t").fetchall()


def commit_a_join(pool):
    with closing(pool.connect()) as join:
        join.execute("INSERT INTO t (x) VALUES (2)")
        join.commit()


@pytest.fixture
def outer(pool):
    """Has only read; a join on it has committed a row."""
    outer = pool.connect()
    read(outer)
    commit_a_join(pool)
    return outer


@pytest.fixture(autouse=True)
def no_other_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ProvisionalCommitLost)
        yield


def remove(outer):
    outer._pool.remove(outer)
    outer.close()


def detach(outer):
    outer.detach()
    outer.close()


def detach_and_roll_back(outer):
    outer.detach()
    outer.rollback()


@pytest.mark.parametrize(
    "end",
    [
        lambda outer: outer.close(),
        lambda outer: outer.rollback(),
        lambda outer: outer.invalidate(),
        lambda outer: outer._pool.disconnect(),
        remove,
        detach,
        detach_and_roll_back,
    ],
)
@pytest.mark.parametrize("wrote", [False, True])
def test_what_undoes_a_provisional_commit_warns(outer, rows, end, wrote):
    if wrote:
        outer.execute("INSERT INTO t (x) VALUES (3)")
        end(outer)
    else:
        with pytest.warns(ProvisionalCommitLost, match="test_joins_ends"):
            end(outer)
    assert rows() == []
    outer.close()


def detach_and_commit(outer):
    outer.detach()
    outer.commit()
    outer.close()


def remove_and_commit(outer):
    outer._pool.remove(outer)
    cursor = outer.cursor()
    cursor.execute("SELECT 1")
    outer.commit()
    outer.close()


@pytest.mark.parametrize(
    "end",
    [lambda outer: outer.commit(), detach_and_commit, remove_and_commit],
)
def test_what_keeps_it_does_not(outer, rows, end):
    end(outer)
    assert rows() == [2]
    outer.close()


def test_a_change_of_rules_that_commits_does_not_warn(engine, outer, rows):
    # the driver commits, when told to
    engine.dialect.set_isolation_level(
        outer._connection_record.dbapi_connection, "AUTOCOMMIT"
    )
    assert rows() == [2]
    outer.close()


def test_a_join_that_invalidates(pool, outer, rows):
    join = pool.connect()
    with pytest.warns(ProvisionalCommitLost):
        join.invalidate()
    assert rows() == []
    with pytest.raises(ConnectionReclaimed):
        read(outer)


def test_detached_is_not_shared_any_more(pool, rows):
    outer = pool.connect()
    outer.execute("INSERT INTO t (x) VALUES (1)")
    kept = outer.cursor()
    outer.detach()
    kept.execute("INSERT INTO t (x) VALUES (2)")
    outer.cursor().execute("INSERT INTO t (x) VALUES (3)")
    outer.commit()
    assert pool.stats().in_use == 0
    with closing(pool.connect()) as other:
        other.execute("INSERT INTO t (x) VALUES (4)")
        other.commit()
    outer.close()
    assert rows() == [1, 2, 3, 4]


# whose it is


@pytest.mark.parametrize("how", ["detach", "remove"])
def test_another_thread_cannot_take_it_out_of_the_pool(pool, rows, how):
    outer = pool.connection()
    outer.execute("INSERT INTO t (x) VALUES (1)")
    call = outer.detach if how == "detach" else lambda: pool.remove(outer)
    (error,) = in_a_thread(call)
    assert isinstance(error, NotOwner)
    outer.commit()
    pool.release_connection()
    assert rows() == [1]
    assert pool.stats().idle == 1


# how it is reset


@pytest.mark.parametrize("begun", [False, True])
def test_without_reset_open_joins_are_undone(tmp_path, rows, begun):
    engine = make_engine(tmp_path, pool_reset_on_return=None)
    pool = engine.pool
    outer = pool.connect()
    if begun:
        outer.execute("INSERT INTO t (x) VALUES (1)")
    join = pool.connect()
    join.execute("INSERT INTO t (x) VALUES (2)")
    outer.close()
    with closing(pool.connect()) as other:
        other.commit()
    assert rows() == ([1] if begun else [])
    with pytest.raises(JoinEnded):
        read(join)
    engine.dispose()


@pytest.mark.parametrize("wrote", [False, True])
def test_a_listener_that_rolls_back_undoes(tmp_path, rows, wrote):
    """SQLAlchemy's own recipe for a reset of one's own."""
    engine = make_engine(tmp_path, pool_reset_on_return=None)
    pool = engine.pool

    @event.listens_for(pool, "reset")
    def reset(connection, record, state):
        connection.rollback()

    outer = pool.connect()
    read(outer)
    commit_a_join(pool)
    if wrote:
        outer.execute("INSERT INTO t (x) VALUES (3)")
    join = pool.connect()
    join.execute("INSERT INTO t (x) VALUES (4)")
    if wrote:
        outer.close()
    else:
        with pytest.warns(ProvisionalCommitLost):
            outer.close()
    with closing(pool.connect()) as other:
        other.commit()
    assert rows() == []
    engine.dispose()


def test_a_reset_that_commits_keeps_what_was_committed(tmp_path, rows):
    engine = make_engine(tmp_path, pool_reset_on_return="commit")
    pool = engine.pool
    outer = pool.connect()
    read(outer)
    commit_a_join(pool)
    join = pool.connect()
    join.execute("INSERT INTO t (x) VALUES (3)")
    outer.close()
    assert rows() == [2]
    engine.dispose()


def test_a_driver_that_commits_when_a_with_block_ends(pool, rows):
    """A handle's own block gives it back, whatever the driver's does."""
    with pool.connect() as outer:
        outer.execute("INSERT INTO t (x) VALUES (1)")
        with pool.connect() as join:
            join.execute("INSERT INTO t (x) VALUES (2)")
        with pool.connect() as join:
            join.execute("INSERT INTO t (x) VALUES (3)")
            join.commit()
        outer.commit()
    assert rows() == [1, 3]
    assert pool.stats().in_use == 0


# bare reservations


def test_savepoints_on_a_bare_reservation(engine, pool, rows):
    pool.connection()
    with engine.begin() as connection:
        insert(connection, 1)
        with connection.begin_nested() as savepoint:
            insert(connection, 2)
            savepoint.rollback()
        with Session(engine) as session:
            insert(session, 3)
            session.commit()
        with Session(engine) as session:
            insert(session, 4)
            with session.begin_nested():
                insert(session, 5)
    assert rows() == [1, 3]
    pool.release_connection()
    assert rows() == [1, 3]


@pytest.mark.parametrize("flushed", [False, True])
def test_a_session_that_has_not_flushed_is_no_outer(
    engine, pool, rows, flushed
):
    class Row(declarative_base()):
        __tablename__ = "t"
        x = Column(Integer, primary_key=True)

    with Session(engine) as session:
        session.add(Row(x=1))
        if flushed:
            session.flush()
        with pool.with_connection() as job:
            job.execute("INSERT INTO t (x) VALUES (2)")
            job.commit()
        assert rows() == ([] if flushed else [2])
        session.rollback()
    assert rows() == ([] if flushed else [2])


# with_connection(engine)


def test_within_a_sessions_block_it_is_another(engine, rows):
    with sa_reaperpool.with_connection(engine) as outer:
        insert(outer, 1)
        with sa_reaperpool.with_connection(engine) as same:
            assert same is outer
        with Session(engine) as session:
            insert(session, 2)
            with sa_reaperpool.with_connection(engine) as inner:
                assert inner is not outer
                insert(inner, 3)
                with sa_reaperpool.with_connection(engine) as same:
                    assert same is inner
                inner.rollback()
                insert(inner, 4)
                inner.commit()
            session.commit()
        with sa_reaperpool.with_connection(engine) as same:
            assert same is outer
        outer.commit()
    assert rows() == [1, 2, 4]
    assert engine.pool.stats().in_use == 0


def test_its_rollback_leaves_the_sessions_work(engine, rows):
    with Session(engine) as session:
        insert(session, 1)
        with sa_reaperpool.with_connection(engine) as inner:
            insert(inner, 2)
            inner.rollback()
        session.commit()
    assert rows() == [1]


def test_an_outers_rollback_is_told_to_the_inner_one(engine, rows):
    with sa_reaperpool.with_connection(engine) as outer:
        insert(outer, 1)
        with Session(engine) as session:
            insert(session, 2)
            with sa_reaperpool.with_connection(engine) as inner:
                insert(inner, 3)
                with pytest.raises(JoinOrder):
                    outer.commit()
                outer.rollback()
                with pytest.raises(JoinEnded):
                    insert(inner, 4)
            with pytest.raises(JoinEnded):
                session.commit()
    assert rows() == []


# fenced


@pytest.mark.parametrize("joined", [False, True])
def test_the_isolation_level_of_what_was_taken_back(engine, rows, joined):
    base = engine.pool.connection() if joined else None
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        engine.pool.disconnect()
        with pytest.raises(ConnectionReclaimed):
            connection.get_isolation_level()
        connection.rollback()
        del base
        insert(connection, 1)
        connection.commit()
    assert rows() == [1]


def test_the_isolation_level_of_a_join_that_ended(engine):
    outer = engine.connect()
    join = engine.connect()
    outer.close()
    with pytest.raises(JoinEnded):
        join.get_isolation_level()




# what ends more than one thing


def test_disconnect_closes_all_though_a_warning_is_an_error(tmp_path, rows):
    engine = make_engine(tmp_path)
    pool = engine.pool
    pool.configure(pool_size=2)
    outer = pool.connect()
    read(outer)
    commit_a_join(pool)
    others = []

    def hold():
        others.append(pool.connect())
        read(others[0])

    assert in_a_thread(hold) == []
    with pytest.raises(ProvisionalCommitLost):
        pool.disconnect()
    for handle in (outer, others[0]):
        with pytest.raises(ConnectionReclaimed):
            read(handle)
    assert rows() == []
    engine.dispose()


def test_a_script_with_a_transaction_of_its_own(pool, rows):
    base = pool.connect()
    base.executescript("BEGIN; INSERT INTO t (x) VALUES (1);")
    with closing(pool.connect()) as join:
        join.execute("INSERT INTO t (x) VALUES (2)")
        join.rollback()
    base.commit()
    base.close()
    assert rows() == [1]


def test_a_script_that_wrote_is_over(pool, rows):
    base = pool.connect()
    base.executescript("INSERT INTO t (x) VALUES (1);")
    read(base)
    commit_a_join(pool)
    with pytest.warns(ProvisionalCommitLost):
        base.rollback()
    base.close()
    assert rows() == [1]


@pytest.mark.parametrize("commits", [False, True])
def test_a_connection_that_is_detached(engine, pool, rows, commits):
    connection = engine.connect()
    connection.execute(text("SELECT x FROM t")).all()
    commit_a_join(pool)
    connection.detach()
    with connection.begin_nested():
        connection.execute(text("SELECT x FROM t")).all()
    assert pool.stats().in_use == 0
    if commits:
        connection.commit()
        connection.close()
    else:
        with pytest.warns(ProvisionalCommitLost):
            connection.close()
    assert rows() == ([2] if commits else [])
    with engine.begin() as connection:
        insert(connection, 3)
    assert rows()[-1:] == [3]


def test_a_statement_that_rolls_all_back(outer, rows):
    outer.execute("CREATE TABLE u (x UNIQUE)")
    outer.execute("INSERT INTO u VALUES (1)")
    with pytest.raises(sqlite3.OperationalError):
        # this is none
        outer.execute("INSERT INTO nowhere VALUES (1)")
    with pytest.warns(ProvisionalCommitLost, match="test_joins_ends"):
        with pytest.raises(sqlite3.IntegrityError):
            outer.execute("INSERT OR ROLLBACK INTO u VALUES (1)")
    outer.execute("INSERT INTO t (x) VALUES (4)")
    outer.commit()
    assert rows() == [4]
    outer.close()


@pytest.mark.parametrize(
    "end", [lambda session: None, lambda session: session.rollback()]
)
def test_each_call_of_connection_is_told_of_what_was_lost(
    engine, pool, rows, end
):
    with Session(engine) as session:
        session.execute(text("SELECT 1"))
        pool.connection().execute("INSERT INTO t (x) VALUES (1)")
        end(session)
    with pytest.raises(JoinEnded):
        pool.connection().commit()
    # once
    pool.connection().execute("INSERT INTO t (x) VALUES (2)")
    pool.connection().commit()
    assert pool.release_connection()
    assert rows() == [2]


def look(handle):
    assert handle.dbapi_connection is None


@pytest.mark.parametrize(
    "end",
    [
        lambda handle: handle.close(),
        lambda handle: handle._pool.release_connection(),
        look,
    ],
)
def test_who_is_done_with_it_is_not(engine, pool, rows, end):
    with Session(engine) as session:
        session.execute(text("SELECT 1"))
        handle = pool.connection()
        handle.execute("INSERT INTO t (x) VALUES (1)")
    end(handle)
    pool.connection().execute("INSERT INTO t (x) VALUES (2)")
    pool.connection().commit()
    assert pool.release_connection()
    assert rows() == [2]


def test_who_has_only_read_has_lost_nothing(engine, pool):
    with Session(engine) as session:
        session.execute(text("SELECT 1"))
        pool.connection().execute("SELECT 1")
    assert pool.connection().execute("SELECT 1").fetchone() == (1,)
    assert pool.release_connection()


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_wrappers_calls_are_a_joins(engine, pool, rows, end):
    wrapper = sa_reaperpool.Wrapper(pool)
    with Session(engine) as session:
        session.execute(text("INSERT INTO t (x) VALUES (1)"))
        with wrapper.with_connection():
            wrapper.execute("INSERT INTO t (x) VALUES (2)")
            wrapper.cursor().execute("INSERT INTO t (x) VALUES (3)")
            getattr(wrapper, end)()
            with pytest.raises(JoinRefused):
                wrapper.close()
        assert rows() == []
        if end == "commit":
            session.rollback()
        else:
            session.commit()
    assert rows() == ([] if end == "commit" else [1])
    with wrapper.with_connection():
        wrapper.execute("INSERT INTO t (x) VALUES (4)")
        wrapper.commit()
    assert rows()[-1] == 4
