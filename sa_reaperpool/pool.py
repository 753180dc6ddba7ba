"""ReaperPool: what users call.

The states of a connection are written down in lease.py, those of a slot in
slots.py.  The verbs here are short, and each calls one part below.

A checkout can be read from ``connect()`` downwards.  Nearly all go the short
way, which is in adapter/: an idle connection that is fit, where nobody
waits and nobody listens, is lent in one function, and returned in one,
``Handle.close()``.  Whatever is not usual goes the long way, through
``connect_at_length()`` in reservation.py and ``check_out()`` in taking.py.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from time import monotonic
from typing import Any
from typing import Callable
from typing import Iterator
from typing import TypeVar

from sqlalchemy.exc import ArgumentError

from . import liveness as _liveness
from . import upkeep
from .errors import CreatorError
from .lease import LeaseInfo
from .lease import describe
from .lifetime import LifetimePool
from .options import LIVENESS_DEFAULT
from .options import Settings
from .options import validate
from .report import render
from .reservation import ReservingPool
from .snapshot import SHOWN
from .snapshot import Snapshot
from .snapshot import statistics
from .snapshot import take
from .stats import Stats

C = TypeVar("C", bound=Callable[..., Any])
D = TypeVar("D", bound="Callable[[Any], object] | None")

_CREATORS = "a function that returns a connection"
_CLOSERS = "a function that takes a connection, or none"


class ReaperPool(ReservingPool, LifetimePool):
    """A :class:`sqlalchemy.pool.QueuePool` that looks after connections.

    All options of QueuePool keep their names, meanings and defaults.

    :param creator: opens a DBAPI connection, as for any SQLAlchemy pool, or
     any other object of which each is to be used by one thread at a time.
     Without it, :meth:`.connect_with` has to be called before the first
     checkout.

    :param disconnect_with: closes an object, which it is given; without it,
     the pool calls the object's ``close()``.  See :meth:`.disconnect_with`.

    The other parameters are the options of the README's table; numbers,
    None, and the strings that a URL or an ini file gives are accepted.
    ``echo``, ``logging_name``, ``events`` and ``dialect`` are those of
    :class:`sqlalchemy.pool.Pool`.

    :raises sqlalchemy.exc.ArgumentError: an option has a value of the
     wrong type or range, or ``disconnect_with`` cannot be called.

    """

    _sqla_logger_namespace = "sqlalchemy.pool.impl.ReaperPool"

    def __init__(
        self,
        creator: Callable[..., Any] | None = None,
        pool_size: Any = 5,
        max_overflow: Any = 10,
        timeout: Any = 30.0,
        use_lifo: Any = False,
        # no * here: create_engine() does not see keyword-only parameters
        recycle: Any = -1,
        pre_ping: Any = False,
        reset_on_return: Any = True,
        reaping_frequency: Any = 20,
        dead_connection_timeout: Any = 5,
        max_age: Any = None,
        idle_timeout: Any = None,
        min_idle: Any = 0,
        keepalive: Any = None,
        jitter: Any = 0.2,
        liveness: Any = LIVENESS_DEFAULT,
        reservation: Any = "explicit",
        max_waiting: Any = None,
        max_connecting: Any = None,
        leak_timeout: Any = None,
        reclaim_timeout: Any = None,
        on_deadlock: Any = "warn",
        echo: Any = None,
        logging_name: str | None = None,
        events: Any = None,
        dialect: Any = None,
        disconnect_with: Callable[[Any], object] | None = None,
        _dispatch: Any = None,
    ):
        # A creator is taken as it comes, as QueuePool does.
        self.disconnect_with(disconnect_with)
        checked = validate(
            {
                "pool_size": pool_size,
                "max_overflow": max_overflow,
                "timeout": timeout,
                "use_lifo": use_lifo,
                "recycle": recycle,
                "pre_ping": pre_ping,
                "reset_on_return": reset_on_return,
                "reaping_frequency": reaping_frequency,
                "dead_connection_timeout": dead_connection_timeout,
                "max_age": max_age,
                "idle_timeout": idle_timeout,
                "min_idle": min_idle,
                "keepalive": keepalive,
                "jitter": jitter,
                "liveness": liveness,
                "reservation": reservation,
                "max_waiting": max_waiting,
                "max_connecting": max_connecting,
                "leak_timeout": leak_timeout,
                "reclaim_timeout": reclaim_timeout,
                "on_deadlock": on_deadlock,
            }
        )
        self._init_stock(Settings.of(checked))
        size = checked["pool_size"]
        max_overflow = checked["max_overflow"] if size else -1
        self._init_base(
            creator,
            self._new_queue(size, max_overflow, checked["use_lifo"]),
            max_overflow,
            checked["timeout"],
            recycle=checked["recycle"],
            pre_ping=checked["pre_ping"],
            reset_on_return=checked["reset_on_return"],
            echo=echo,
            logging_name=logging_name,
            events=events,
            dialect=dialect,
            _dispatch=_dispatch,
        )
        self._be_known()

    # opening and closing

    def connect_with(self, creator: C) -> C:
        """Open connections with this from now on.

        For a pool that was made before it could be known how; a checkout
        before is a :class:`.CreatorError`.  On a pool that has a creator
        it replaces that one, and what the older one opened is replaced as
        by :meth:`.refresh`: idle ones now, others at their return.

        Nothing is opened before somebody needs it.

        :param creator: as the pool's own parameter.

        :return: the same, so that this can be a function's decorator.

        :raises sqlalchemy.exc.ArgumentError: it cannot be called.

        """
        _check_callable("creator", creator, _CREATORS)
        replaces = self.creator is not None
        # in this order: see what AdaptedQueuePool makes of it
        self.use_creator(creator)
        if replaces:
            self.refresh()
        return creator

    def disconnect_with(self, closer: D) -> D:
        """Close each object in its own way, ``client.quit()`` for example.

        It is called in place of ``close()`` wherever the pool closes an
        object: one that is too old, idle for too long, one too many,
        returned broken, or taken back, which is done by a thread of the
        pool's own.  An exception in it is logged, and the slot is free all
        the same.  Only if it was interrupted (``KeyboardInterrupt``) may
        it be called once more for the same object.

        :param closer: called with the object; None for its ``close()``.
         It is for all objects that are closed from now on, those that are
         open already included.

        :return: the same, so that this can be a function's decorator.

        :raises sqlalchemy.exc.ArgumentError: it cannot be called.

        """
        if closer is not None:
            _check_callable("disconnect_with", closer, _CLOSERS)
        self._closer = closer
        return closer

    # checkout

    @contextmanager
    def checkout_timeout(self, seconds: float | None) -> Iterator[None]:
        """For code that cannot pass a time limit, such as a session's.

        :param seconds: what checkouts by this thread, inside the block,
         may take; None for as long as it takes.

        """
        before = self._checkouts.block
        self._checkouts.block = seconds
        try:
            yield
        finally:
            self._checkouts.block = before

    def keep(self, connection: Any) -> None:
        """This checkout is deliberate: neither reap nor report it.

        For a connection that LISTENs, say, or that holds an advisory lock.
        It is kept until it is returned.

        :param connection: what :meth:`.connect` returned, or an
         :class:`sqlalchemy.Connection`.

        :raises NotCheckedOut: it is not checked out of this pool.

        """
        self._checked_out(connection, "keep()").kept = True

    # by hand

    def reap(self) -> int:
        """Take back the connections whose holders have all ended.

        The background thread does so by itself; this is for pools without
        one (``reaping_frequency=None``), and for those in a hurry.

        :return: how many were taken back; 0 once the pool is shut down,
         when :meth:`.shutdown` does this.

        """
        return 0 if self.shut else self._care.reap(monotonic())

    def flush(self, idle_for: float | None = None) -> int:
        """Close idle connections.

        :param idle_for: seconds; only those unused for as long.

        :return: how many were closed.

        """
        closed = self._care.close_idle(idle_for, "idle")
        self._wake_reaper()
        return closed

    def refresh(self) -> None:
        """Replace all connections: idle ones now, others at their return."""
        self.outdate()
        self._care.close_idle(None, "refreshed")
        self._wake_reaper()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Open connections until ``min_idle`` are idle.

        Whatever the driver raises is raised once the time is up.

        :param timeout: seconds during which failed connects are tried
         again; without it, the first failure is raised.

        :raises CreatorError: at once, as trying again would not help.

        :raises PoolShutdown: the pool is shut down.

        """
        deadline = monotonic() + (timeout or 0.0)
        failures = 0
        while self.missing_idle():
            try:
                if not self.open_idle():
                    return
            except CreatorError:
                raise
            except Exception:
                failures += 1
                pause = upkeep.backoff(failures, random.random())
                left = deadline - monotonic()
                if left <= 0:
                    raise
                self._pause(min(pause, left))

    # looking

    def leases(self) -> tuple[LeaseInfo, ...]:
        """Who holds what: a copy, without secrets, oldest first."""
        now = monotonic()
        return tuple(
            describe(
                lease,
                now,
                self._in_transaction(lease.entry.driver_connection),
            )
            for lease in list(self._leases.values())
        )

    def _in_transaction(self, connection: Any) -> bool | None:
        if not self.may_look_into(connection):
            return None
        return _liveness.in_transaction(connection)

    def report(self, shown: int | None = SHOWN) -> str:
        """The pool as it is now, as text for a log or a terminal.

        A line of counts; then the connections, those in use first, longest
        held first; then who waits.  For ``print(engine.pool.report())`` in
        the midst of trouble: it waits for nobody and asks no server.

        :param shown: so many connections in use, and threads that wait,
         have a line of their own, and the others are counted, by the
         application's line; None for all.

        """
        return render(self.snapshot(shown))

    def snapshot(self, shown: int | None = SHOWN) -> Snapshot:
        """What :meth:`.report` shows, as data.

        :param shown: as for :meth:`.report`.

        """
        return take(self, monotonic(), shown)

    def stats(self) -> Stats:
        """The pool as it is now, and what it has counted."""
        queue = self.queue
        idle = self.idle_entries()
        leases = list(self._leases.values())
        in_use = sum(queue.counts(lease.entry) for lease in leases)
        return statistics(
            self,
            idle=sum(entry.connected for entry in idle),
            in_use=in_use,
            opening=max(0, queue.live() - len(idle) - in_use),
            waiting=queue.waiting(),
        )


def _check_callable(name: str, value: object, allowed: str) -> None:
    if not callable(value):
        # not shown: it may be a URL, with a password
        raise ArgumentError(
            f"Invalid value for {name!r}: a {type(value).__name__} "
            f"(allowed: {allowed})"
        )
