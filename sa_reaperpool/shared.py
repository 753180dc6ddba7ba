"""A connection that several handles share: their levels, and what is refused.

Whose turn it is, is in turns.py; what it is all about, in joins.py.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from typing import TYPE_CHECKING
from typing import Any
from typing import Callable
from typing import NoReturn
from typing import cast

from . import holder
from . import liveness
from . import transactions
from .errors import JoinEnded
from .errors import JoinRefused
from .errors import NotOwner
from .lease import Lease
from .level import Level

if TYPE_CHECKING:
    from .joins import Reservation


class Shared:
    """A thread's connection, its levels, and who may do what.

    :param leases: the pool's.

    :param handle: the base's.

    :param name: the pool's ``logging_name``.

    """

    def __init__(
        self,
        leases: dict[weakref.ref[Any], Lease],
        lease: Lease,
        name: str | None,
    ):
        self.owner = holder.current()
        self.two_phase = False
        self.parted = False
        """Was the connection taken out of the pool, by who has it alone?"""
        self.changed = False
        """Were the rules changed through its handles?"""
        self.deputy: Level | None = None
        """A join's that stands for the base, which is nobody's: of a block
        of ``with_connection(engine)`` that has made the reservation."""
        self._leases = leases
        # weakly, as the lease refers to this
        self._base_lease = weakref.ref(lease)
        self._name = name
        self._numbers = itertools.count()
        self._savepoints = itertools.count(1)
        self._lock = threading.RLock()
        self._levels: list[Level] = []
        self.begun: list[Level] = []
        self._rows: int | None = None
        self._torn = False
        # is there a level that a Connection may have dropped unseen?
        self.pending = False
        handle = weakref.ref(lease())
        self.base = lease.level = self._new_level(handle, lease.where)
        lease.usual = False

    @property
    def lease(self) -> Lease | None:
        """The base's; None once it has ended."""
        lease = self._base_lease()
        return None if lease is None else self._leases.get(lease)

    @property
    def joined(self) -> bool:
        """Are there handles beside the base?"""
        return self._has_beside(self.base)

    @property
    def standing_for_it(self) -> Level:
        """Whose changes are those of the connection."""
        deputy = self.deputy
        return self.base if deputy is None or deputy.ended else deputy

    def _has_beside(self, *these: Level) -> bool:
        return any(
            level.handle() is not None and level not in these
            for level in list(self._levels)
        )

    def handles(self) -> list[Any]:
        """Those that are referred to, the newest first."""
        return [
            handle
            for level in reversed(list(self._levels))
            if (handle := level.handle()) is not None
        ]

    def has(self, connection: Any) -> bool:
        """Is it this DBAPI connection that is reserved?"""
        lease = self.lease
        return lease and lease.entry.dbapi_connection is connection or False

    def check_owner(self) -> None:
        """Refuse a thread other than the reservation's, while that lives."""
        owner = self.owner
        if owner.alive and holder.current() is not owner:
            raise NotOwner(
                f"This connection is reserved by thread {owner.name!r}, at "
                f"{self.base.line}; another thread may close it or roll it "
                "back, and no more",
                self._name,
            )

    def forget(self) -> None:
        """In a forked child: this is the parent's, and over."""
        self._leases = {}
        self._lock = threading.RLock()

    def _new_level(self, handle: weakref.ref[Any], line: str) -> Level:
        whose = cast("Reservation", self)
        level = Level(whose, next(self._numbers), line)
        level.handle = handle
        self._levels.append(level)
        return level

    # refusals

    def refuse_change(self, level: Level, what: str) -> None:
        """Refuse what changes the rules under others' work.

        :raises JoinRefused: this is a join, or there are joins.

        """
        if level is self.deputy:
            alone = self.base.idle and not self._has_beside(level, self.base)
        else:
            alone = level is self.base and not self.joined
        if not alone:
            self._refuse(f"{what} would change it for all who share it")

    def refuse_text(self, level: Level, what: str) -> NoReturn:
        """Refuse what would end the work of those below."""
        raise JoinRefused(
            f"{what.capitalize()} is refused for {level}, since it would "
            "end more than its own work; use the handle's commit() and "
            "rollback(), or savepoints of its own",
            self._name,
        )

    def refuse_if_joined(self, what: str) -> None:
        """Refuse what would take the connection away from joins.

        :raises JoinRefused: there are joins.

        """
        self.refuse_change(self.base, what)

    def _refuse(self, why: str) -> NoReturn:
        raise JoinRefused(
            f"Refused on the connection of {self.base.line}, which is shared "
            f"within its thread: {why}",
            self._name,
        )

    def _refuse_unfit(self, lease: Lease, connection: Any) -> None:
        if transactions.autocommits(connection):
            recipe = transactions.may_begin_by_text(connection)
            if self.begun or not (recipe and self._is_as_made(lease)):
                self._refuse("it is in AUTOCOMMIT, where no savepoint holds")
        # psycopg, being told more while it streams or copies, would wait for
        # itself
        if liveness.running(connection) or (
            transactions.unfinished(lease.cursors())
        ):
            self._refuse("an unbuffered result on it is not read to its end")

    def _is_as_made(self, lease: Lease) -> bool:
        """Has its connection the rules that it was opened with?"""
        return not (
            self.changed or self.base.exposed or lease.entry.has_rules_of_user
        )

    # within

    def _check(self, level: Level) -> Lease:
        """The base's lease, if this level may go on."""
        lease = self.lease
        if lease is None or level.ended:
            self.raise_ended(level)
        if level.lost:
            level.home.undone = False
            raise JoinEnded(
                f"The work of {level} is undone, since {level.lost}; roll "
                "back to go on",
                self._name,
            )
        if self._torn:
            raise JoinEnded(self._told_half(), self._name)
        return lease

    def raise_ended(self, level: Level) -> NoReturn:
        """Say why this level can do nothing any more."""
        level.home.undone = False
        base = self.base.handle()
        state = {} if base is None else vars(base)
        if "reclaimed" in state:
            state["told"] = True
            raise state["reclaimed"].again()
        why = level.ended or f"{self.base} ended"
        raise JoinEnded(f"The end of {level}: {why}", self._name)

    def _told_half(self) -> str:
        return (
            f"What the server was last told on {self.base} was interrupted; "
            "roll that back to go on"
        )

    def _send(self, step: Callable[..., object], *args: Any) -> None:
        """Tell the server; until the caller has noted it, this is torn."""
        self._torn = True
        try:
            step(*args)
        except Exception:
            # refused; all is as it was
            self._torn = False
            raise
