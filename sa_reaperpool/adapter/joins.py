"""A handle on a connection that its thread holds already."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING
from typing import Any

from sqlalchemy.pool.base import _ConnectionFairy

from ..callers import called_by_sqlalchemy
from ..handle import Dead
from ..handle import Joining
from .ended import ReclaimedHandle
from .handles import Handle
from .handles import called_from_within

if TYPE_CHECKING:
    from .pool import AdaptedQueuePool

_driver_connection = _ConnectionFairy.__dict__["driver_connection"]

_NOBODY: Any = SimpleNamespace()
"""What a join that was closed is joined to."""


class Join(Joining, _ConnectionFairy):
    """A handle on a connection that its thread holds already.

    :param base: the handle through which that is held.

    :param stands_in: for a block for which that was made, and is nobody's.

    :raises JoinRefused: joining would harm what is going on there.

    """

    __slots__ = ()

    _pool: AdaptedQueuePool

    def __init__(self, base: Handle, stands_in: bool = False):
        # without that of the class above, which makes a finaliser
        self._pool = base._pool
        self._counter = 1
        self._echo = base._echo
        self._connection_record = base._connection_record
        self.base = base
        level = base.lease.level
        assert level is not None, "only what is reserved is joined"
        whose = level.reservation
        begin = whose.stand_in if stands_in else whose.join
        self.level = self.first = begin(self)

    @property
    def dbapi_connection(self) -> Any:  # type: ignore[override]
        base = self.base
        if self.is_valid:
            connection = base.lease.entry.dbapi_connection
            return self._taken(connection, called_from_within(2))
        if called_by_sqlalchemy(2):
            if isinstance(base, ReclaimedHandle):
                return Dead(base)
            self.level.refuse()
        self.first.undone = False
        return None

    @property
    def driver_connection(self) -> Any:  # type: ignore[override]
        if not self.is_valid:
            self.first.undone = False
            return None
        connection = _driver_connection.__get__(self.base)
        return self._taken(connection, called_from_within(2))

    def _taken(self, connection: Any, by_others: bool) -> Any:
        self.base.lease.taken_out()
        if not by_others:
            self.level.expose(connection)
        return connection

    @property
    def is_valid(self) -> bool:
        base = self.base
        return not self.first.ended and type(base) is Handle and base.leased

    def _checkout_existing(self) -> Join:
        return self

    def let_go(self) -> None:
        """It is over; whoever keeps it is not to keep the connection."""
        self.base = _NOBODY
        self._connection_record = None

    def close(self) -> None:
        self.first.undone = False
        if self.is_valid:
            try:
                self.first.end()
            except Exception as error:
                # the base's next use will meet it
                self._pool.logger.error(
                    "Exception while a join was closed: %s", error
                )

    def _close_special(self, transaction_reset: bool = False) -> None:
        self.close()

    def _checkin(self, transaction_was_reset: bool = False) -> None:
        self.close()

    def detach(self) -> None:
        self.level.reservation.refuse_change(self.level, "detach()")

    def invalidate(
        self, e: BaseException | None = None, soft: bool = False
    ) -> None:
        # The connection is one, and so unfit for all of them.
        lease = self.base.__dict__.get("lease")
        if lease is None or self.level.ended:
            return
        if soft:
            self.base.invalidate(e, soft=True)
        else:
            self._pool.take_back(
                lease, "invalidated", f"{self.level} was invalidated"
            )
