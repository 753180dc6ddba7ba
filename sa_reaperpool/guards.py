"""What a dialect may not do to a connection that is shared by joins.

SQLAlchemy's Connection goes past the pool's handles in a few things: it has
the dialect change the isolation level on the DBAPI connection itself, which
with some drivers rolls back what is open.  So the methods of a dialect that
do such things are replaced, on the one object that the pool was given, by
ones that look first.  Each calls what was there before.

They are put in with the pool's first reservation, each by one assignment,
and stay; a connection that is not reserved passes them untouched.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any
from typing import Callable

from sqlalchemy.engine import Dialect

from . import cursors
from . import transactions
from .errors import JoinError
from .joins import JOINED
from .level import Level

Method = Callable[..., Any]

_MARK = "sa_reaperpool_guards"


def install(dialect: Any) -> None:
    """Put the guards on a dialect, unless it has them."""
    if not isinstance(dialect, Dialect) or _MARK in vars(dialect):
        return
    for name, guard in _GUARDS.items():
        original = getattr(dialect, name, None)
        if original is not None:
            setattr(dialect, name, _guarded(original, guard))
    setattr(dialect, _MARK, True)


def _guarded(original: Method, guard: Method) -> Method:
    @functools.wraps(original)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        return guard(original, *args, **kwargs)

    return guarded


def level_of(handle: Any) -> Level | None:
    """The level of a handle, if its connection is reserved."""
    state = getattr(handle, "__dict__", {})
    level = state.get("level")
    return level or getattr(state.get("lease"), "level", None)


def _level_of_connection(connection: Any) -> Level | None:
    return level_of(getattr(connection, "connection", None))


# what SQLAlchemy begins without a statement


def _begin(begin: Method, handle: Any) -> Any:
    level = level_of(handle)
    if level is not None:
        if level.failed:
            # So it has dropped the one before.
            level.rollback()
        level.wanted = True
    return begin(handle)


def _execute(
    execute: Method, cursor: Any, statement: str, *args: Any, **kw: Any
) -> Any:
    # the context is the last, by position or by name
    context = kw.get("context", args[-1] if args else None)
    level = _level_of_connection(getattr(context, "root_connection", None))
    if level is not None:
        if level.user is None and context is not None:
            level.user = weakref.ref(context.root_connection)
        if level.savepoint and transactions.begins(statement):
            # as SQLAlchemy's recipe for sqlite3 has it: this has begun
            return None
        if not cursors.checked(cursor):
            # since it took the cursor, others may have begun
            sent = cursors.sent_through(cursor, statement)
            level.sending(sent)
            result = execute(cursor, statement, *args, **kw)
            level.sent(sent)
            return result
    return execute(cursor, statement, *args, **kw)


# what would harm those who share a connection


def _change_rules(change: Method, connection: Any, *args: Any) -> Any:
    level = level_of(connection)
    if level is None:
        reservation = JOINED.get(id(connection))
        if reservation is not None and reservation.has(connection):
            level = reservation.standing_for_it
    if level is None:
        return change(connection, *args)
    with level.reservation.change(level, change.__name__ + "()"):
        return change(connection, *args)


def _begin_twophase(begin: Method, connection: Any, xid: Any) -> Any:
    level = _level_of_connection(connection)
    if level is not None:
        reservation = level.reservation
        reservation.refuse_change(level, "a two-phase transaction")
        reservation.two_phase = True
    return begin(connection, xid)


def _end_twophase(end: Method, connection: Any, *args: Any, **kw: Any) -> Any:
    level = _level_of_connection(connection)
    try:
        return end(connection, *args, **kw)
    finally:
        if level is not None and level is level.reservation.base:
            level.reservation.two_phase_over()


# savepoints of Connections: each counts its own, on one connection


def _named(name: str, level: Level) -> str:
    return f"{name}_of_{level.number}" if level.number else name


def _savepoint(make: Method, connection: Any, name: str) -> Any:
    level = _level_of_connection(connection)
    if level is None:
        return make(connection, name)
    name = _named(name, level)
    made = make(connection, name)
    level.marks[name] = len(level.provisional)
    return made


def _release(release: Method, connection: Any, name: str) -> Any:
    level = _level_of_connection(connection)
    if level is None:
        return release(connection, name)
    name = _named(name, level)
    try:
        return release(connection, name)
    except JoinError:
        level.unreleased.append((name, level.marks.get(name, 0)))
        level.reservation.pending = True
        raise


def _roll_back_to(roll_back: Method, connection: Any, name: str) -> Any:
    level = _level_of_connection(connection)
    if level is None:
        return roll_back(connection, name)
    name = _named(name, level)
    if level.reservation.roll_back_to(level, level.marks.get(name, 0)):
        return roll_back(connection, name)
    # it went with the rest
    return None


_GUARDS: dict[str, Method] = {
    "do_begin": _begin,
    "do_execute": _execute,
    "do_executemany": _execute,
    "do_execute_no_params": _execute,
    "set_isolation_level": _change_rules,
    "set_readonly": _change_rules,
    "set_deferrable": _change_rules,
    "do_begin_twophase": _begin_twophase,
    "do_commit_twophase": _end_twophase,
    "do_rollback_twophase": _end_twophase,
    "do_savepoint": _savepoint,
    "do_rollback_to_savepoint": _roll_back_to,
    "do_release_savepoint": _release,
}
