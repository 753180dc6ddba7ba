"""``with_connection(engine)``: the reserved connection as SQLAlchemy's."""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Any

from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy.exc import ArgumentError

from . import guards
from .adapter import Join
from .level import Level
from .reservation import ReservingPool
from .using import Again
from .using import give_back
from .using import left_behind
from .using import usable


class Given:
    """What a block of ``with_connection(engine)`` gave.

    :param connection: the Connection.

    :param block: for which it was made.

    :param level: its join's; None if it is none, and of no use.

    """

    __slots__ = ("connection", "_block", "_level")

    def __init__(
        self,
        connection: Connection,
        block: weakref.ref[Any],
        level: Level | None,
    ):
        self.connection = connection
        self._block = block
        self._level = level

    def at_hand(self) -> bool:
        """Can it be used just so?

        No means that it takes more to tell, as in
        :meth:`.ReservingPool.at_hand`.  A Connection that was closed has
        ended its level, unless the base ended before.
        """
        level = self._level
        if level is None or level.ended:
            return False
        whose = level.reservation
        begun = whose.begun
        return (
            not (begun and begun[-1] is not level)
            and not whose.pending
            and self._block() is not None
            and whose.lease is not None
        )

    def lasts(self) -> bool:
        """Is it what the block around this one has, if there is one?"""
        connection = self.connection
        if connection.closed:
            return False
        if connection.invalidated:
            # an interruption does that to what is being executed
            left = self._block() is None
        else:
            left = left_behind(connection.connection)
        if left:
            connection.close()
        return not left


class with_connection(Again):
    """The thread's reserved connection of an engine's pool, for a block.

    Gives an :class:`sqlalchemy.Connection`.  Nested blocks get the same
    one, unless somebody else has uncommitted work in between: inside of a
    session's, say, it is another one, whose work is inside of the session's.
    Who made it closes it, and releases the reservation if that was made.

    It shares the DBAPI connection with what the pool's own calls give, as a
    join: inside a block of :meth:`.ReaperPool.with_connection`, say, it
    never commits or undoes what was begun there.

    :param engine: one with a :class:`.ReaperPool`.

    :raises sqlalchemy.exc.ArgumentError: its pool is another one.

    """

    __slots__ = (
        "_engine",
        "_source",
        "_mine",
        "_outer",
        "_made",
        "__weakref__",
    )

    _mine: Given | None
    """What it has made."""

    _outer: Given | None
    """What is found again after that."""

    def __init__(self, engine: Engine):
        pool = getattr(engine, "pool", None)
        if not isinstance(pool, ReservingPool):
            raise ArgumentError(
                "with_connection() takes an engine whose pool is a "
                f"ReaperPool; this has {type(pool).__name__}"
            )
        self._engine = engine
        self._source = pool
        self.entered = False
        self._mine = self._outer = self._made = self.inner = None

    def __enter__(self) -> Connection:
        if not self.entered:
            self.entered = True
            try:
                return self._enter()
            except BaseException:
                # nobody will leave what was not entered
                self.entered = False
                raise
        again = with_connection(self._engine)
        return self._enter_again(again)  # type: ignore[no-any-return]

    def _enter(self) -> Connection:
        own = self._source.own()
        known: dict[Engine, Given] | None = own.connections
        if known is None:
            known = own.connections = {}
        given = known.get(self._engine)
        if given is not None:
            if given.at_hand():
                return given.connection
            if not given.lasts():
                given = None
            elif not _inside_of_others(given.connection):
                return given.connection
        self._outer = given
        self._mine = mine = self._connect()
        known[self._engine] = mine
        return mine.connection

    def _connect(self) -> Given:
        """A new one, on what the thread has reserved."""
        before = self._source.own().reserved
        block = weakref.ref(self)
        handle = self._source.connection_for(block, None)
        if handle is not before:
            self._made = handle
        base = handle.base if isinstance(handle, Join) else handle
        if usable(base):
            # of its own, so that what it thinks it has begun is its own too
            handle = Join(base, stands_in=base is self._made)
            handle.__dict__["block"] = block
            connection = Connection(self._engine, handle)
            handle.level.user = weakref.ref(connection)
            return Given(connection, block, handle.level)
        return Given(Connection(self._engine, handle), block, None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.inner is not None:
            inner = self.inner.leave()
            if inner is not None:
                inner.__exit__(kind, error, trace)
                return
        if self._mine is not None:
            self._leave(self._mine)
        self.entered = False

    def _leave(self, mine: Given) -> None:
        own = self._source.own()
        known = own.connections or {}
        if known.get(self._engine) is mine:
            if self._outer is None:
                del known[self._engine]
            else:
                known[self._engine] = self._outer
        made, self._made = self._made, None
        self._mine = self._outer = None
        mine.connection.close()
        if made is not None and own.reserved is made:
            self._source.release_connection()
        else:
            # the block is left in another thread
            give_back(made)


def _inside_of_others(connection: Connection) -> bool:
    """Would its statements be inside of newer uncommitted work?

    Or refused, since what it was joined to has ended?
    """
    if connection.invalidated:
        return False
    level = guards.level_of(connection.connection)
    if level is None:
        return False
    return bool(level.ended) or level.reservation.inside(level)
