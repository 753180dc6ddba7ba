"""Sessions and connections in one thread, on one pool.

Where each takes its own (explicit), and where they join (thread).
"""

from __future__ import annotations

import pytest
from sqlalchemy import select
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import Session
from sqlalchemy.orm import mapped_column
from waiting import Worker

import sa_reaperpool
from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import JoinRefused

from .conftest import backend_of


@pytest.fixture
def Row(table):
    class Base(DeclarativeBase):
        pass

    class Row(Base):
        __tablename__ = table
        x: Mapped[int] = mapped_column(primary_key=True)

    return Row


@pytest.fixture
def committed(observer, table):
    return lambda: [
        x for (x,) in observer.rows(f"SELECT x FROM {table} ORDER BY x")
    ]


def insert(session, row):
    session.add(row)
    session.flush()


# a pool of one


def test_three_deep_on_one_connection(engines, driver, Row, committed):
    engine = engines(driver, reservation="thread", pool_timeout=0)
    pool = engine.pool
    with pool.with_connection() as reserved:
        with Session(engine) as outer:
            insert(outer, Row(x=1))
            with Session(engine) as inner:
                insert(inner, Row(x=2))
                assert inner.scalars(select(Row.x)).all() == [1, 2]
                pids = {backend_of(each) for each in (outer, inner)}
                assert pids == {backend_of(reserved)}
                inner.commit()
            # provisional, as the outer one has begun
            assert committed() == []
            assert outer.scalars(select(Row.x)).all() == [1, 2]
            outer.commit()
        # real, as the reservation has not
        assert committed() == [1, 2]
        with Session(engine) as session:
            insert(session, Row(x=3))
            with engine.connect() as connection:
                assert connection.scalars(select(Row.x)).all() == [1, 2, 3]
            session.rollback()
    assert committed() == [1, 2]
    stats = pool.stats()
    assert (stats.opened, stats.waits, stats.timeouts) == (1, 0, 0)
    assert pool.checkedout() == 0


@pytest.mark.parametrize("rolls_back", ["inner", "outer"])
def test_three_deep_and_one_rolls_back(engines, Row, committed, rolls_back):
    engine = engines(reservation="thread", pool_timeout=0)
    with engine.pool.with_connection():
        with Session(engine) as outer:
            insert(outer, Row(x=1))
            with Session(engine) as inner:
                insert(inner, Row(x=2))
                if rolls_back == "inner":
                    inner.rollback()
                else:
                    inner.commit()
            insert(outer, Row(x=3))
            if rolls_back == "outer":
                outer.rollback()
            else:
                outer.commit()
    assert committed() == ([1, 3] if rolls_back == "inner" else [])


def test_explicit_mode_times_out_and_names_the_deadlock(engines, Row):
    engine = engines(reservation="explicit", pool_timeout=0.05)
    pool = engine.pool
    with pool.with_connection():
        with Session(engine) as outer:
            with pytest.raises(CheckoutTimeout) as caught:
                insert(outer, Row(x=1))
    error = caught.value
    assert error.waited >= error.limit == 0.05
    assert "this thread itself holds 1 of 1" in error.verdict
    assert "deadlock" in error.verdict
    assert "reservation='thread'" in error.verdict
    # the line that has it
    assert f"{__file__}:" in error.verdict
    assert error.verdict in str(error)
    # afterwards all is there again
    with Session(engine) as session:
        insert(session, Row(x=1))
    assert pool.checkedout() == 0


def test_explicit_mode_times_out_for_a_session_in_a_session(engines, Row):
    engine = engines(reservation="explicit", pool_timeout=0.05)
    with Session(engine) as outer, Session(engine) as inner:
        insert(outer, Row(x=1))
        with pytest.raises(CheckoutTimeout, match="deadlock"):
            insert(inner, Row(x=2))
    assert engine.pool.checkedout() == 0


def test_another_thread_waits_its_turn(engines, Row, committed):
    """One's joins are nothing of another's; both use the one connection."""
    engine = engines(reservation="thread", pool_timeout=60)

    def work(first):
        for x in range(first, first + 10):
            with engine.pool.with_connection():
                with Session(engine) as outer, Session(engine) as inner:
                    insert(outer, Row(x=-x))
                    insert(inner, Row(x=x))
                    inner.commit() if x % 2 else inner.rollback()
                    outer.commit() if x % 3 else outer.rollback()

    for worker in [Worker(lambda n=n: work(n)) for n in (10, 20, 30, 40)]:
        worker.result(within=60)
    kept = [x for x in range(10, 50) if x % 3]
    assert committed() == sorted(
        [-x for x in kept] + [x for x in kept if x % 2]
    )
    assert engine.pool.stats().opened == 1


# explicit mode: independent


def test_two_sessions_are_independent(engines, driver, Row, committed):
    engine = engines(driver, pool_size=2, pool_timeout=0)
    with Session(engine) as one, Session(engine) as other:
        insert(one, Row(x=1))
        insert(other, Row(x=2))
        assert backend_of(one) != backend_of(other)
        # neither sees the other's
        assert one.scalars(select(Row.x)).all() == [1]
        assert other.scalars(select(Row.x)).all() == [2]
        one.commit()
        other.rollback()
    assert committed() == [1]
    assert engine.pool.checkedout() == 0


@pytest.mark.parametrize("order", ["inner first", "outer first"])
@pytest.mark.parametrize("keeps", ["inner", "outer"])
def test_a_session_in_a_session_is_too(engines, Row, committed, order, keeps):
    engine = engines(pool_size=2, pool_timeout=0)
    with Session(engine) as outer:
        insert(outer, Row(x=1))
        with Session(engine) as inner:
            insert(inner, Row(x=2))
            ends = [
                inner.commit if keeps == "inner" else inner.rollback,
                outer.commit if keeps == "outer" else outer.rollback,
            ]
            if order == "outer first":
                ends.reverse()
            for end in ends:
                end()
    assert committed() == ([2] if keeps == "inner" else [1])


def test_what_is_reserved_is_independent_of_sessions(
    engines, Row, committed, table
):
    engine = engines(pool_size=2, pool_timeout=0)
    with sa_reaperpool.with_connection(engine) as reserved:
        reserved.execute(text(f"INSERT INTO {table} VALUES (1)"))
        with Session(engine) as session:
            insert(session, Row(x=2))
            assert backend_of(session) != backend_of(reserved)
            session.rollback()
        with Session(engine) as session:
            insert(session, Row(x=3))
            session.commit()
        assert committed() == [3]
        reserved.rollback()
    assert committed() == [3]


# AUTOCOMMIT


def test_an_engine_in_autocommit(engines, driver, table, committed):
    engine = engines(
        driver, reservation="thread", isolation_level="AUTOCOMMIT"
    )
    row = text(f"INSERT INTO {table} VALUES (1)")
    with engine.connect() as outer:
        # whether it has begun or not
        with pytest.raises(JoinRefused, match="AUTOCOMMIT"):
            engine.connect()
        outer.execute(row)
        with pytest.raises(JoinRefused, match="AUTOCOMMIT"):
            engine.connect()
    assert committed() == [1]
    # a block of its own joins nobody
    with sa_reaperpool.with_connection(engine) as connection:
        connection.execute(text(f"INSERT INTO {table} VALUES (2)"))
        with pytest.raises(JoinRefused, match="AUTOCOMMIT"):
            engine.connect()
        with sa_reaperpool.with_connection(engine) as same:
            assert same is connection
    assert committed() == [1, 2]
    assert engine.pool.checkedout() == 0
