"""Transactions and savepoints on a driver's own connection.

What SQLAlchemy does through its dialects, joins (joins.py) do below them:
they need no Connection, and a pool need not belong to an engine.
"""

from __future__ import annotations

from typing import Any
from typing import Callable
from typing import Iterable

READS = frozenset(
    "SELECT SHOW VALUES TABLE EXPLAIN DESCRIBE DESC PRAGMA FETCH DECLARE "
    "CLOSE SAVEPOINT RELEASE ROLLBACK BEGIN START SET USE LISTEN".split()
)
_CHANGES = ("INSERT", "UPDATE", "DELETE", "MERGE")

# Connections' own ways to execute something, past a cursor of the user's.
EXECUTE = frozenset(
    "execute executemany executescript query transaction pipeline".split()
)
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
    if _sqlite(connection) and not connection.in_transaction:
        execute(connection, f"BEGIN {connection.isolation_level or ''}")
    execute(connection, f"SAVEPOINT {name}")


def release(connection: Any, name: str) -> None:
    execute(connection, f"RELEASE SAVEPOINT {name}")


def roll_back_to(connection: Any, name: str) -> None:
    execute(connection, f"ROLLBACK TO SAVEPOINT {name}")
    release(connection, name)


def autocommits(connection: Any) -> bool:
    """Is each statement on this connection a transaction of its own?"""
    if _sqlite(connection):
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


def unfinished(cursors: Iterable[Any]) -> bool:
    """Is there a result of which the server has still rows to send?

    Until they are read, PyMySQL's connection can execute nothing else.
    """
    return any(
        getattr(getattr(cursor, "_result", None), "unbuffered_active", False)
        for cursor in cursors
    )


def rows_changed(connection: Any) -> int | None:
    """A number that grows with each row that is written, or None."""
    return getattr(connection, "total_changes", None)


def has_written(cursor: Any) -> bool:
    """Does this cursor say that its last statement wrote something?"""
    tag = getattr(cursor, "statusmessage", None)
    return isinstance(tag, str) and not only_reads(tag)


def only_reads(statement: str) -> bool:
    """Does it read as a statement that changes no row?"""
    words = statement.upper().split(None, 1)
    if not words or words[0] in READS:
        return True
    return words[0] == "WITH" and not any(
        change in words[-1] for change in _CHANGES
    )


def begins(statement: str) -> bool:
    """Is this what begins a transaction, in SQL?"""
    words = statement.upper().split(None, 1)
    return bool(words) and words[0] in ("BEGIN", "START")


def _sqlite(connection: Any) -> bool:
    return hasattr(connection, "total_changes") and hasattr(
        connection, "in_transaction"
    )


def calling_first(
    before: Callable[[], object], method: Callable[..., Any]
) -> Callable[..., Any]:
    """The same method, with something to be done before each call."""

    def call(*args: Any, **kwargs: Any) -> Any:
        before()
        return method(*args, **kwargs)

    return call
