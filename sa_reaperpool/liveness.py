"""Is this connection still open, as far as one can tell without asking?

A server that closes a connection, or that has something to say on one which
should be silent, makes the socket readable.  Looking whether it is takes
one system call, about a microsecond, and reads nothing.  Readable is not
dead: notices and TLS records arrive on healthy sockets, so that what is not
quiet is pinged for certainty by the caller.

A peer that vanished without closing (a half-open connection) looks alive
here.  TCP keepalives find those, or ``liveness="ping"``.

A checkout looks by peek.py, which keeps the interpreter meanwhile.
"""

from __future__ import annotations

import enum
import gc
import select
from typing import Any
from typing import Callable

from . import peek


class Look(enum.Enum):
    """What a look at a socket tells."""

    QUIET = "quiet"
    READABLE = "readable"
    CLOSED = "closed"


class Probe:
    """Looks at the socket of a connection.

    :param number_of: tells the number of its socket's descriptor.

    """

    __slots__ = ("_connection", "_number_of", "_number", "_asked")

    def __init__(self, connection: Any, number_of: Callable[[], int]):
        self._connection = connection
        self._number_of = number_of
        self._number: int | None = None
        self._asked: Any = None

    def __call__(self) -> Look:
        """What there is to be seen, for any thread."""
        if self._closed():
            return Look.CLOSED
        try:
            # asked each time: a driver may reconnect of its own accord
            return _look(self._number_of())
        except Exception:
            return Look.CLOSED

    def quiet(self) -> bool:
        """Is there nothing to be seen?

        For the one thread that has the connection in its hands: it keeps
        what the other makes anew each time.
        """
        try:
            # psycopg2's is 0 while it is open, that of others False
            if getattr(self._connection, "closed", False) and self._closed():
                return False
            number = self._number_of()
            if number != self._number:
                self._asked = peek.at(number)
                self._number = number
            return not peek.poll(self._asked, 1, 0)
        except Exception:
            return False

    def _closed(self) -> bool:
        # by the driver, on this side: the descriptor's number may belong to
        # another file by now
        closed = getattr(self._connection, "closed", False)
        return isinstance(closed, int) and bool(closed)


def probe(driver_connection: Any) -> Probe | None:
    """What looks at the connection's socket; None without one."""
    number_of = descriptor(driver_connection)
    if number_of is None:
        return None
    return Probe(driver_connection, number_of)


def descriptor(driver_connection: Any) -> Callable[[], int] | None:
    """A function that tells the number of its socket; None without one."""
    # psycopg2, psycopg 3 and mysqlclient have fileno(); PyMySQL keeps its
    # socket to itself.  Looked for without touching the connection: it may
    # pass unknown names on, or make something up.
    if hasattr(type(driver_connection), "fileno"):
        number_of = driver_connection.fileno
    elif "_sock" in getattr(driver_connection, "__dict__", {}):

        def number_of() -> int:
            return driver_connection._sock.fileno()  # type: ignore[no-any-return]

    else:
        return None
    try:
        number_of()
    except Exception:
        return None
    return number_of  # type: ignore[no-any-return]


def _look(number: int) -> Look:
    if not hasattr(select, "poll"):
        # there may have been one once, before something replaced the module's
        readable, _, _ = select.select([number], [], [], 0)
        return Look.READABLE if readable else Look.QUIET
    events = peek.poll_of(number).poll(0)
    if not events:
        return Look.QUIET
    return Look.CLOSED if events[0][1] & peek.GONE else Look.READABLE


def running(driver_connection: Any) -> bool:
    """Does the driver report a command as running?"""
    return _transaction_status(driver_connection) == _ACTIVE


def in_transaction(driver_connection: Any) -> bool | None:
    """Is a transaction open?  None where the driver does not tell."""
    status = _transaction_status(driver_connection)
    if status is not None:
        return status in _OPEN
    try:
        told = getattr(driver_connection, "in_transaction", None)
    except Exception:
        # sqlite3's, if it is closed
        return None
    return told if isinstance(told, bool) else None


def aborted(driver_connection: Any) -> bool:
    """Will PostgreSQL make a rollback of a commit, without an error?"""
    return _transaction_status(driver_connection) == _INERROR


# libpq's PGTransactionStatusType
_ACTIVE = 1
_INERROR = 3
_OPEN = (1, 2, 3)


def _transaction_status(driver_connection: Any) -> int | None:
    try:
        # most have none, which is told without an exception
        info = getattr(driver_connection, "info", None)
        status = getattr(info, "transaction_status", None)
    except Exception:
        return None
    return int(status) if isinstance(status, int) else None


def cursor_open(cursor: Any) -> bool:
    """Might something still be fetched from this cursor?

    :param cursor: a cursor that is still referred to.  Where its driver
     does not tell whether it is closed, it counts as open.

    """
    try:
        closed = getattr(cursor, "closed", None)
        if isinstance(closed, int):
            return not closed
        module = type(cursor).__module__.partition(".")[0]
        if module == "sqlite3":
            # one that is closed, or read to its end, has no statement
            return any(
                type(part).__name__ == "Statement"
                for part in gc.get_referents(cursor)
            )
        if module == "pymysql":
            # its close() lets go of the connection
            return getattr(cursor, "connection", None) is not None
    except Exception:
        # a driver's own trouble
        pass
    return True
