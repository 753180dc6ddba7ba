"""What a pool's dialect is told, and what is heard of its errors."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Dialect

from ..errors import ConnectionReclaimed
from .ended import ReclaimedHandle
from .joins import Join


def recognise_reclaimed(dialect: Any) -> None:
    """Let Connection treat ConnectionReclaimed as a disconnect.

    And let the pool hear of its errors.
    """
    if not isinstance(dialect, Dialect):
        return
    for listener in (_reclaimed_is_disconnect, _heard):
        # each by itself, as the lines before may have been interrupted
        if not event.contains(dialect, "handle_error", listener):
            event.listen(dialect, "handle_error", listener)


def _heard(context: Any) -> None:
    """Let the pool hear what a Connection's error says of the server."""
    connection = context.connection
    if context.is_pre_ping or connection is None:
        return
    if connection.closed or connection.invalidated:
        return
    handle = connection.connection
    if isinstance(handle, Join):
        handle = handle.base
    lease = getattr(handle, "__dict__", {}).get("lease")
    if lease is not None:
        handle._pool.hear(lease.entry, context.original_exception)


def _why_a_cursor_fails(connection: Any) -> ConnectionReclaimed | None:
    """What the driver's error means where it is a reclaimed one's.

    A result is fetched without the handle, which would have told.
    """
    if connection is None or connection.closed or connection.invalidated:
        return None
    handle = connection.connection
    if not isinstance(handle, ReclaimedHandle):
        return None
    handle.__dict__["told"] = True
    return handle.__dict__["reclaimed"]  # type: ignore[no-any-return]


def _reclaimed_is_disconnect(context: Any) -> ConnectionReclaimed | None:
    error = context.original_exception
    if not isinstance(error, ConnectionReclaimed):
        if context.sqlalchemy_exception is None:
            return None
        error = _why_a_cursor_fails(context.connection)
        if error is None:
            return None
    context.is_disconnect = True
    context.invalidate_pool_on_disconnect = False
    # 2.0 would wrap it in a StatementError, which nobody looks for
    return None if context.sqlalchemy_exception is None else error.again()


def forget_first_run(events: Any) -> None:
    """In a forked child: a first connect of the parent's never ends here.

    Its thread holds SQLAlchemy's mutex, and may have the dialect half
    initialised, which is to happen once.
    """
    mutex = getattr(events, "_exec_once_mutex", None)
    if mutex is None or not mutex.locked():
        return
    if not events._exec_w_sync_once:
        for listener in events:
            _rearm(listener)
    events._exec_once_mutex = None


def _rearm(listener: Any) -> None:
    """Have a listener called once more that its wrapper is just calling."""
    names = getattr(getattr(listener, "__code__", None), "co_freevars", ())
    if {"once", "fn", "retry_on_exception"} <= set(names):
        cells = dict(zip(names, listener.__closure__))
        once = cells["once"].cell_contents
        if not once and cells["retry_on_exception"].cell_contents:
            once.append(cells["fn"].cell_contents)
