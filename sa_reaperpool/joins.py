"""Several handles on one connection: whose turn it is, and whose work.

A reserved connection belongs to one thread.  Whoever in that thread checks
out again while it is reserved gets a *join*: a handle of his own over the
same DBAPI connection.  The first handle is the *base*.  Each handle has a
:class:`Level`, numbered in the order of their making; a handle's *outers*
are the open ones made before it.

The states of a level::

              first statement            commit
      idle ------------------> begun ---------------> idle
       ^  <-------------------  |
       |        rollback        | an outer rolls back
       | rollback               v
       '-----------------------lost

      any --- its close, or an outer's ---> ended

The begun levels are a stack, ``Reservation.begun``.  The lowest one works
in the connection's real transaction, each other in a savepoint of its own.
What may be done, and by whom:

* *A statement*: by the top of the stack; by a level newer than the top,
  which thereby begins, and with it those older ones on which SQLAlchemy has
  begun a transaction without a statement so far.  By any other level it
  would be undone by the top's rollback: :class:`.JoinOrder`.
* *A commit*: by the top.  In a savepoint it is provisional: the lines that
  made it go to the level below, in ``Level.provisional``.  The base and
  others below the top may not commit, since that would commit what is not
  theirs: :class:`.JoinOrder`.
* *A rollback*, *a close*: by any level, from any thread.  What is above on
  the stack is undone with it, and lost.  A level that has not begun undoes
  nothing, but for the base, which is who can always clear everything away.

Levels whose handles were dropped are closed by whatever is done next.

Of text, SAVEPOINT and its kin are noted, and what would end an outer's
work is refused; who has nobody below may end his own transaction by it.

Who may do what is in shared.py, whose turn it is in turns.py, what is told
of lost commits in lost.py.  Cursors (cursors.py) and what else executes
(blocks.py, large.py) ask their level (level.py), which comes here.

Only the reservation's own thread executes (:class:`.NotOwner`); other
threads may close and roll back, so all of this is done under a lock of the
reservation's, which nobody else waits for.  A line that is interrupted in
the middle leaves ``_torn`` set: what the server was told is unknown then,
and all but a real rollback is refused.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from collections.abc import MutableMapping
from contextlib import contextmanager
from typing import Any

from . import liveness
from . import transactions
from .callers import here
from .lease import Lease
from .level import Level
from .lost import provisional
from .lost import warn_of_lost
from .turns import Turns

JOINED: MutableMapping[int, Reservation] = weakref.WeakValueDictionary()
"""Reservations that have joins, by the id of the DBAPI connection."""


class Reservation(Turns):
    """A thread's connection, and who does what on it.

    :param leases: the pool's.

    :param handle: the base's.

    :param name: the pool's ``logging_name``.

    """

    # levels

    def join(self, handle: Any) -> Level:
        """A level for a handle that joins.

        :raises JoinRefused: joining would harm what is going on.

        """
        with self._lock: level = self._join(handle)  # fmt: skip
        return level

    def _join(self, handle: Any) -> Level:
        self._settle()
        lease = self._check(self.base)
        connection = lease.entry.dbapi_connection
        if self.two_phase:
            self._refuse("its transaction is a two-phase one")
        self._refuse_unfit(lease, connection)
        level = self._new_level(weakref.ref(handle), here())
        JOINED[id(connection)] = self
        return level

    def stand_in(self, handle: Any) -> Level:
        """A level for a block's handle, for the base, which is nobody's.

        As it was made for the block, nothing is going on that could be
        harmed.
        """
        with self._lock: level = self._stand_in(handle)  # fmt: skip
        return level

    def _stand_in(self, handle: Any) -> Level:
        connection = self._check(self.base).entry.dbapi_connection
        level = self._new_level(weakref.ref(handle), here())
        JOINED[id(connection)] = self
        self.deputy = level
        return level

    def join_again(self, level: Level) -> Level | None:
        """For a block that uses a handle inside of newer ones' work.

        :return: the level of the handle's inside the block; None where it
         can work as it is.

        """
        with self._lock: inner = self._join_again(level)  # fmt: skip
        return inner

    def _join_again(self, level: Level) -> Level | None:
        if self.inside(level):
            return self._new_level(level.handle, here())
        return None

    def inside(self, level: Level) -> bool:
        """Would this level's work be inside of newer ones'?"""
        with self._lock: self._settle()  # fmt: skip
        return bool(self.begun) and self.begun[-1].number > level.number

    def open_block(self, outer: Level) -> Level:
        """A level for a block of a handle's own (blocks.py).

        :raises JoinOrder: it is not the handle's turn.

        :raises JoinEnded: what it works in is gone.

        """
        with self._lock: inner = self._open_block(outer)  # fmt: skip
        return inner

    def _open_block(self, outer: Level) -> Level:
        self._check(outer)
        self._settle()
        self._check(outer)
        self._check_turn(outer)
        inner = self._new_level(outer.handle, here())
        inner.inside = outer
        return inner

    # the end of the connection, for all

    def finish(self, lease: Lease, undoes: bool) -> list[str]:
        """The base goes back to the pool; it ends for all.

        What joins have not committed is undone before.

        :param lease: the base's, which has been taken for that.

        :param undoes: will the pool's reset undo the base's own work?

        :return: the lines whose commits are lost, for :func:`warn_of_lost`.

        """
        with self._lock: lines = self._finish(lease, undoes)  # fmt: skip
        return lines

    def _finish(self, lease: Lease, undoes: bool) -> list[str]:
        line = here()
        for level in self._levels[1:]:
            level.ended = f"{self.base} was given back at {line}"
        del self._levels[1:]
        JOINED.pop(id(lease.entry.dbapi_connection), None)
        if lease.entry.dbapi_connection is not None:
            self._note_writes(lease.entry.dbapi_connection)
        stack, self.begun = self.begun, []
        for level in stack:
            level.undone = level.has_work
        if lease.entry.dbapi_connection is None:
            return []
        aborted = stack and liveness.aborted(lease.entry.dbapi_connection)
        joins = [level for level in stack if level is not self.base]
        if self._torn or joins and joins[0].savepoint is None:
            lease.entry.dbapi_connection.rollback()
        elif joins:
            transactions.roll_back_to(
                lease.entry.dbapi_connection, str(joins[0].savepoint)
            )
        if aborted and not undoes:
            # the reset's commit will be none
            return [line for level in stack for line in level.provisional]
        return provisional(stack if undoes else joins)

    def drop(self, lease: Lease, why: str) -> list[str]:
        """The connection is closed, whatever was done on it; it ends for all.

        :return: as :meth:`.finish`.

        """
        with self._lock: lines = self._drop(lease, why)  # fmt: skip
        return lines

    def _drop(self, lease: Lease, why: str) -> list[str]:
        try:
            self._note_writes(lease.entry.dbapi_connection)
        except Exception:
            # it may be closed, or be another thread's
            pass
        for level in self._levels[1:]:
            level.ended = f"{self.base} {why} at {here()}"
        del self._levels[1:]
        JOINED.pop(id(lease.entry.dbapi_connection), None)
        lines = provisional(self.begun)
        for level in self.begun:
            level.undone = level.has_work
        del self.begun[:]
        return lines

    def lost(self) -> list[str]:
        """What would be undone now.

        For who takes the connection away, and can't wait for its thread.
        """
        return provisional(list(self.begun))

    def part(self, lease: Lease) -> None:
        """The base takes the connection out of the pool, for itself."""
        JOINED.pop(id(lease.entry.dbapi_connection), None)
        self.parted = True

    def parted_end(self) -> list[str]:
        """Its transaction is over, after that.

        :return: the lines whose commits went, if it was rolled back.

        """
        with self._lock: lines = self._ended_below(self.base)  # fmt: skip
        return lines

    def two_phase_over(self) -> None:
        """The base's two-phase transaction was committed or rolled back."""
        self.two_phase = False
        with self._lock: del self.begun[:]; self.base.clear()  # fmt: skip  # noqa: E501,E702

    # changes

    @contextmanager
    def change(self, level: Level, what: str) -> Iterator[None]:
        """For a block that changes the rules.

        Some drivers roll back or commit before they do.

        :raises JoinRefused: as :meth:`.refuse_change`.

        """
        self.refuse_change(level, what)
        self.changed = True
        yield
        lease = self.lease
        connection = None if lease is None else lease.entry.dbapi_connection
        if self.begun and liveness.in_transaction(connection) is False:
            kept = transactions.is_sqlite(connection)
            with self._lock: lines = self._ended_below(level)  # fmt: skip
            warn_of_lost([] if kept else lines)
