"""Transactions and savepoints on a driver's own connection.

What SQLAlchemy does through its dialects, joins (joins.py) do below them:
they need no Connection, and a pool need not belong to an engine.
"""

from __future__ import annotations

from typing import Any
from typing import Iterable

# Connections' own ways to execute something, past a cursor of the user's;
EXECUTE = frozenset("execute executemany executescript query".split())
# others, whose arguments tell nothing;
BEGIN = frozenset("pipeline".split())
# and those that open something which executes.
OPEN_LARGE = frozenset("blobopen lobject".split())
# What would change the rules under whoever else uses the connection.
CHANGE_RULES = frozenset(
    "set_isolation_level set_session set_autocommit set_read_only "
    "set_deferrable set_client_encoding begin reset tpc_begin tpc_prepare "
    "tpc_commit tpc_rollback tpc_recover autocommit close".split()
)


def execute(connection: Any, statement: str) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
    finally:
        cursor.close()


def savepoint(connection: Any, name: str) -> None:
    """Make a savepoint, in a transaction.

    sqlite3 begins its transactions late, at the first row that is written;
    a savepoint outside of one is one, and its RELEASE a COMMIT.
    """
    if is_sqlite(connection) and not connection.in_transaction:
        execute(connection, f"BEGIN {connection.isolation_level or ''}")
    execute(connection, f"SAVEPOINT {name}")


def release(connection: Any, name: str) -> None:
    execute(connection, f"RELEASE SAVEPOINT {name}")


def roll_back_to(connection: Any, name: str) -> None:
    execute(connection, f"ROLLBACK TO SAVEPOINT {name}")
    release(connection, name)


def autocommits(connection: Any) -> bool:
    """Is each statement on this connection a transaction of its own?"""
    if is_sqlite(connection):
        if getattr(connection, "autocommit", None) is True:
            return True
        return connection.isolation_level is None and (
            not connection.in_transaction
        )
    told = getattr(connection, "autocommit", None)
    if callable(told):
        # PyMySQL and mysqlclient set it by that name
        told = getattr(connection, "get_autocommit", bool)()
    return bool(told)


def may_begin_by_text(connection: Any) -> bool:
    """Does this driver, as it is set, leave it to its user to send BEGIN?

    SQLAlchemy's recipe for sqlite3 does so; AUTOCOMMIT looks the same.
    """
    return is_sqlite(connection) and connection.isolation_level is None


def unfinished(cursors: Iterable[Any]) -> bool:
    """Is there a result of which the server has still rows to send?

    Until they are read, PyMySQL's connection can execute nothing else.
    """
    return any(
        getattr(getattr(cursor, "_result", None), "unbuffered_active", False)
        for cursor in cursors
    )


def statement_in_progress(error: Exception) -> bool:
    """Did SQLite refuse a savepoint for want of rows or a BLOB to be read?"""
    return "SQL statements in progress" in str(error)


def undid_all(connection: Any, error: Exception) -> bool:
    """Has a failed statement ended the transaction that it was in?

    SQLite's ``INSERT OR ROLLBACK``, and a full disk, do; so does a deadlock
    in MySQL.
    """
    if is_sqlite(connection):
        return not connection.in_transaction
    return error.args[:1] == (1213,)


def rows_changed(connection: Any) -> int | None:
    """A number that grows with each row that is written, or None."""
    return getattr(connection, "total_changes", None)


def begins(statement: str) -> bool:
    """Is this what begins a transaction, in SQL?"""
    words = statement.upper().split(None, 1)
    return bool(words) and words[0] in ("BEGIN", "START")


def is_sqlite(connection: Any) -> bool:
    return hasattr(connection, "total_changes") and hasattr(
        connection, "in_transaction"
    )
