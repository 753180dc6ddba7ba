"""SQLAlchemy's hooks of a pool, and its state, in words of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any
from typing import Callable
from typing import cast

from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.pool import Pool
from sqlalchemy.pool import reset_commit
from sqlalchemy.pool import reset_rollback
from sqlalchemy.pool.base import _ConnDialect
from sqlalchemy.pool.events import PoolEvents

from ..cancel import cut_off_late
from ..cancel import finish_alone
from ..lease import LeaseInfo
from ..words import plain
from .dialects import forget_first_run
from .dialects import recognise_reclaimed
from .ended import ReclaimedHandle
from .entry import Entry
from .joins import Join
from .no_dialect import NO_DIALECT
from .short import ShortWay

if TYPE_CHECKING:
    from ..queue import FairQueue

_PLAIN_ROLLBACKS = (_ConnDialect.do_rollback, DefaultDialect.do_rollback)


class AdaptedQueuePool(ShortWay):
    """A QueuePool whose hooks are the verbs of the class derived from it."""

    # SQLAlchemy's hooks

    def _do_get(self) -> Entry:
        return self._take_entry()

    def _do_return_conn(self, record: Any) -> None:
        self._give_back(record)

    def _should_wrap_creator(self, creator: Any) -> Any:
        if creator is None:
            # no connect, and so none that failed
            return self._refuse_to_connect
        self._opener = super()._should_wrap_creator(creator)
        # Looked up only once _connect() noted the epoch, so that whatever
        # an older creator opened is from before the refresh.
        return lambda record: self._connect(
            record, lambda record: self._opener(record)
        )

    def _refuse_to_connect(self, record: Any) -> Any:
        raise self.no_creator()

    def _close_connection(
        self, connection: Any, *, terminate: bool = False
    ) -> None:
        if id(connection) in self._inherited:
            return
        taken_back = self.in_others_hands.pop(id(connection), None)
        if self._closer is not None:
            # which may want it as it is
            self._close_its_own_way(self._closer, connection)
        elif taken_back is None:
            super()._close_connection(connection, terminate=terminate)
        elif finish_alone(taken_back):
            with cut_off_late(taken_back):
                super()._close_connection(connection, terminate=terminate)
        else:
            self.logger.warning(
                "Not closed, but cut off from its server: a thread does not "
                "come back from its driver, with connection %r",
                connection,
            )
        # not if that was interrupted: it may not have come to it
        self._closed(connection, terminate)

    def _close_its_own_way(
        self, closer: Callable[[Any], object], connection: Any
    ) -> None:
        self.logger.debug("Closing connection %r", connection)
        try:
            closer(connection)
        except Exception:
            # as with a driver's own close(): whoever is freeing the slot
            # goes on
            self.logger.error(
                "Exception closing connection %r", connection, exc_info=True
            )

    def _invalidate(
        self,
        connection: Any,
        exception: BaseException | None = None,
        _checkin: bool = True,
    ) -> None:
        # The pool closed this one itself; that tells nothing of the others.
        base = connection.base if isinstance(connection, Join) else connection
        if not isinstance(base, ReclaimedHandle):
            super()._invalidate(connection, exception, _checkin)

    @property
    def _dialect(self) -> Any:
        given = self._dialect_given
        return NO_DIALECT if given is None else given

    @_dialect.setter
    def _dialect(self, dialect: Any) -> None:
        # Set by an engine that is made with this pool: maybe long after the
        # first connect, and once more by each other engine.  Before that
        # engine's first checkout, since another thread's error may be going
        # through the dialect's listeners at any later time.
        recognise_reclaimed(dialect)
        self._dialect_given = dialect
        if self.queue is not None:
            self.look_whether_usual()
            for entry in self.queue.entries():
                self._watch_socket(entry, entry.dbapi_connection)

    @property
    def _pool(self) -> Any:  # type: ignore[override]
        return self.queue

    @property
    def _overflow(self) -> int:
        return self.queue.live() - self.queue.maxsize

    @_overflow.setter
    def _overflow(self, value: int) -> None:
        # nobody counts here but the queue
        pass

    # SQLAlchemy's state

    def _init_base(
        self,
        creator: Any,
        queue: FairQueue[Entry],
        max_overflow: int,
        timeout: float | None,
        **kw: Any,
    ) -> None:
        Pool.__init__(self, creator, **kw)
        self.queue = queue
        self.look_whether_usual()
        self._max_overflow = max_overflow
        self._timeout = cast(float, timeout)

    def look_whether_usual(self) -> None:
        """See whether checkouts and returns may go the short way.

        Called when that may have changed: to ask each time takes long; an
        event's listeners alone, whether there are any, a fiftieth of a
        checkout.
        """
        events = self.dispatch
        kind = type(self)
        self._unusual = bool(
            not self._started
            # a class derived from this, with hooks of its own
            or kind._do_get is not AdaptedQueuePool._do_get
            or kind._do_return_conn is not AdaptedQueuePool._do_return_conn
            or self._pre_ping
            or self._reset_on_return is reset_commit
            or events.checkout
            or events.checkin
            or events.reset
        )
        # in the pool itself, where they are found faster than in its class
        self._dialect_given = self._dialect
        self.timings = self.timings
        self._turn_over = self._turn_over
        # where a logger notes what it has found out; it forgets that when
        # any logger is changed
        self._logs_at = getattr(self.logger, "_cache", {})
        dialect = self._dialect_given
        plain = getattr(type(dialect), "do_rollback", None)
        if plain not in _PLAIN_ROLLBACKS or getattr(
            dialect, "skip_autocommit_rollback", False
        ):
            plain = None
        self._plain_rollback = plain
        # those of all pools, in collections that never are others
        of_class: Any = kind.dispatch
        self._all_checkouts = of_class.checkout._clslevel[kind]
        self._all_checkins = of_class.checkin._clslevel[kind]
        self._all_resets = of_class.reset._clslevel[kind]

    def _base_arguments(self) -> dict[str, Any]:
        """What recreate() passes on of SQLAlchemy's own state."""
        return {
            "pool_size": self.queue.maxsize,
            "max_overflow": self._max_overflow,
            "timeout": self._timeout,
            "use_lifo": self.queue.use_lifo,
            "recycle": self._recycle,
            "echo": self.echo,
            "logging_name": self._orig_logging_name,
            "reset_on_return": self._reset_on_return,
            "_dispatch": self.dispatch,
            "dialect": self._dialect,
        }

    @property
    def creator(self) -> Any:
        """What opens a connection, as it was given; None if it was not."""
        return self._creator

    def use_creator(self, creator: Callable[..., Any]) -> None:
        """Open connections with this from now on."""
        self._creator = creator

    def missing_for_reset(self, connection: Any) -> str | None:
        """The method that a return would call and this object lacks.

        Where there is a dialect, it is the dialect that resets.
        """
        if self.has_dialect:
            return None
        for style, name in (
            (reset_rollback, "rollback"),
            (reset_commit, "commit"),
        ):
            if self._reset_on_return is style:
                if not callable(getattr(connection, name, None)):
                    return name
        return None

    def close_raw(self, connection: Any) -> None:
        """Close a connection that no record has."""
        self._close_connection(connection, terminate=True)

    def change_limits(self, max_overflow: int, timeout: float | None) -> None:
        """What QueuePool is given once, and this pool may be anew."""
        self._max_overflow = max_overflow
        self._timeout = cast(float, timeout)

    @property
    def given_name(self) -> str | None:
        """The ``logging_name`` that the pool was given."""
        name = self._orig_logging_name
        # QueuePool takes anything
        return None if name is None else plain(name)

    @property
    def time_limit(self) -> float | None:
        """Seconds that a checkout may take, unless it says otherwise."""
        return self._timeout

    @property
    def max_overflow(self) -> int:
        """Connections beyond the size; -1 for any number."""
        return self._max_overflow

    @property
    def dialect_in_use(self) -> Any:
        return self._dialect

    @property
    def has_dialect(self) -> bool:
        return not isinstance(self._dialect, _ConnDialect)

    def may_look_into(self, connection: Any) -> bool:
        """Is this a DBAPI connection, whose state any thread may read?

        What another client calls ``info``, say, may speak to its server,
        while the thread that has the client does so as well.
        """
        return self.has_dialect or hasattr(type(connection), "cursor")

    def driver_of(self, connection: Any) -> Any:
        """The driver's own connection."""
        return self._dialect.get_driver_connection(connection)

    def to_be_replaced(self, entry: Entry) -> bool:
        """Will SQLAlchemy connect this entry at its next checkout?

        But for what it finds out only then.
        """
        return (
            not entry.connected or self._too_old(entry) or self.suspect(entry)
        )

    def recycled(self, connection: Any) -> bool:
        """Is this connection past the pool's ``recycle``?"""
        return any(
            entry.dbapi_connection is connection and self._too_old(entry)
            for entry in self.queue.entries()
        )

    def ping(self, entry: Entry) -> bool:
        """Ask the server; any failure to answer means no."""
        try:
            return bool(
                self._dialect._do_ping_w_event(
                    cast(Any, entry.dbapi_connection)
                )
            )
        except Exception as error:
            self.logger.debug("Ping failed: %s", error)
            return False

    def ping_and_roll_back(self, entry: Entry) -> bool:
        """For an idle connection: leave no transaction behind."""
        if not self.has_dialect:
            # nobody to ask, and none that was left
            return True
        if not self.ping(entry):
            return False
        try:
            cast(Any, entry.dbapi_connection).rollback()
        except Exception as error:
            self.logger.debug("Rollback after a ping failed: %s", error)
            return False
        return True

    def unlock_first_connect(self) -> None:
        """Undo what an interruption of a pool's first connect may leave.

        SQLAlchemy runs the events of the first connect under a mutex.  A
        trace function that raises at its ``try:`` leaves that locked, and
        every later connect would wait for it.  At worst this lets two
        threads initialise a dialect at a time.
        """
        events: Any = self.dispatch.connect
        mutex = getattr(events, "_exec_once_mutex", None)
        if mutex is not None and mutex.locked():
            events._exec_once_mutex = None

    def inherit(self, entries: list[Any]) -> None:
        """In a forked child: these are the parent's, not to be closed.

        They are kept for ever, so that their ids are nobody else's.
        """
        self._inherited |= {
            id(entry.dbapi_connection)
            for entry in entries
            if entry is not None and entry.dbapi_connection is not None
        }
        for events in (self.dispatch.connect, self.dispatch.first_connect):
            forget_first_run(events)


class ReaperPoolEvents(PoolEvents):
    """The events of a pool, and one more.

    Listened for as any other: ``@event.listens_for(pool, "reap")``.
    """

    _dispatch_target = AdaptedQueuePool  # type: ignore[assignment]

    @classmethod
    def _listen(cls, event_key: Any, **kw: Any) -> None:
        super()._listen(event_key, **kw)
        if isinstance(event_key.dispatch_target, AdaptedQueuePool):
            event_key.dispatch_target.look_whether_usual()

    def reap(self, lease: LeaseInfo, reason: str) -> None:
        """The pool has taken a connection back from who held it.

        The connection is closed and its slot free.  Called in the thread
        that took it back, usually one of the reaper's; an exception is
        logged and otherwise ignored.

        :param lease: the :class:`.LeaseInfo` as it was just before.

        :param reason: one word: ``abandoned``, ``dead``, ``reclaimed``,
         ``disconnected`` or ``invalidated``; ``released``: a request ended
         while one of its threads, or a cursor, still used what it had
         reserved.

        """
