"""Which statements write: only what is certain to counts as such."""

from __future__ import annotations

import pytest

from sa_reaperpool.writes import Statement
from sa_reaperpool.writes import statements


def kinds(text):
    return [kind for kind, _ in statements(text)]


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO t VALUES (1)",
        "\n  insert into t values (1);",
        "UPDATE t SET x = 1",
        "DELETE FROM t",
        "MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE",
        "REPLACE INTO t VALUES (1)",
        "TRUNCATE t",
        "CREATE TABLE t (x integer)",
        "CALL f()",
        "DO $$ BEGIN PERFORM 1; END $$",
        "EXECUTE prepared",
        "COPY t FROM STDIN",
        "COPY t (x, y) FROM '/tmp/x'",
        'copy "T" from stdin',
        "COPY (DELETE FROM t RETURNING x) TO STDOUT",
        "WITH s AS (SELECT 1) INSERT INTO t SELECT * FROM s",
        "WITH s AS (DELETE FROM t RETURNING x) SELECT * FROM s",
        "EXPLAIN ANALYZE UPDATE t SET x = 1",
        "EXPLAIN (ANALYZE, BUFFERS) INSERT INTO t VALUES (1)",
        "/* a comment */ INSERT INTO t VALUES (1)",
        "-- another\nINSERT INTO t VALUES (1)",
        b"INSERT INTO t VALUES (1)",
    ],
)
def test_writes(text):
    assert kinds(text) == ["write"]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "SELECT * FROM t FOR UPDATE",
        "SELECT set_config('a', 'b', true)",
        "(SELECT 1) UNION (SELECT 2)",
        "LOCK TABLE t",
        "RESET ALL",
        "SET x = 1",
        "SHOW server_version",
        "COPY t TO STDOUT",
        "COPY (SELECT x FROM t) TO STDOUT",
        "DECLARE c CURSOR FOR SELECT 1",
        "FETCH ALL FROM c",
        "CLOSE c",
        "VALUES (1)",
        "TABLE t",
        "EXPLAIN INSERT INTO t VALUES (1)",
        "EXPLAIN (ANALYZE false) INSERT INTO t VALUES (1)",
        "EXPLAIN ANALYZE SELECT 1",
        "WITH s AS (SELECT * FROM t FOR UPDATE) SELECT * FROM s",
        "WITH s AS (SELECT 'x (DELETE FROM t)') SELECT * FROM s",
        "WITH s AS (SELECT 1 AS last_update) SELECT last_update FROM s",
        "PRAGMA user_version",
        "LISTEN c",
        "-- INSERT INTO t VALUES (1)\nSELECT 1",
        "ROLLBACK PREPARED 'x'",
        "",
        object(),
        None,
    ],
)
def test_may_only_read(text):
    assert kinds(text) == ["other"]


@pytest.mark.parametrize(
    "text, kind",
    [
        ("BEGIN", "begin"),
        ("begin immediate", "begin"),
        ("START TRANSACTION READ ONLY", "begin"),
        ("COMMIT", "commit"),
        ("End;", "commit"),
        ("COMMIT AND CHAIN", "commit"),
        ("PREPARE TRANSACTION 'x'", "commit"),
        ("ROLLBACK", "rollback"),
        ("ABORT", "rollback"),
        ("ROLLBACK WORK", "rollback"),
        ("ROLLBACK TRANSACTION", "rollback"),
        ("/* x */ rollback", "rollback"),
    ],
)
def test_ends_of_transactions(text, kind):
    assert statements(text) == [Statement(kind)]


@pytest.mark.parametrize(
    "text, kind",
    [
        ("SAVEPOINT One", "savepoint"),
        ('SAVEPOINT "one"', "savepoint"),
        ("RELEASE one", "release"),
        ("RELEASE SAVEPOINT one", "release"),
        ("ROLLBACK TO one", "rollback to"),
        ("ROLLBACK WORK TO SAVEPOINT one", "rollback to"),
        ("rollback transaction to savepoint `one`;", "rollback to"),
    ],
)
def test_savepoints(text, kind):
    assert statements(text) == [Statement(kind, "one")]


def test_several():
    assert kinds("SELECT ';'; INSERT INTO t VALUES (1); ROLLBACK") == [
        "other",
        "write",
        "rollback",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TRIGGER a AFTER INSERT ON t BEGIN UPDATE t SET x = 1; END",
        "create temp trigger a after insert on t begin delete from u; end;",
        "CREATE OR REPLACE FUNCTION f() RETURNS a BEGIN ATOMIC SELECT 1; END",
        "CREATE DEFINER=`a`@`b` PROCEDURE p() BEGIN IF x THEN BEGIN COMMIT;"
        " END; END IF; ROLLBACK; END",
    ],
)
def test_a_routines_body_is_not_executed(text):
    assert kinds(text) == ["write"]
    assert kinds(f"{text.rstrip(';')}; ROLLBACK") == ["write", "rollback"]


def test_names_that_begin_nothing():
    text = "CREATE TABLE event (begin int, x int); COMMIT"
    assert kinds(text) == ["write", "commit"]
    text = 'CREATE TRIGGER "begin" AFTER INSERT ON t EXECUTE FUNCTION f()'
    assert kinds(f"{text}; COMMIT") == ["write", "commit"]


@pytest.mark.parametrize(
    "text",
    [
        r"INSERT INTO t VALUES ('it\'s; ROLLBACK; --')",
        r"INSERT INTO t VALUES ('\\', 'a\'; COMMIT; \'')",
        r'INSERT INTO t VALUES ("\"; ROLLBACK; \"")',
        "INSERT INTO t VALUES (1) # it's; ROLLBACK",
        r"INSERT INTO t VALUES ('it''s; ROLLBACK')",
    ],
)
def test_backslashes_escape_in_mysql(text):
    assert statements(text, True) == [Statement("write")]


@pytest.mark.parametrize("quote", ["E'", "e'", ",E'"])
def test_and_in_postgresqls_strings_of_that_kind(quote):
    text = rf"INSERT INTO t VALUES (1{quote}a\'; ROLLBACK; --'); COMMIT"
    if quote[0] != ",":
        text = text.replace("1", "1, ")
    assert kinds(text) == ["write", "commit"]


def test_elsewhere_they_do_not():
    text = r"INSERT INTO t VALUES ('a\'); ROLLBACK; SELECT '\'"
    assert kinds(text) == ["write", "rollback", "other"]
    text = r"INSERT INTO nice VALUES (nice'a\'); ROLLBACK; SELECT '\'"
    assert kinds(text) == ["write", "rollback", "other"]
    # a minus, twice
    assert statements("SELECT 5--3; ROLLBACK", True)[-1].kind == "rollback"
