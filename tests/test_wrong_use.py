"""Wrong use is a clear error, and costs the pool nothing.

On SQLite and on PostgreSQL.  At the end of each test, whoever holds
something closes it, and then everything has to be there again: each of the
pool's connections can be had, at once, and comes without a transaction.
"""

from __future__ import annotations

import uuid
from contextlib import ExitStack

import pytest
from sqlalchemy import Connection
from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy import make_url
from sqlalchemy import text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session
from stub import Gate
from stub import Task

import sa_reaperpool
from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import JoinEnded
from sa_reaperpool import JoinOrder
from sa_reaperpool import JoinRefused
from sa_reaperpool import NotCheckedOut
from sa_reaperpool import NotOwner
from sa_reaperpool import ReaperPool
from sa_reaperpool import liveness

SIZE = 2
POSTGRESQL = ["psycopg2", "psycopg"]


class Bench:
    """An engine, and a table ``t`` with a column ``x`` in it."""

    def __init__(self, url, table, **options):
        self.table = table
        self.engine = create_engine(
            url,
            poolclass=ReaperPool,
            pool_size=SIZE,
            max_overflow=0,
            pool_timeout=0,
            reaping_frequency=None,
            **options,
        )
        self.sent = []
        event.listen(self.engine, "before_cursor_execute", self._note)

    @property
    def pool(self):
        return self.engine.pool

    def _note(self, connection, cursor, statement, *rest):
        self.sent.append(statement)

    def insert(self, connection, x):
        """Through a Connection, a Session or a handle of the pool's."""
        statement = f"INSERT INTO {self.table} VALUES ({x})"
        if isinstance(connection, (Connection, Session)):
            connection.execute(text(statement))
        else:
            cursor = connection.cursor()
            cursor.execute(statement)
            cursor.close()

    def rows(self):
        with self.engine.connect() as connection:
            found = connection.scalars(text(f"SELECT x FROM {self.table}"))
            return sorted(found)

    def check_capacity(self):
        """All connections can be had, and nothing is begun on them."""
        pool = self.pool
        assert pool.leases() == ()
        assert not pool.active_connection()
        with ExitStack() as stack:
            # each in a thread of its own, since a thread may have one only
            gates = [Gate() for _ in range(SIZE)]
            tasks = [Task(self._have_one, gate) for gate in gates]
            for gate in gates:
                stack.callback(gate.open)
                gate.wait()
            with pytest.raises(CheckoutTimeout):
                pool.connect()
        assert len({task.result() for task in tasks}) == SIZE
        assert pool.checkedout() == 0

    def _have_one(self, gate):
        with self.engine.connect() as connection:
            found = connection.connection.dbapi_connection
            assert not liveness.in_transaction(found)
            connection.scalar(text("SELECT 1"))
            gate()
            return id(found)


@pytest.fixture(params=["sqlite", *POSTGRESQL])
def database(request, tmp_path):
    """A URL and the name of a table that exists there."""
    name = f"wrong_{uuid.uuid4().hex[:12]}"
    if request.param == "sqlite":
        url = make_url(f"sqlite:///{tmp_path}/wrong.db")
    else:
        given = request.getfixturevalue("postgres_url")
        url = make_url(given).set(drivername=f"postgresql+{request.param}")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE {name} (x integer)"))
    yield url, name
    with engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {name}"))
    engine.dispose()


@pytest.fixture
def bench(database):
    """In explicit mode."""
    bench = Bench(*database)
    yield bench
    bench.check_capacity()
    bench.engine.dispose()


@pytest.fixture
def joining(database):
    """In thread mode."""
    bench = Bench(*database, reservation="thread")
    yield bench
    bench.check_capacity()
    bench.engine.dispose()


# what another thread holds


def test_releasing_what_another_thread_has_reserved(bench):
    pool = bench.pool
    mine = pool.connection()
    bench.insert(mine, 1)
    with pytest.raises(NotOwner, match="reserved by thread") as caught:
        Task(pool.checkin, mine).result()
    assert "MainThread" in str(caught.value)
    assert __file__ in str(caught.value)
    assert Task(pool.release_connection).result() is False
    assert Task(sa_reaperpool.release_connections).result() == 0
    # not disturbed
    assert pool.connection() is mine
    mine.commit()
    pool.checkin(mine)
    assert bench.rows() == [1]


def test_releasing_what_another_threads_block_has(joining):
    """A checkin of its Connection, or of what it has joined."""
    with joining.engine.connect() as connection:
        joining.insert(connection, 1)
        with joining.engine.connect() as inner:
            for wrong in (connection, inner, inner.connection):
                with pytest.raises(NotOwner):
                    Task(joining.pool.checkin, wrong).result()
            joining.insert(inner, 2)
            inner.commit()
        connection.commit()
    assert joining.rows() == [1, 2]


def test_a_plain_checkout_may_be_handed_on(bench):
    """Which is no wrong use in explicit mode."""
    handle = bench.pool.checkout()
    Task(bench.insert, handle, 1).result()
    Task(handle.commit).result()
    Task(bench.pool.checkin, handle).result()
    assert bench.rows() == [1]


@pytest.mark.parametrize("reserve", [True, False], ids=["reserved", "plain"])
def test_returning_twice(bench, reserve):
    pool = bench.pool
    handle = pool.connection() if reserve else pool.checkout()
    pool.checkin(handle)
    with pytest.raises(NotCheckedOut, match="checked out of this pool"):
        pool.checkin(handle)
    # nor what is somebody else's by now
    others = pool.checkout()
    bench.insert(others, 1)
    with pytest.raises(NotCheckedOut):
        pool.checkin(handle)
    handle.close()
    for method in (pool.remove, pool.keep):
        with pytest.raises(NotCheckedOut):
            method(handle)
    others.commit()
    pool.checkin(others)
    assert bench.rows() == [1]


def test_returning_a_connection_twice(bench):
    """SQLAlchemy's close() is silent the second time."""
    connection = bench.engine.connect()
    bench.pool.checkin(connection)
    connection.close()
    connection.close()
    with pytest.raises(NotCheckedOut):
        bench.pool.checkin(connection)


def test_returning_what_was_taken_in_another_pool(bench, joining):
    handle = bench.pool.checkout()
    with pytest.raises(NotCheckedOut):
        joining.pool.checkin(handle)
    with pytest.raises(NotCheckedOut):
        joining.pool.remove(handle)
    bench.pool.checkin(handle)


# a second thread


USES = {
    "cursor": lambda bench, mine: mine.cursor(),
    "insert": lambda bench, mine: bench.insert(mine, 2),
    "commit": lambda bench, mine: mine.commit(),
}


@pytest.mark.parametrize("use", USES)
def test_a_second_thread_uses_what_is_reserved(bench, use):
    with bench.pool.with_connection() as mine:
        bench.insert(mine, 1)
        for _ in range(2):
            with pytest.raises(NotOwner, match="reserved by thread"):
                Task(USES[use], bench, mine).result()
        mine.rollback()
        bench.insert(mine, 3)
        mine.commit()
    assert bench.rows() == [3]


def test_a_second_thread_uses_the_engines_reserved_one(bench):
    with sa_reaperpool.with_connection(bench.engine) as mine:
        bench.insert(mine, 1)
        for call in (
            lambda: bench.insert(mine, 2),
            lambda: mine.scalar(text("SELECT 1")),
            # after which SQLAlchemy takes its transaction for ended
            mine.commit,
        ):
            with pytest.raises(NotOwner):
                Task(call).result()
            mine.rollback()
            bench.insert(mine, 1)
        mine.commit()
    assert bench.rows() == [1]


def test_a_second_thread_uses_a_join(joining):
    with joining.engine.connect() as outer:
        joining.insert(outer, 1)
        with joining.engine.connect() as inner:
            joining.insert(inner, 2)
            with pytest.raises(NotOwner):
                Task(joining.insert, inner, 3).result()
            with pytest.raises(NotOwner):
                Task(inner.commit).result()
            inner.rollback()
            joining.insert(inner, 4)
            inner.commit()
        outer.commit()
    assert joining.rows() == [1, 4]


def test_a_second_thread_uses_a_session(joining):
    with Session(joining.engine) as session:
        joining.insert(session, 1)
        with pytest.raises(NotOwner):
            Task(joining.insert, session, 2).result()
        session.commit()
        joining.insert(session, 3)
        with pytest.raises(NotOwner):
            Task(session.commit).result()
        session.rollback()
    assert joining.rows() == [1]


def test_a_second_thread_may_roll_back_and_close(bench):
    mine = bench.pool.connection()
    bench.insert(mine, 1)
    Task(mine.rollback).result()
    bench.insert(mine, 2)
    Task(mine.close).result()
    assert not bench.pool.active_connection()
    assert bench.rows() == []


def test_the_thread_after_it_may_use_it(bench):
    """Its owner has ended, so it is nobody's until it is taken back."""
    mine = Task(bench.pool.connection).result()
    bench.insert(mine, 1)
    mine.commit()
    mine.close()
    assert bench.rows() == [1]


# ends out of order


def test_an_outer_commits_before_its_join(joining):
    outer, inner = joining.engine.connect(), joining.engine.connect()
    joining.insert(outer, 1)
    joining.insert(inner, 2)
    with pytest.raises(JoinOrder, match="uncommitted work") as caught:
        outer.commit()
    # which one it is that has to end first
    assert str(caught.value).count(__file__) == 2
    # SQLAlchemy takes its transaction for ended, and asks for this
    outer.rollback()
    with pytest.raises(JoinEnded, match="roll back"):
        joining.insert(inner, 3)
    inner.rollback()
    joining.insert(inner, 4)
    inner.commit()
    inner.close()
    outer.close()
    assert joining.rows() == [4]


def test_an_outer_executes_before_its_join_has_ended(joining):
    outer, inner = joining.engine.connect(), joining.engine.connect()
    joining.insert(outer, 1)
    joining.insert(inner, 2)
    before = len(joining.sent)
    with pytest.raises(JoinOrder, match="uncommitted work"):
        joining.insert(outer, 3)
    assert len(joining.sent) == before
    inner.commit()
    joining.insert(outer, 4)
    outer.commit()
    inner.close()
    outer.close()
    assert joining.rows() == [1, 2, 4]


@pytest.mark.parametrize("end", ["rollback", "close"])
def test_an_outer_ends_before_its_join(joining, end):
    outer, inner = joining.engine.connect(), joining.engine.connect()
    joining.insert(outer, 1)
    joining.insert(inner, 2)
    getattr(outer, end)()
    for _ in range(2):
        with pytest.raises(JoinEnded):
            joining.insert(inner, 3)
    inner.close()
    outer.close()
    assert joining.rows() == []


def test_raw_ends_out_of_order(joining):
    """The same by the pool's own handles, three deep."""
    one, two, three = (joining.pool.connect() for _ in range(3))
    for number, handle in enumerate((one, two, three), 1):
        joining.insert(handle, number)
    for early in (one, two):
        with pytest.raises(JoinOrder):
            early.commit()
        with pytest.raises(JoinOrder):
            joining.insert(early, 4)
    two.rollback()
    with pytest.raises(JoinEnded):
        three.commit()
    three.rollback()
    joining.insert(three, 5)
    three.commit()
    one.commit()
    for handle in (one, three, two):
        handle.close()
    assert joining.rows() == [1, 5]


def test_sessions_out_of_order(joining):
    outer, inner = Session(joining.engine), Session(joining.engine)
    joining.insert(outer, 1)
    joining.insert(inner, 2)
    with pytest.raises(JoinOrder):
        outer.commit()
    inner.commit()
    outer.rollback()
    joining.insert(outer, 3)
    outer.commit()
    inner.close()
    outer.close()
    assert joining.rows() == [3]


def test_detaching_what_is_joined(joining):
    outer = joining.pool.connect()
    inner = joining.pool.connect()
    joining.insert(inner, 1)
    for wrong in (outer, inner):
        with pytest.raises(JoinRefused):
            wrong.detach()
        with pytest.raises(JoinRefused):
            joining.pool.remove(wrong)
    inner.commit()
    inner.close()
    outer.close()
    assert joining.rows() == [1]


# the isolation level


def test_isolation_level_inside_a_join(joining):
    level = {"isolation_level": "SERIALIZABLE"}
    with joining.engine.connect() as outer:
        joining.insert(outer, 1)
        with pytest.raises(JoinRefused, match="shared within its thread"):
            joining.engine.connect().execution_options(**level)
        with pytest.raises(JoinRefused):
            joining.engine.execution_options(**level).connect()
        inner = joining.pool.connect()
        dialect = joining.engine.dialect
        with pytest.raises(JoinRefused):
            dialect.set_isolation_level(inner.dbapi_connection, "SERIALIZABLE")
        inner.close()
        # nothing was undone by it
        joining.insert(outer, 2)
        outer.commit()
    assert joining.rows() == [1, 2]


def test_isolation_level_under_a_join(joining):
    with joining.engine.connect() as outer:
        inner = joining.engine.connect()
        joining.insert(inner, 1)
        with pytest.raises(JoinRefused, match="shared within its thread"):
            outer.execution_options(isolation_level="SERIALIZABLE")
        inner.commit()
        inner.close()
        outer.rollback()
        # alone again
        outer.execution_options(isolation_level="SERIALIZABLE")
        joining.insert(outer, 2)
        outer.commit()
    assert joining.rows() == [1, 2]


@pytest.mark.parametrize("database", POSTGRESQL, indirect=True)
def test_isolation_level_by_the_drivers_own_words(joining):
    with joining.engine.connect() as outer:
        joining.insert(outer, 1)
        inner = joining.pool.connect()
        with pytest.raises(JoinRefused):
            inner.set_isolation_level(3)
        inner.close()
        outer.commit()
    assert joining.rows() == [1]


def test_joining_what_commits_by_itself(joining):
    engine = joining.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as outer:
        joining.insert(outer, 1)
        for join in (joining.engine.connect, joining.pool.connect):
            with pytest.raises(JoinRefused, match="AUTOCOMMIT"):
                join()
    assert joining.rows() == [1]


# two-phase transactions


def test_two_phase_inside_a_join(joining):
    with joining.engine.connect() as outer:
        joining.insert(outer, 1)
        with joining.engine.connect() as inner:
            with pytest.raises(JoinRefused, match="two-phase"):
                inner.begin_twophase()
            inner.rollback()
            joining.insert(inner, 2)
            inner.commit()
        outer.commit()
    assert joining.rows() == [1, 2]


def test_two_phase_under_a_join(joining):
    with joining.engine.connect() as outer:
        with joining.engine.connect() as inner:
            joining.insert(inner, 1)
            with pytest.raises(JoinRefused, match="two-phase"):
                outer.begin_twophase()
            inner.commit()
        outer.rollback()
    assert joining.rows() == [1]


@pytest.mark.parametrize("database", POSTGRESQL, indirect=True)
def test_joining_a_two_phase_transaction(joining):
    with joining.engine.connect() as outer:
        transaction = outer.begin_twophase()
        joining.insert(outer, 1)
        for join in (joining.engine.connect, joining.pool.connect):
            with pytest.raises(JoinRefused, match="two-phase"):
                join()
        with Session(joining.engine) as session:
            with pytest.raises(JoinRefused, match="two-phase"):
                joining.insert(session, 2)
        # not prepared, so that this needs no setting of the server's
        transaction.rollback()
        with joining.engine.connect() as inner:
            joining.insert(inner, 3)
            inner.commit()
    assert joining.rows() == [3]


# errors


def test_all_of_them_are_sqlalchemys():
    for error in (NotCheckedOut, NotOwner, JoinOrder, JoinEnded, JoinRefused):
        assert issubclass(error, InvalidRequestError)
