"""Isolation levels and AUTOCOMMIT where nobody else's work is concerned."""

from __future__ import annotations

import pytest
from sqlalchemy import event
from sqlalchemy import text
from sqlalchemy.orm import Session
from test_joins_cursors import make_engine
from test_joins_cursors import rows as rows

from sa_reaperpool import JoinRefused
from sa_reaperpool import with_connection

AUTOCOMMIT = {"isolation_level": "AUTOCOMMIT"}
INSERT = text("INSERT INTO t (x) VALUES (1)")

both = pytest.mark.parametrize("reservation", ["explicit", "thread"])


@pytest.fixture
def make(tmp_path):
    made = []

    def make(reservation, **options):
        made.append(make_engine(tmp_path, reservation=reservation, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.dispose()


def as_sqlalchemys_recipe(engine):
    """Have it begin its transactions itself, not the driver."""
    engine.dispose()

    @event.listens_for(engine, "connect")
    def connect(connection, record):
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN")


@both
def test_a_block_of_an_autocommit_engines(make, rows, reservation):
    engine = make(reservation, **AUTOCOMMIT)
    with with_connection(engine) as connection:
        with with_connection(engine) as same:
            assert same is connection
        connection.execute(INSERT)
    assert rows() == [1]


@both
@pytest.mark.parametrize("by_engine", [False, True])
def test_a_block_with_a_level_of_its_own(make, rows, reservation, by_engine):
    engine = make(reservation)
    other = engine.execution_options(**AUTOCOMMIT) if by_engine else engine
    with with_connection(other) as connection:
        if not by_engine:
            connection.execution_options(**AUTOCOMMIT)
        connection.execute(INSERT)
        connection.commit()
        # who has a transaction in mind is told that there is none
        with engine.pool.with_connection() as handle:
            with pytest.raises(JoinRefused, match="AUTOCOMMIT"):
                handle.execute("INSERT INTO t (x) VALUES (2)")
        if reservation == "thread":
            with pytest.raises(JoinRefused, match="AUTOCOMMIT"):
                engine.connect()
    assert rows() == [1]
    # it was the block's alone
    with with_connection(engine) as connection:
        connection.execute(INSERT)
    assert rows() == [1]


@both
def test_not_in_a_reservation_of_others(make, rows, reservation):
    engine = make(reservation)
    with engine.pool.with_connection() as handle:
        with with_connection(engine) as connection:
            with pytest.raises(JoinRefused, match="for all who share it"):
                connection.execution_options(**AUTOCOMMIT)
        handle.execute("INSERT INTO t (x) VALUES (1)")
    with with_connection(engine) as connection:
        engine.pool.connection().execute("INSERT INTO t (x) VALUES (1)")
        with pytest.raises(JoinRefused, match="for all who share it"):
            connection.execution_options(**AUTOCOMMIT)
    assert rows() == []


@both
def test_sqlalchemys_recipe_for_sqlite(make, rows, reservation):
    engine = make(reservation)
    as_sqlalchemys_recipe(engine)
    with with_connection(engine) as connection:
        connection.execute(INSERT)
        connection.rollback()
        connection.execute(text("INSERT INTO t (x) VALUES (2)"))
        connection.commit()
    assert rows() == [2]


def test_joins_with_that_recipe(make, rows):
    engine = make("thread")
    as_sqlalchemys_recipe(engine)
    with engine.connect() as outer:
        with Session(engine) as session:
            session.execute(INSERT)
            session.rollback()
            session.execute(text("INSERT INTO t (x) VALUES (2)"))
            session.commit()
        assert rows() == [2]
        outer.execute(INSERT)
        with Session(engine) as session:
            session.execute(text("INSERT INTO t (x) VALUES (3)"))
            session.commit()
        outer.rollback()
    assert rows() == [2]


def test_autocommit_is_no_outer_for_a_transaction(make, rows):
    engine = make("thread")
    with engine.connect().execution_options(**AUTOCOMMIT) as outer:
        with pytest.raises(JoinRefused, match="AUTOCOMMIT"):
            Session(engine).execute(INSERT)
        outer.execute(INSERT)
    assert rows() == [1]


@both
def test_one_block_object_is_entered_again(make, rows, reservation):
    engine = make(reservation)
    block = with_connection(engine)
    with block as connection:
        connection.execute(INSERT)
        with block as same:
            assert same is connection
        connection.commit()
    assert rows() == [1]
    assert not engine.pool.active_connection()
    with block as connection:
        assert connection.scalar(text("SELECT count(*) FROM t")) == 1
    assert not engine.pool.active_connection()
