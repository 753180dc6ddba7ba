"""Ending the command that a connection runs, before it is closed.

A driver's ``close()`` may wait for the command: psycopg2's does, for as
long as it takes.  So the server is asked to cancel it, which it does by
itself as well once it notices the close, but a long query may never look.
After that the socket is shut down, which wakes whoever waits for an answer
that may not come any more.

PyMySQL's ``close()`` waits likewise, for the lock of the file that another
thread reads from.  It does not tell whether it runs something, but has no
result then, or one that is read as it comes.  It has none after a
``commit()`` either, so that the server may count an aborted client where a
quiet one took no leave.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from contextlib import contextmanager
from typing import Any
from typing import Callable
from typing import Iterator

from . import liveness

log = logging.getLogger("sqlalchemy.pool.impl.ReaperPool")

_LOCK = type(threading.Lock())

PATIENCE = 2.0
"""Seconds that the server has to take the order."""


def end_command(driver_connection: Any) -> bool:
    """End what this runs, unless its driver says that it runs nothing.

    Takes twice :data:`PATIENCE` at most.  The connection is of no use after
    it.

    :return: whether there was, or may have been, something to end.

    """
    if _may_wait(driver_connection):
        _shut_down_socket(driver_connection)
        return True
    if not liveness.running(driver_connection):
        return False
    order = getattr(driver_connection, "cancel", None)
    if order is not None:
        _within(PATIENCE, order)
    if liveness.running(driver_connection):
        _shut_down_socket(driver_connection)
    _let_leave(driver_connection)
    return True


def _let_leave(driver_connection: Any) -> None:
    """Let who runs the command be told of its end."""
    lock = getattr(driver_connection, "lock", None)
    if isinstance(lock, _LOCK):
        _alone(lock, PATIENCE, lambda: None)


def _alone(lock: Any, patience: float, work: Callable[[], object]) -> bool:
    """Do this with a lock held; False if it was not to be had in time."""
    taken: list[bool] = []
    try:
        # by functions in C alone: an interruption does not come between the
        # lock and who knows that it is taken
        taken.extend(map(lock.acquire, [True], [patience]))
        if taken[0]:
            work()
        return taken[0]
    finally:
        # nor here, with no call before it
        if taken and taken[0]:
            lock.release()


def finish_alone(driver_connection: Any) -> bool:
    """Before the close of what its user may go on with at any moment.

    psycopg's ``close()`` frees what libpq's functions use, while the user's
    thread may be in the midst of one: the process would crash.  There is a
    lock for these functions, so this is done here, with the lock held.  (Not
    ``close()`` itself: a class derived from psycopg's may do more there, for
    which it takes the lock.)

    :return: whether it may be closed in the usual way, too.  If not, whoever
     uses it has not come back from libpq, though its socket was shut down;
     what it uses is freed when it has let go of it.

    """
    try:
        lock = driver_connection.lock
        finish = driver_connection.pgconn.finish
        if not isinstance(lock, _LOCK) or _goes_back(driver_connection):
            return True
    except Exception:
        # not psycopg's
        return True
    if _alone(lock, 0, finish):
        return True
    _shut_down_socket(driver_connection)
    return _alone(lock, PATIENCE, finish)


@contextmanager
def cut_off_late(driver_connection: Any) -> Iterator[None]:
    """Around a close: who keeps it waiting is cut off.

    psycopg2's waits for a command that has begun since :func:`.end_command`,
    which its status does not always tell.
    """
    # made before the close, which gives its number to whoever is next
    duplicate = _duplicate(driver_connection)
    if duplicate is None:
        yield
        return
    with duplicate:
        timer = threading.Timer(PATIENCE / 4, _shut_down, [duplicate])
        timer.daemon = True
        timer.name = "sa_reaperpool cancel"
        try:
            timer.start()
        except RuntimeError as error:
            # no more threads, or the interpreter ends
            log.debug("No thread for a cancel: %s", error)
        try:
            yield
        finally:
            timer.cancel()
            if timer.ident is not None:
                # it ends at once, and is not seen by who is told of the close
                timer.join()


def _goes_back(driver_connection: Any) -> bool:
    """Does its close() give it back to a pool, of psycopg_pool's?"""
    parts = list(vars(driver_connection).values())
    return any(getattr(part, "close_returns", None) is True for part in parts)


def _may_wait(driver_connection: Any) -> bool:
    """Is this PyMySQL's, and may somebody wait for an answer to it?"""
    modules = {kind.__module__ for kind in type(driver_connection).__mro__}
    if "pymysql.connections" not in modules:
        return False
    result = getattr(driver_connection, "_result", True)
    return result is None or bool(getattr(result, "unbuffered_active", False))


def _within(seconds: float, order: Any) -> None:
    """Call it in a thread: it connects to the server, which may hang."""

    def call() -> None:
        try:
            order()
        except Exception as error:
            log.debug("Cancel failed: %s", type(error).__name__)

    thread = threading.Thread(
        target=call, name="sa_reaperpool cancel", daemon=True
    )
    try:
        thread.start()
    except RuntimeError as error:
        # no more threads, or the interpreter ends
        log.debug("No thread for a cancel: %s", error)
        return
    thread.join(seconds)


def _shut_down_socket(driver_connection: Any) -> None:
    duplicate = _duplicate(driver_connection)
    if duplicate is not None:
        with duplicate:
            _shut_down(duplicate)


def _duplicate(driver_connection: Any) -> socket.socket | None:
    """Its socket once more; None if it has none, or is closed."""
    try:
        number_of = liveness.descriptor(driver_connection)
        if number_of is None:
            return None
        number = os.dup(number_of())
    except Exception:
        # closed meanwhile
        return None
    try:
        return socket.socket(fileno=number)
    except OSError:
        # something else's
        os.close(number)
        return None


def _shut_down(duplicate: socket.socket) -> None:
    try:
        duplicate.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        log.debug("Socket could not be shut down: %s", error)
