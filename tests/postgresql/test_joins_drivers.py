"""What drivers have of their own, on a connection that is shared by joins."""

from __future__ import annotations

import io
import warnings
from contextlib import closing

import psycopg
import psycopg2.extensions
import psycopg2.extras
import psycopg2.sql
import pytest
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.orm import Session

from sa_reaperpool import JoinEnded
from sa_reaperpool import JoinOrder
from sa_reaperpool import JoinRefused
from sa_reaperpool import ProvisionalCommitLost


@pytest.fixture(autouse=True)
def no_other_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ProvisionalCommitLost)
        yield


@pytest.fixture
def engine(engines, driver):
    return engines(driver, reservation="thread", reaping_frequency=None)


@pytest.fixture
def pool(engine):
    return engine.pool


@pytest.fixture
def pool3(engines):
    """psycopg 3's"""
    options = {"reservation": "thread", "reaping_frequency": None}
    return engines("psycopg", **options).pool


@pytest.fixture
def pool2(engines):
    """psycopg2's"""
    options = {"reservation": "thread", "reaping_frequency": None}
    return engines("psycopg2", **options).pool


@pytest.fixture
def rows(observer, table):
    """What is committed."""

    def rows():
        found = observer.rows(f"SELECT x FROM {table} ORDER BY x")
        return [x for (x,) in found]

    return rows


@pytest.fixture
def insert(table):
    def insert(handle, *numbers):
        cursor = handle if hasattr(handle, "execute") else handle.cursor()
        for number in numbers:
            cursor.execute(f"INSERT INTO {table} VALUES ({number})")

    return insert


def execute(handle, statement):
    with closing(handle.cursor()) as cursor:
        cursor.execute(statement)


# psycopg's transaction()


def test_a_block_is_a_transaction(pool3, rows, insert):
    handle = pool3.connect()
    cursor = handle.cursor()
    with handle.transaction() as block:
        insert(cursor, 1)
        assert block.savepoint_name is None
        with pytest.raises(JoinRefused):
            handle.commit()
    assert rows() == [1]
    with pytest.raises(ZeroDivisionError):
        with handle.transaction():
            insert(cursor, 2)
            1 / 0
    with handle.transaction(force_rollback=True):
        insert(cursor, 3)
    insert(cursor, 4)
    handle.commit()
    handle.close()
    assert rows() == [1, 4]


@pytest.mark.parametrize("joined", [False, True])
def test_a_block_within_is_a_savepoint(pool3, rows, insert, joined):
    outer = pool3.connect()
    insert(outer, 1)
    handle = pool3.connect() if joined else outer
    with handle.transaction():
        insert(handle, 2)
        with handle.transaction() as inner:
            insert(handle, 3)
            raise psycopg.Rollback(inner)
        with handle.transaction("named", force_rollback=True):
            insert(handle, 4)
        insert(handle, 5)
    assert rows() == []
    if joined:
        handle.close()
    outer.commit()
    outer.close()
    assert rows() == [1, 2, 5]


def test_rollback_of_an_outer_block(pool3, rows, insert):
    with closing(pool3.connect()) as handle:
        with handle.transaction() as outer:
            insert(handle, 1)
            with handle.transaction():
                insert(handle, 2)
                raise psycopg.Rollback(outer)
        with handle.transaction():
            insert(handle, 3)
    assert rows() == [3]


def test_a_joins_uncommitted_work_is_not_committed_by_a_block(
    pool3, rows, insert
):
    handle = pool3.connect()
    with pytest.raises(JoinOrder):
        with handle.transaction():
            insert(handle, 1)
            join = pool3.connect()
            insert(join, 2)
    assert rows() == []
    with pytest.raises(JoinEnded):
        insert(join, 3)
    with handle.transaction():
        insert(handle, 4)
        with closing(pool3.connect()) as join:
            insert(join, 5)
            join.commit()
        with closing(pool3.connect()) as join:
            insert(join, 6)
    handle.close()
    assert rows() == [4, 5]


def test_a_session_within_a_block(engines, rows, insert, table):
    engine = engines("psycopg", reservation="thread")
    with engine.pool.with_connection() as handle:
        with handle.transaction():
            insert(handle, 1)
            with Session(engine) as session:
                session.execute(text(f"INSERT INTO {table} VALUES (2)"))
                session.commit()
            with Session(engine) as session:
                session.execute(text(f"INSERT INTO {table} VALUES (3)"))
    assert rows() == [1, 2]


def test_a_block_out_of_turn(pool3, rows, insert):
    outer = pool3.connect()
    insert(outer, 1)
    join = pool3.connect()
    insert(join, 2)
    with pytest.raises(JoinOrder):
        with outer.transaction():
            raise AssertionError("it is not entered")
    join.close()
    with outer.transaction():
        insert(outer, 3)
    outer.commit()
    outer.close()
    assert rows() == [1, 3]


def test_a_block_that_only_read_and_undoes_a_commit(pool3, rows, insert):
    outer = pool3.connect()
    with pytest.warns(ProvisionalCommitLost):
        with outer.transaction(force_rollback=True):
            execute(outer, "SELECT 1")
            with closing(pool3.connect()) as join:
                insert(join, 1)
                join.commit()
    outer.close()
    assert rows() == []


def test_a_block_is_its_handles_own_work(pool3, rows, insert):
    """Of its commit inside of that nobody needs to hear."""
    with closing(pool3.connect()) as outer:
        execute(outer, "SELECT 1")
        with outer.transaction():
            insert(outer, 1)
        outer.rollback()
    assert rows() == []


def test_a_block_in_autocommit_is_the_drivers(pool3, rows, insert):
    handle = pool3.connect()
    handle.set_autocommit(True)
    with pytest.raises(ZeroDivisionError):
        with handle.transaction():
            insert(handle, 1)
            with pytest.raises(JoinRefused):
                pool3.connect()
            1 / 0
    with handle.transaction():
        insert(handle, 2)
    handle.set_autocommit(False)
    handle.close()
    assert rows() == [2]


def test_a_with_block_of_a_handle_gives_it_back(pool, rows, insert):
    """And commits nothing, unlike a with block of psycopg2's connection."""
    with pool.connect() as handle:
        insert(handle, 1)
        handle.commit()
        insert(handle, 2)
    assert rows() == [1]
    assert pool.stats().idle == 1


# cursors that were kept


def test_kept_cursors_wait(pool, rows, insert, table):
    outer = pool.connect()
    kept = outer.cursor()
    insert(kept, 1)
    join = pool.connect()
    insert(join, 2)
    with pytest.raises(JoinOrder):
        insert(kept, 3)
    with pytest.raises(JoinOrder):
        kept.executemany(f"INSERT INTO {table} VALUES (%s)", [(3,), (4,)])
    join.rollback()
    kept.executemany(f"INSERT INTO {table} VALUES (%s)", [(3,), (4,)])
    outer.commit()
    assert rows() == [1, 3, 4]
    join.close()
    outer.close()


def test_cursors_are_the_drivers_own(pool2, pool3):
    with closing(pool2.connect()) as handle:
        with closing(handle.cursor()) as cursor:
            assert isinstance(cursor, psycopg2.extensions.cursor)
            assert type(cursor).__name__ == "cursor"
            assert psycopg2.sql.SQL("a").as_string(cursor) == "a"
        kind = psycopg2.extras.RealDictCursor
        for cursor in (
            handle.cursor(None, kind),
            handle.cursor(cursor_factory=kind),
        ):
            assert isinstance(cursor, kind)
            cursor.execute("SELECT 1 AS x")
            assert cursor.fetchone() == {"x": 1}
        named = handle.cursor("a_name")
        named.execute("SELECT generate_series(1, 10)")
        assert (named.name, named.fetchone()) == ("a_name", (1,))
    with closing(pool3.connect()) as handle:
        with handle.cursor() as cursor:
            assert isinstance(cursor, psycopg.Cursor)
        with handle.cursor("a_name") as cursor:
            assert isinstance(cursor, psycopg.ServerCursor)
            cursor.execute("SELECT generate_series(1, 10)")
            assert cursor.fetchone() == (1,)
        assert handle.execute("SELECT 1").fetchone() == (1,)


def test_composed_statements_are_read_as_well(pool2, pool3):
    for pool, made in (
        (pool2, psycopg2.sql.SQL("ROLLBACK")),
        (pool3, sql.SQL("ROLLBACK")),
        (pool2, b"ROLLBACK"),
        (pool3, b"ROLLBACK"),
    ):
        with closing(pool.connect()) as outer:
            execute(outer, "SELECT 1")
            with closing(pool.connect()) as join:
                with pytest.raises(JoinRefused):
                    execute(join, made)
                if pool is pool3:
                    with pytest.raises(JoinRefused):
                        join.execute(made)


def test_batches(pool2, rows, table, insert):
    outer = pool2.connect()
    kept = outer.cursor()
    statement = f"INSERT INTO {table} VALUES %s"

    def execute_values():
        psycopg2.extras.execute_values(kept, statement, [(1,), (2,)])

    def execute_batch():
        psycopg2.extras.execute_batch(kept, statement, [((3,),), ((4,),)])

    def copy_from():
        kept.copy_from(io.StringIO("5\n6\n"), table)

    def copy_expert():
        kept.copy_expert(f"COPY {table} FROM STDIN", io.StringIO("7\n8\n"))

    calls = execute_values, execute_batch, copy_from, copy_expert
    for call in calls:
        join = pool2.connect()
        execute(join, "SELECT 1")
        with pytest.raises(JoinOrder):
            call()
        join.close()
    # each of them begins, and each is a write
    for number, call in enumerate(calls):
        outer.rollback()
        call()
        join = pool2.connect()
        insert(join, 100 + number)
        join.commit()
        join.close()
        outer.rollback()
        call()
        outer.commit()
    outer.close()
    assert rows() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_copy_to_only_reads(pool2, rows, table, insert):
    outer = pool2.connect()
    outer.cursor().copy_expert(f"COPY {table} TO STDOUT", io.StringIO())
    outer.cursor().copy_to(io.StringIO(), table)
    with closing(pool2.connect()) as join:
        insert(join, 1)
        join.commit()
    with pytest.warns(ProvisionalCommitLost):
        outer.close()
    assert rows() == []


def test_a_large_object(pool2, rows, insert):
    outer = pool2.connect()
    large = outer.lobject(0, "rw")
    large.write(b"abc")
    join = pool2.connect()
    insert(join, 1)
    with pytest.raises(JoinOrder):
        large.write(b"def")
    with pytest.raises(JoinOrder):
        large.read()
    with pytest.raises(JoinOrder):
        outer.lobject()
    join.commit()
    join.close()
    large.write(b"def")
    large.seek(0)
    assert large.read() == "abcdef"
    large.unlink()
    # it wrote itself
    outer.rollback()
    outer.close()


def test_a_stream_executes_with_its_first_row(pool3, rows, insert):
    outer = pool3.connect()
    kept = outer.cursor()
    stream = kept.stream("SELECT generate_series(1, 3)")
    join = pool3.connect()
    insert(join, 1)
    with pytest.raises(JoinOrder):
        next(stream)
    join.commit()
    assert rows() == [1]
    stream = kept.stream("SELECT generate_series(1, 3)")
    next(stream)
    # the driver would wait for itself
    with pytest.raises(JoinRefused, match="not read to its end"):
        insert(join, 2)
    assert list(stream) == [(2,), (3,)]
    insert(join, 3)
    join.rollback()
    outer.close()
    join.close()
    assert rows() == [1]


def test_a_copy_executes_when_it_is_entered(pool3, rows, table, insert):
    outer = pool3.connect()
    insert(outer, 1)
    copy = outer.cursor().copy(f"COPY {table} FROM STDIN")
    join = pool3.connect()
    insert(join, 2)
    with pytest.raises(JoinOrder):
        with copy:
            raise AssertionError("it is not entered")
    join.close()
    with outer.cursor().copy(f"COPY {table} FROM STDIN") as copy:
        copy.write_row((3,))
    outer.commit()
    outer.close()
    assert rows() == [1, 3]


def test_a_pipeline(pool3, rows, insert):
    outer = pool3.connect()
    insert(outer, 1)
    join = pool3.connect()
    with join.pipeline():
        insert(join, 2)
        with pytest.raises(JoinOrder):
            outer.pipeline()
    join.rollback()
    with join.pipeline():
        insert(join, 3)
    join.commit()
    outer.commit()
    join.close()
    outer.close()
    assert rows() == [1, 3]


# the end of transactions


def test_a_joins_rollback_as_text(pool, rows, insert):
    outer = pool.connect()
    insert(outer, 1)
    join = pool.connect()
    insert(join, 2)
    for statement in ("ROLLBACK", "ABORT", "COMMIT", "SELECT 1; ROLLBACK"):
        with pytest.raises(JoinRefused):
            execute(join, statement)
    execute(join, "SAVEPOINT own")
    insert(join, 3)
    execute(join, "ROLLBACK TO own")
    join.commit()
    outer.commit()
    join.close()
    outer.close()
    assert rows() == [1, 2]


READS = [
    "LOCK TABLE {0}",
    "RESET ALL",
    "SHOW ALL",
    "SELECT x FROM {0} FOR UPDATE",
    "SELECT pg_sleep(0)",
    "EXPLAIN INSERT INTO {0} VALUES (1)",
    "DECLARE c CURSOR FOR SELECT 1",
    "TABLE {0}",
    "WITH s AS (SELECT * FROM {0} FOR UPDATE) SELECT * FROM s",
]
WRITES = [
    "INSERT INTO {0} VALUES (10)",
    "WITH s AS (INSERT INTO {0} VALUES (10) RETURNING x) SELECT * FROM s",
    "EXPLAIN ANALYZE INSERT INTO {0} VALUES (10)",
    "DO $$ BEGIN NULL; END $$",
]


@pytest.mark.parametrize("statement", READS + WRITES)
@pytest.mark.parametrize("raw", [False, True])
def test_whoever_wrote_means_his_rollback(
    engine, pool, rows, table, insert, raw, statement
):
    outer = pool.connect() if raw else engine.connect()
    if raw:
        execute(outer, statement.format(table))
    else:
        outer.exec_driver_sql(statement.format(table))
    with closing(pool.connect()) as join:
        insert(join, 1)
        join.commit()
    if statement in WRITES:
        outer.rollback()
    else:
        with pytest.warns(ProvisionalCommitLost):
            outer.rollback()
    outer.close()
    assert rows() == []


def test_a_change_of_rules_that_rolls_back(pool2, rows, insert):
    outer = pool2.connect()
    execute(outer, "SELECT 1")
    with closing(pool2.connect()) as join:
        insert(join, 1)
        join.commit()
    with pytest.warns(ProvisionalCommitLost):
        outer.set_isolation_level(
            psycopg2.extensions.ISOLATION_LEVEL_SERIALIZABLE
        )
    with closing(pool2.connect()) as join:
        # nothing is begun
        insert(join, 2)
        join.commit()
    outer.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_DEFAULT)
    outer.close()
    assert rows() == [2]


def test_several_statements_that_begin_anew(pool2, rows, table, insert):
    outer = pool2.connect()
    execute(outer, f"COMMIT; BEGIN; INSERT INTO {table} VALUES (1)")
    with closing(pool2.connect()) as join:
        insert(join, 2)
        join.rollback()
    outer.commit()
    execute(outer, f"COMMIT; INSERT INTO {table} VALUES (3)")
    with closing(pool2.connect()) as join:
        insert(join, 4)
        join.commit()
    assert rows() == [1, 3, 4]
    outer.close()


@pytest.mark.parametrize("end", ["tpc_commit", "tpc_rollback"])
def test_two_phases_of_a_drivers_own(pool, rows, insert, end):
    outer = pool.connect()
    outer.tpc_begin(outer.xid(1, "reaperpool", end))
    insert(outer, 1)
    with pytest.raises(JoinRefused, match="two-phase"):
        pool.connect()
    getattr(outer, end)()
    with closing(pool.connect()) as join:
        insert(join, 2)
        join.commit()
    outer.close()
    assert rows() == ([1, 2] if end == "tpc_commit" else [2])


@pytest.mark.parametrize("end", ["invalidate", "detach", "remove"])
def test_an_outer_that_takes_it_away(pool, rows, insert, end):
    outer = pool.connect()
    execute(outer, "SELECT 1")
    with closing(pool.connect()) as join:
        insert(join, 1)
        join.commit()
    with pytest.warns(ProvisionalCommitLost):
        if end == "invalidate":
            outer.invalidate()
        elif end == "detach":
            outer.detach()
        else:
            pool.remove(outer)
        outer.close()
    assert rows() == []


def test_a_joins_raw_connection(pool, rows, insert):
    outer = pool.connect()
    insert(outer, 1)
    join = pool.connect()
    insert(join.driver_connection.cursor(), 2)
    with pytest.raises(JoinOrder):
        insert(outer, 3)
    join.rollback()
    outer.commit()
    assert rows() == [1]
    insert(outer.driver_connection.cursor(), 4)
    insert(join, 5)
    join.rollback()
    outer.commit()
    join.close()
    outer.close()
    assert rows() == [1, 4]


@pytest.mark.parametrize("wrote", [False, True])
@pytest.mark.parametrize("end", ["commit", "close"])
def test_a_commit_after_an_error(engines, driver, rows, insert, wrote, end):
    """PostgreSQL makes a rollback of it, and no error."""
    pool = engines(
        driver,
        reservation="thread",
        reaping_frequency=None,
        pool_reset_on_return="commit",
    ).pool
    outer = pool.connect()
    execute(outer, "SELECT 1")
    if wrote:
        insert(outer, 1)
    join = pool.connect()
    insert(join, 2)
    join.commit()
    join.close()
    with pytest.raises(Exception, match="zero"):
        execute(outer, "SELECT 1 / 0")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ProvisionalCommitLost)
        with pytest.raises(ProvisionalCommitLost, match="test_joins_driv"):
            getattr(outer, end)()
    assert rows() == []
    insert(outer, 3) if end == "commit" else None
    outer.close()
    assert rows() == ([3] if end == "commit" else [])


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_live_cursor_keeps_its_joins_turn(pool, rows, insert, end):
    """Through it the join may go on at any moment."""
    outer = pool.connect()
    outer.cursor().execute("SELECT 1")
    join = pool.connect()
    cursor = join.cursor()
    insert(cursor, 1)
    getattr(join, end)()
    with pytest.raises(JoinOrder):
        outer.cursor().execute("SELECT 1")
    cursor.close()
    join.close()
    outer.commit()
    assert rows() == ([1] if end == "commit" else [])
