"""ReaperPool: what users call.

The states of a connection are written down in lease.py, those of a slot in
queue.py.  The verbs here are short, and each calls one part: a checkout can
be read from :meth:`.ReaperPool.connect` downwards, through stock.py.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from time import monotonic
from types import MappingProxyType
from typing import Any
from typing import Callable
from typing import Iterator

from sqlalchemy import Connection
from sqlalchemy.exc import InvalidRequestError

from . import adapter
from . import liveness as _liveness
from . import upkeep
from .adapter import Handle
from .checkout import UNSET
from .checkout import Checkout
from .lease import LeaseInfo
from .lease import describe
from .lifetime import LifetimePool
from .options import LIVENESS_DEFAULT
from .options import Settings
from .options import validate
from .stats import Stats


class ReaperPool(LifetimePool):
    """A :class:`sqlalchemy.pool.QueuePool` that looks after connections.

    All options of QueuePool keep their names, meanings and defaults.

    :param creator: opens a DBAPI connection, as for any SQLAlchemy pool.

    The other parameters are the options of the README's table; numbers,
    None, and the strings that a URL or an ini file gives are accepted.
    ``echo``, ``logging_name``, ``events`` and ``dialect`` are those of
    :class:`sqlalchemy.pool.Pool`.

    :raises sqlalchemy.exc.ArgumentError: an option has a value of the
     wrong type or range.

    """

    _sqla_logger_namespace = "sqlalchemy.pool.impl.ReaperPool"

    def __init__(
        self,
        creator: Callable[..., Any],
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
        max_connecting: Any = None,
        leak_timeout: Any = None,
        echo: Any = None,
        logging_name: str | None = None,
        events: Any = None,
        dialect: Any = None,
        _dispatch: Any = None,
    ):
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
                "max_connecting": max_connecting,
                "leak_timeout": leak_timeout,
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

    # checkout

    def connect(self, timeout: float | None = UNSET) -> Handle:
        """Check a connection out.

        :param timeout: seconds that this checkout may take, None for as
         long as it takes; without it, what :meth:`.checkout_timeout` says,
         or the pool's ``timeout``.

        :raises CheckoutTimeout: none came free within the time limit.

        :raises PoolShutdown: the pool is shut down, or is while this waits.

        """
        checkouts = self._checkouts
        checkout = Checkout(timeout, checkouts.current)
        checkouts.current = checkout
        try:
            handle = adapter.attach(super().connect(), self)
            self._tally.add("checkouts")
            checkouts.current = checkout.outer
            return handle
        except BaseException:
            checkouts.current = checkout.outer
            self._give_up_checkout(checkout)
            raise

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

        :raises sqlalchemy.exc.InvalidRequestError: it is not checked out
         of this pool.

        """
        lease = self._lease_of(connection)
        if lease is None:
            raise InvalidRequestError(
                "keep() takes a connection that is checked out of this pool"
            )
        lease.kept = True

    def _lease_of(self, connection: Any) -> Any:
        if isinstance(connection, Connection) and not connection.closed:
            connection = connection.connection
        for ref, lease in self._leases.copy().items():
            if ref() is connection and connection is not None:
                return lease
        return None

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
        self._epoch += 1
        for entry in self.queue.entries():
            entry.outdated = entry.outdated or "refreshed"
        self._care.close_idle(None, "refreshed")
        self._wake_reaper()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Open connections until ``min_idle`` are idle.

        Whatever the driver raises is raised once the time is up.

        :param timeout: seconds during which failed connects are tried
         again; without it, the first failure is raised.

        :raises PoolShutdown: the pool is shut down.

        """
        deadline = monotonic() + (timeout or 0.0)
        failures = 0
        while self.missing_idle():
            try:
                if not self.open_idle():
                    return
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
                _liveness.in_transaction(lease.entry.driver_connection),
            )
            for lease in list(self._leases.values())
        )

    def stats(self) -> Stats:
        """The pool as it is now, and what it has counted."""
        totals = self._tally.totals()
        queue = self.queue
        idle = self.idle_entries()
        leases = list(self._leases.values())
        in_use = sum(queue.counts(lease.entry) for lease in leases)
        return Stats(
            size=queue.maxsize,
            limit=queue.limit,
            idle=sum(entry.connected for entry in idle),
            in_use=in_use,
            opening=max(0, queue.live() - len(idle) - in_use),
            waiting=queue.waiting(),
            checkouts=totals.pop("checkouts", 0),
            waits=queue.waits,
            waited=queue.waited,
            longest_wait=queue.longest_wait,
            timeouts=totals.pop("timeouts", 0),
            opened=totals.pop("opened", 0),
            connect_failures=totals.pop("connect_failures", 0),
            closed=MappingProxyType(
                {
                    event.removeprefix("closed "): count
                    for event, count in totals.items()
                }
            ),
        )
