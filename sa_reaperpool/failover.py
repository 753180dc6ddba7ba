"""A server that goes down, or has become read-only, and says so.

After a failover a pool's connections may lead to the wrong server, and go
on doing so for hours, since nothing is wrong with them but that.  So when a
server says one of these, all connections of its pool are replaced:

* PostgreSQL: 57P01 to 57P03 (it shuts down, or starts up), 25006 (it, or
  this transaction, is read-only);
* MySQL and MariaDB: 1290, if it is because of ``--read-only``, and 1836.

Who hears it: a SQLAlchemy ``Connection``'s error, a handle's ``commit()``,
``rollback()`` and ``cursor()``, and every connect.  What a raw cursor raises
passes the pool by.  A ping's answer does not count: that is an old word on
one connection, and liveness replaces what is dead.  To psycopg2 the words of
a server that goes down are mostly lost (libpq has the end of the connection
take their place).  That is a disconnect, after which SQLAlchemy replaces all
of a pool's connections when they are lent next.

Many hear it at once.  The first marks all connections that were opened
before as outdated, so that what the others hear, on one of those, is no
news.  A word on a newer connection is: replacing them has not helped yet,
as while a balancer still leads to the old primary.  Then it is done again,
but at growing intervals, as new connections may never help: an application
that writes to a replica, or that has made its session read-only by a
statement, hears 25006 every time.  In between only the connection itself is
replaced.

What the application did through its driver (``postgresql_readonly``), or for
one transaction (``SET TRANSACTION READ ONLY``), is no word of the server's.
The latter is known from PostgreSQL 14 on, which reports what else it is.
"""

from __future__ import annotations

import math
import threading
import weakref
from time import monotonic
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

from .reaper import reaper

if TYPE_CHECKING:
    from .adapter import Entry
    from .stock import StockedPool

SHORTEST = 1.0
"""Seconds from one wave to the next, at first; each doubles them."""

LONGEST = 60.0
"""Seconds from one wave to the next, at most."""

QUIET = 120.0
"""Seconds without a word after which it all begins anew."""


class Word(NamedTuple):
    """What a server said."""

    code: str
    meaning: str


_DOWN = "is going down or starting up"
_READ_ONLY = "is read-only"

_POSTGRESQL = {
    "57P01": _DOWN,
    "57P02": _DOWN,
    "57P03": _DOWN,
    "25006": _READ_ONLY,
}

# what psycopg2 and psycopg raise from a connect has no code; a server that
# speaks another language is not understood there
_REFUSALS = (
    "the database system is starting up",
    "the database system is shutting down",
    "the database system is not yet accepting connections",
    "the database system is not accepting connections",
    "the database system is in recovery mode",
)

_MYSQL_DRIVERS = {"pymysql", "MySQLdb", "mysql", "mariadb"}


def word(error: BaseException) -> Word | None:
    """What a driver's exception says of its server, if it is of this."""
    first = error.args[0] if error.args else None
    if _drivers(error) & _MYSQL_DRIVERS:
        # Some have an sqlstate too: 25006, with number 1792, is about the
        # transaction alone there.
        if first == 1836 or first == 1290 and _names_read_only(error):
            return Word(str(first), _READ_ONLY)
        return None
    code = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
    if isinstance(code, str):
        meaning = _POSTGRESQL.get(code)
        return None if meaning is None else Word(code, meaning)
    if isinstance(first, str) and any(text in first for text in _REFUSALS):
        return Word("57P03", _DOWN)
    return None


def _drivers(error: BaseException) -> set[str]:
    return {kind.__module__.partition(".")[0] for kind in type(error).__mro__}


def _names_read_only(error: BaseException) -> bool:
    # the name of an option is in no language
    text = str(error.args[1]) if len(error.args) > 1 else ""
    return "--read-only" in text or "--super-read-only" in text


def made_read_only_here(connection: Any) -> bool:
    """Was it the application that made this transaction read-only?

    Nothing is asked of the server.

    :param connection: the driver's.

    """
    try:
        for name in ("readonly", "read_only"):
            if getattr(connection, name, None) is True:
                return True
        status = connection.info.parameter_status
        told = {
            status("in_hot_standby"),
            status("default_transaction_read_only"),
        }
    except Exception:
        # another driver
        return False
    return told == {"off"}


class Waves:
    """When all connections are to be replaced, and when not yet again."""

    def __init__(self) -> None:
        self._heard = self._last = -math.inf
        self._pause = SHORTEST

    def due(self, now: float) -> bool:
        """A word was heard that is news: is this another wave?"""
        quiet = now - self._heard
        self._heard = now
        if quiet >= QUIET:
            self._pause = SHORTEST
        elif now - self._last < self._pause:
            return False
        else:
            self._pause = min(self._pause * 2, LONGEST)
        self._last = now
        return True


class Failover:
    """Hears what a pool's server says, and has its connections replaced.

    :param pool: referred to weakly.

    """

    def __init__(self, pool: StockedPool):
        self._pool = weakref.ref(pool)
        self._lock = threading.RLock()
        self._waves = Waves()

    def hear(self, entry: Entry | None, error: BaseException) -> None:
        """Something failed.

        :param entry: on what connection; None for a connect.

        """
        said = word(error)
        pool = self._pool()
        if said is None or pool is None:
            return
        if said.meaning is _READ_ONLY and entry is not None:
            if made_read_only_here(entry.driver_connection):
                return
        due = False
        with self._lock: due = self._is_wave(pool, entry)  # fmt: skip
        if due:
            pool.logger.warning(
                "The server says that it %s (%s): all connections of the "
                "pool are replaced",
                *(said.meaning, said.code),
            )
            self._replace(pool)

    def _is_wave(self, pool: StockedPool, entry: Entry | None) -> bool:
        if entry is not None:
            # what was out at a dispose() is lent again, else
            if entry.outdated not in (None, "shutdown"):
                # as it was opened before the last one
                return False
            entry.outdated = "refreshed"
        if not self._waves.due(monotonic()):
            return False
        pool.outdate()
        return True

    def _replace(self, pool: StockedPool) -> None:
        """Close what is idle; a checkout never gets it meanwhile."""
        if pool.frequency is None:
            pool.close_outdated()
        else:
            # a close may block, and this thread has an error to tell
            reaper.run_soon(pool, self._close_outdated)

    def _close_outdated(self) -> None:
        # This may lie about where there is no reaper, as before a pool's
        # first connect, and is not what keeps the pool.
        pool = self._pool()
        if pool is not None:
            pool.close_outdated()
