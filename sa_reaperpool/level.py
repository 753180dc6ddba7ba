"""What one handle does on a reserved connection: its level.

The states of a level, and who moves it, are written down in joins.py.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from types import BuiltinMethodType
from types import MethodType
from typing import TYPE_CHECKING
from typing import Any
from typing import Callable
from typing import NoReturn

from . import cursors
from . import liveness
from . import transactions
from . import writes
from .blocks import Block
from .callers import connection_calling
from .large import Large
from .writes import Statement

if TYPE_CHECKING:
    from .joins import Reservation


class Level:
    """What one handle does on a reserved connection.

    :param reservation: whose connection.

    :param number: 0 for the base; a newer handle has a higher one.

    """

    __slots__ = (
        "reservation",
        "number",
        "handle",
        "line",
        "wanted",
        "savepoint",
        "lost",
        "ended",
        "wrote",
        "provisional",
        "user",
        "failed",
        "unreleased",
        "marks",
        "home",
        "active",
        "inside",
        "exposed",
        "undone",
        "_cursors",
    )

    handle: weakref.ref[Any]

    home: Level
    """Its handle's first level."""

    active: Level
    """Of a handle's first level: the one that the handle works in, since
    some blocks have one of their own."""

    inside: Level | None
    """Of a block's level: that of its handle outside, whose work it is."""

    def __init__(self, reservation: Reservation, number: int, line: str):
        self.reservation = reservation
        self.number = number
        self.line = line
        self.lost: str | None = None
        self.ended: str | None = None
        self._cursors: list[weakref.ref[Any]] = []
        self.home = self.active = self
        self.inside = None
        # Has somebody got the raw connection, and may use it unseen?
        self.exposed = False
        # the Connection, if it is one that uses this level
        self.user: weakref.ref[Any] | None = None
        self.clear()

    def clear(self) -> None:
        """Idle: nothing is begun, wanted or written."""
        self.wanted = False
        self.savepoint: str | None = None
        self.wrote = False
        self.provisional: list[str] = []
        # Was work of its own undone by others, and it has not been told?
        self.undone = False
        # Is there a commit that was refused, and after which the Connection
        # takes its transaction for ended?
        self.failed = False
        # likewise, its savepoints, with how many lines were provisional
        self.unreleased: list[tuple[str, int]] = []
        # the same of all that it has made of its own, in this order
        self.marks: dict[str, int] = {}

    def in_transaction(self) -> bool:
        """Does its Connection, if there is one, know of a transaction?"""
        user = None if self.user is None else self.user()
        return user is not None and bool(user.in_transaction())

    def commit_refused(self) -> None:
        """A Connection's commit was; it takes its transaction for ended."""
        if self.user is None:
            # it has executed nothing so far
            user = connection_calling()
            self.user = None if user is None else weakref.ref(user)
        self.failed = self.reservation.pending = True

    def rolled_back(self) -> bool:
        """Did the Connection drop its transaction after a refused commit?

        It says nothing to its handle then.
        """
        if not self.failed or self.user is None:
            return False
        return not _pending(self.user(), "get_transaction")

    def rolled_back_to(self) -> bool:
        """The same of its innermost savepoint."""
        user = None if self.user is None else self.user()
        nested = _pending(user, "get_nested_transaction")
        return bool(self.unreleased) and not nested and not self.failed

    def __repr__(self) -> str:
        return f"the {'join' if self.number else 'connection'} of {self.line}"

    @property
    def idle(self) -> bool:
        """Has it neither begun nor lost anything?"""
        begun = self.wanted or self in self.reservation.begun
        return not (begun or self.lost)

    @property
    def has_work(self) -> bool:
        """Is something undone for sure, when this is?"""
        return self.wrote or bool(self.provisional)

    def let_go(self) -> None:
        """It has ended, and with it the handle that was made with it."""
        handle = self.handle()
        if handle is not None and vars(handle).get("first") is self:
            handle.let_go()

    def watch(self, cursor: Any) -> None:
        """Through this cursor something may be executed unseen."""
        self._cursors[:] = [ref for ref in self._cursors if ref() is not None]
        try:
            self._cursors.append(weakref.ref(cursor))
        except TypeError:
            pass

    def cursors(self) -> list[Any]:
        """Its cursors that are alive and open."""
        return [
            cursor
            for ref in self._cursors
            if (cursor := ref()) is not None and liveness.cursor_open(cursor)
        ]

    # what handles call

    def use(self) -> None:
        """The calling thread uses the connection, through this level.

        :raises NotOwner: it is another thread's.

        :raises JoinEnded: it is over.

        """
        reservation = self.reservation
        if reservation.parted:
            # the base's, and nobody else's
            if self.ended:
                reservation.raise_ended(self)
            return
        lease = reservation.lease
        if lease is not None:
            lease.touch()
        reservation.look(self)

    def statement(self) -> None:
        self.reservation.before_statement(self)

    def sending(self, statements: Sequence[Statement]) -> None:
        """These are about to be sent.

        :raises JoinOrder: it is not this level's turn.

        :raises JoinRefused: they would end what is not this level's.

        """
        reservation = self.reservation
        lease = reservation.lease
        if lease is not None:
            lease.touch()
            reservation.before_statement(self)
        else:
            # over, or no more of the pool's business
            self.use()
        if statements is writes.READS:
            return
        if self.savepoint is not None:
            for kind, name in statements:
                if kind in _ENDS or kind in _TO and name not in self.marks:
                    self.reservation.refuse_text(self, kind)

    def sent(self, statements: Sequence[Statement]) -> None:
        """These were, and have succeeded."""
        if statements is writes.READS:
            return
        for statement in statements:
            kind, name = statement
            if kind == "write":
                # unless that is committed by now
                self.wrote = self in self.reservation.begun
            elif kind == "savepoint":
                self.marks.pop(name, None)
                self.marks[name] = len(self.provisional)
            elif kind in _TO:
                mark = self.marks.get(name)
                self._forget_marks(name, kind == "rollback to")
                if kind == "rollback to" and mark is not None:
                    self.reservation.roll_back_to(self, mark)
            elif kind in ("commit", "rollback"):
                self.reservation.ended_by_text(self, kind == "rollback")
                if statement is not statements[-1]:
                    self.reservation.begun_by_text(self)

    def _forget_marks(self, name: str, keep: bool) -> None:
        """A savepoint is released, or all that came after it."""
        names = list(self.marks)
        if name in self.marks:
            for later in names[names.index(name) + keep :]:
                del self.marks[later]

    def new_cursor(
        self,
        connection: Any,
        args: tuple[Any, ...],
        kw: dict[str, Any],
        begins: bool,
    ) -> Any:
        """A cursor, for the handle that this is the active level of.

        :param begins: will it execute something at once?

        """
        if begins:
            self.statement()
        else:
            self.use()
        cursor = cursors.make(connection, self.home, args, kw)
        if not begins and not cursors.checked(cursor):
            self.statement()
        self.watch(cursor)
        return cursor

    def expose(self, connection: Any) -> None:
        """Somebody takes the raw connection, to execute something.

        What a join does there has to be in its savepoint.
        """
        if not hasattr(type(connection), "cursor"):
            # no DBAPI connection, and nothing to roll back on it
            return
        if self.number:
            self.use()
            self.statement()
        else:
            self.exposed = True

    def attribute(self, name: str, found: Any) -> Any:
        """What a handle gives for an attribute of its connection's."""
        if not isinstance(found, _METHODS):
            return found
        home = self.home
        if name in transactions.CHANGE_RULES:
            return self._changing(name, found)
        if not hasattr(type(found.__self__), "cursor"):
            # no DBAPI connection, and no transactions on it
            return _first(home.use_active, found)
        if name in transactions.EXECUTE:
            return self._executing(name, found)
        if name in transactions.OPEN_LARGE:
            return lambda *args, **kw: Large(
                _first(home.begin, found)(*args, **kw), home
            )
        if name in transactions.BEGIN:
            return _first(home.begin, found)
        if name == "transaction" and hasattr(found.__self__, "pgconn"):
            return self._block(found)
        return _first(home.use_active, found)

    def use_active(self) -> None:
        self.active.use()

    def begin(self) -> None:
        """Something is about to be executed that has no text."""
        self.active.sending([])

    def _executing(self, name: str, found: Any) -> Any:
        """A connection's own way to execute something."""
        home = self.home

        def call(*args: Any, **kw: Any) -> Any:
            level = home.active
            connection = found.__self__
            if transactions.is_sqlite(connection):
                # which does no other
                cursor = level.new_cursor(connection, (), {}, False)
                lease = level.reservation.lease
                if lease is not None:
                    lease.watch(cursor)
                return getattr(cursor, name)(*args, **kw)
            sent = cursors.by_text(connection, args, kw)
            level.sending(sent)
            result = found(*args, **kw)
            level.sent(sent)
            if cursors.adopt(result, home):
                level.watch(result)
            return result

        return call

    def _changing(self, name: str, found: Any) -> Any:
        """A method that changes the rules for all who share it."""
        home = self.home

        def call(*args: Any, **kw: Any) -> Any:
            level = home.active
            level.use()
            reservation = level.reservation
            with reservation.change(level, name):
                result = found(*args, **kw)
                if name == "tpc_begin":
                    reservation.two_phase = True
                elif name in ("tpc_commit", "tpc_rollback"):
                    reservation.two_phase_over()
            return result

        return call

    def _block(self, found: Any) -> Any:
        """psycopg's transaction()"""
        home = self.home
        handle = home.handle()

        def transaction(*args: Any, **kw: Any) -> Any:
            alone = home.reservation.parted
            if alone or transactions.autocommits(found.__self__):
                home.begin()
                return found(*args, **kw)
            return Block(handle, home, *args, **kw)

        return transaction

    def go_inside(self, inner: Level) -> None:
        """The handle works in another level from now on."""
        inner.home = self.home
        self._use_in_handle(inner)

    def go_outside(self, inner: Level) -> None:
        """And from now on in this one again."""
        if self.home.active is inner:
            self._use_in_handle(self)

    def _use_in_handle(self, level: Level) -> None:
        self.home.active = level
        handle = self.home.handle()
        state = {} if handle is None else vars(handle)
        holder = handle if "base" in state else state.get("lease")
        if holder is not None:
            holder.level = level

    def commit(self) -> None:
        if self.inside is not None:
            self.reservation.refuse_text(self, "commit() in its block")
        self.reservation.commit(self)

    def rollback(self) -> None:
        self.reservation.roll_back(self)

    def end(self) -> None:
        self.reservation.end(self)

    def refuse(self) -> NoReturn:
        """Say why nothing can be done any more."""
        self.reservation.raise_ended(self)


_METHODS = (MethodType, BuiltinMethodType)

# what ends a transaction, or begins one
_ENDS = frozenset("begin commit rollback".split())
# what goes back to a savepoint, or releases it
_TO = frozenset(("rollback to", "release"))


def _first(
    before: Callable[[], object], method: Callable[..., Any]
) -> Callable[..., Any]:
    """The same method, with something to be done before each call."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        before()
        return method(*args, **kwargs)

    return call


def _pending(connection: Any, which: str) -> bool:
    """Does a Connection still wait for its user to roll back?"""
    if connection is None or connection.closed:
        return False
    transaction = getattr(connection, which)()
    return transaction is not None and not transaction.is_active
