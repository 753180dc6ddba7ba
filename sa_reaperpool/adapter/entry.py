"""A place in the pool: SQLAlchemy's record, and what is noted of it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING
from typing import Any
from typing import cast

from sqlalchemy.pool.base import _ConnectionRecord

from .. import dead_end
from .. import liveness
from .. import process
from .ended import is_parents

if TYPE_CHECKING:
    from .pool import AdaptedQueuePool


class Entry(_ConnectionRecord):
    """A place in the pool, and the connection in it, if any.

    Times are seconds on the monotonic clock; they are set by the pool.
    """

    # slots, since they are read at each checkout, and by the reaper of
    # thousands of entries in a row
    __slots__ = (
        "opened_at",
        "idle_since",
        "traffic_at",
        "spread",
        "outdated",
        "lent_at",
        "connecting_since",
        "probe",
        "look",
        "socket",
        "slot",
        "pool",
        "process",
        "_soft_invalidate_time",
    )

    opened_at: float
    """When the connection was opened."""

    idle_since: float
    """When it was returned, or opened if it never was."""

    traffic_at: float
    """When the server was last heard."""

    spread: float
    """The fraction by which its max_age and keepalive are shortened."""

    outdated: str | None
    """Why it is not to be used any longer: ``refreshed``, ``shutdown``, or
    why it was taken back."""

    lent_at: float
    """When it was last checked out; 0 once it was returned."""

    connecting_since: float
    """When the connect began that is under way; 0 if none is."""

    probe: liveness.Probe | None
    """Looks at its socket."""

    look: Any
    """Tells the one who is about to lend it, by ``quiet()``, whether it seems
    alive; None where nobody is to look."""

    socket: dead_end.Socket | None
    """Which one its connection had when it was opened."""

    slot: Any
    """The queue's."""

    def __init__(self, pool: AdaptedQueuePool):
        super().__init__(pool, connect=False)
        # in place of a deque, which has 600 bytes for what is mostly empty
        self.finalize_callback = cast(Any, [])
        self.opened_at = self.idle_since = self.traffic_at = 0.0
        self.lent_at = self.connecting_since = self.spread = 0.0
        self.outdated = self.probe = self.look = self.slot = None
        self.socket = None
        self.pool = weakref.ref(pool)
        self.process = pool.process
        # SQLAlchemy's own; here so that to look at it is cheap
        self._soft_invalidate_time = 0

    @property
    def connected(self) -> bool:
        return self.dbapi_connection is not None

    @property
    def has_rules_of_user(self) -> bool:
        """Has a Connection set its isolation level, or the like?

        Who did has it reset at the return.
        """
        return bool(self.finalize_callback)

    def __del__(self) -> None:
        # Lost by an interrupted line, while the pool lives on.  When they
        # go together, its connections are left to their driver, as ever.
        # A forked child that ends drops what is its parent's.
        try:
            pool = self.pool()
            if self.dbapi_connection is None or pool is None:
                return
            if not process.forked() and self.process == process.number:
                pool.explain_close(self, "failed")
                self.close()
        except Exception:
            pass

    def renew(self) -> None:
        """Before a checkout: connect anew if this is to be replaced.

        If that fails, it gives itself back, to be connected by the next.
        """
        try:
            self.get_connection()
        except BaseException as error:
            self._checkin_failed(error, _fairy_was_created=False)
            raise

    def invalidate(
        self, e: BaseException | None = None, soft: bool = False
    ) -> None:
        if not soft and is_parents(self):
            # what failed here did so in a child, which closes nothing of it
            self.dbapi_connection = None
            return
        super().invalidate(e, soft)

    def discard(self, error: BaseException | None = None) -> None:
        """Close the connection and give the place back, by its own way.

        The events fire as for any connection that is invalidated.
        """
        self._checkin_failed(cast(BaseException, error))
