"""Opening and closing the pool's connections.

An entry that is opened or closed here is in nobody else's hands, and no
lock is held that a checkout needs.
"""

from __future__ import annotations

import itertools
import random
import threading
import weakref
from time import monotonic
from typing import Any
from typing import Callable

from . import dead_end
from . import liveness
from . import upkeep
from .adapter import AdaptedQueuePool
from .adapter import Entry
from .caretaker import Caretaker
from .checkout import Checkout
from .checkout import Checkouts
from .errors import CheckoutTimeout
from .errors import CreatorError
from .errors import PoolShutdown
from .exhaustion import Exhaustion
from .failover import Failover
from .history import Counters
from .history import History
from .lease import Lease
from .options import Settings
from .place import Place
from .reaper import reaper
from .stats import Tally


def heard_lately(ref: weakref.ref[Entry]) -> bool:
    """Was the server of this entry heard in the last second?

    And not before another one was found dead.
    """
    entry = ref()
    pool = None if entry is None else entry.pool()
    if entry is None or pool is None:
        return False
    return entry.traffic_at > max(pool.suspected_at, monotonic() - 1.0)


class _Heard:
    """Looks at what was heard, in place of a socket."""

    __slots__ = ("_ref",)

    def __init__(self, entry: Entry):
        self._ref = weakref.ref(entry)

    def quiet(self) -> bool:
        return heard_lately(self._ref)


class OpeningPool(AdaptedQueuePool):
    """A pool whose connections are opened, counted and closed."""

    # All of a pool's own state is declared on the class, which SQLAlchemy's
    # own test of recreate() takes for the sign not to compare it.
    # looked through by way of copy(), which is one step: list(items()) makes
    # tuples, and with that the garbage collector may end a lease meanwhile
    _leases: dict[weakref.ref[Any], Lease] = {}
    settings: Settings = None  # type: ignore[assignment]
    _care: Caretaker = None  # type: ignore[assignment]
    _epoch: int = 0
    _failover: Failover = None  # type: ignore[assignment]
    _exhaustion: Exhaustion = None  # type: ignore[assignment]
    _checkouts: Checkouts = None  # type: ignore[assignment]
    _reasons: dict[int, str] = {}
    _refill_lock: threading.RLock = None  # type: ignore[assignment]
    _tally: Tally = None  # type: ignore[assignment]
    checkouts: itertools.count[int] = itertools.count()
    _counters: Counters = None  # type: ignore[assignment]
    history: History = None  # type: ignore[assignment]

    def _wake_reaper(self) -> None:
        # not before the first checkout: a process that only forks opens none
        if self._started:
            reaper.wake(self)

    @property
    def started(self) -> bool:
        """Was there a checkout, or wait_ready(), since it was disposed?"""
        return self._started

    @property
    def shut(self) -> bool:
        """Is the pool shut down?"""
        return self.queue.closed

    @property
    def has_leases(self) -> bool:
        return bool(self._leases)

    def idle_entries(self) -> list[Entry]:
        return self.queue.idle()

    def _time_left(self) -> float | None:
        return self._checkouts.left(self.time_limit, monotonic())

    def _unserved(
        self, place: Place | None = None
    ) -> CheckoutTimeout | PoolShutdown:
        """What a checkout raises that got nothing from a queue.

        :param place: where it stood in line for a connection.

        """
        if self.shut:
            return self._shut_down()
        return self._exhaustion.refusal(place)

    def _shut_down(self) -> PoolShutdown:
        name = f" {self.given_name!r}" if self.given_name else ""
        return PoolShutdown(
            f"{type(self).__name__}{name} was shut down, and lends no "
            "connection any more",
            logging_name=self.given_name,
        )

    def _refuse_if_shut(self) -> None:
        if self.shut:
            raise self._shut_down()

    # opening

    def no_creator(self) -> CreatorError:
        """What a checkout raises that has nothing to open with."""
        return self._creator_error(
            "has nothing to open a connection with: call "
            "connect_with(creator) before the first checkout"
        )

    def _creator_error(self, what: str) -> CreatorError:
        name = f" {self.given_name!r}" if self.given_name else ""
        return CreatorError(
            f"{type(self).__name__}{name} {what}",
            logging_name=self.given_name,
        )

    def _check_fitness(self, connection: Any) -> None:
        """Refuse at once what each return would fail on."""
        if connection is None:
            raise self._creator_error("has a creator that returned None")
        missing = self.missing_for_reset(connection)
        if missing is not None:
            raise self._creator_error(
                f"resets what is returned by {missing}(), which "
                f"{type(connection).__name__} objects do not have: give it "
                "reset_on_return=None, or a creator of others"
            )

    def _drop(self, entry: Entry, error: BaseException) -> None:
        """Give up an entry that failed on its way out."""
        if not isinstance(error, Exception):
            self.unlock_first_connect()
        self._discard(entry, "failed")

    def _connect(self, entry: Entry, connect: Callable[[Any], Any]) -> Any:
        """Every connect goes through here, the first and each later one."""
        self._refuse_if_shut()
        epoch = self._epoch
        begun = False
        connection = None
        try:
            if not self.queue.wait_to_begin(entry, self._time_left()):
                raise self._unserved()
            begun = True
            entry.connecting_since = monotonic()
            connection = connect(entry)
            if self.timings is not None:
                since = entry.connecting_since
                self.timings.created(monotonic() - since)
                self.timings.count_if_many()
            self.queue.made(entry)
            self._tally.add("opened")
            self._opened(entry, connection)
            if epoch != self._epoch:
                entry.outdated = "refreshed"
            self._refuse_if_shut()
            return connection
        except BaseException as error:
            # now, and not when the entry is given up
            self.queue.made(entry)
            if connection is not None:
                # interrupted, or shut down, before the record had it
                if isinstance(error, PoolShutdown):
                    self._reasons[id(connection)] = "shutdown"
                self.close_raw(connection)
            elif begun:
                self._tally.add("connect_failures")
                self.hear(None, error)
                if isinstance(error, Exception):
                    self._exhaustion.failed_to_open(error)
            entry.connecting_since = 0.0
            raise

    def _opened(self, entry: Entry, connection: Any) -> None:
        self._check_fitness(connection)
        now = monotonic()
        entry.opened_at = entry.idle_since = entry.traffic_at = now
        entry.connecting_since = 0.0
        self._exhaustion.opened()
        entry.spread = random.uniform(0, self.settings.jitter)
        entry.outdated = None
        entry.socket = (
            dead_end.socket_of(self.driver_of(connection))
            if self.may_look_into(connection)
            else None
        )
        self._watch_socket(entry, connection)
        self._be_looked_after()

    def _watch_socket(self, entry: Entry, connection: Any) -> None:
        """Find out how to tell whether this connection is alive."""
        entry.probe = entry.look = None
        if not self.has_dialect or connection is None:
            return
        driver_connection = self.driver_of(connection)
        entry.probe = liveness.probe(driver_connection)
        if self.settings.liveness == "passive":
            entry.look = entry.probe or _Heard(entry)

    def _be_looked_after(self) -> None:
        """The pool is in use: the reaper is to know, if it does not."""
        if self._started:
            return
        try:
            # before the reaper's first round, which looks whether it is so
            self._started = True
            self._started = reaper.look_after(self)
            self.look_whether_usual()
        except BaseException:
            self._started = False
            self._unusual = True
            raise

    def missing_idle(self) -> int:
        """How many connections min_idle wants opened."""
        idle = self.idle_entries()
        connected = sum(entry.connected for entry in idle)
        queue = self.queue
        # a place whose connection was invalidated is room for one
        opened = queue.live() - len(idle) + connected
        return upkeep.missing(connected, opened, queue.limit, self.settings)

    def open_idle(self) -> bool:
        """Open one of those that min_idle wants.

        One thread at a time, or the reaper and :meth:`.wait_ready` would
        open one each for the last place.

        :return: False if none is missing, or there is no room.

        """
        with self._refill_lock:
            return self._open_missing()

    def _open_missing(self) -> bool:
        entry = self._place_to_open() if self.missing_idle() else None
        if entry is None:
            return False
        try:
            entry.get_connection()
        except BaseException as error:
            self._drop(entry, error)
            raise
        self.queue.put(entry)
        return True

    def _place_to_open(self) -> Entry | None:
        # a place whose connection was invalidated, before a new one
        for entry in self.idle_entries():
            if not entry.connected and self.queue.claim(entry):
                return entry
        return self.queue.reserve()

    # closing

    def explain_close(self, entry: Entry, reason: str) -> None:
        """Say why an entry's connection is about to be closed."""
        self._reasons[id(entry.dbapi_connection)] = reason

    def _close(self, entry: Entry, reason: str) -> None:
        """Close an entry's connection; the entry keeps its slot."""
        if entry.connected:
            connection = entry.dbapi_connection
            try:
                self.explain_close(entry, reason)
                entry.close()
            except BaseException:
                self.close_without_telling(entry, connection, reason)
                raise
            finally:
                self._reasons.pop(id(connection), None)

    def _discard(self, entry: Entry, reason: str) -> None:
        """Close an entry's connection and free its slot."""
        connection = entry.dbapi_connection
        try:
            self._close(entry, reason)
        except BaseException:
            self.close_without_telling(entry, connection, reason)
            raise
        finally:
            self.queue.discard(entry)

    def close_without_telling(
        self, entry: Entry, connection: Any, reason: str
    ) -> None:
        """Close what a listener, or an interruption, kept from being closed.

        The entry forgets it first, so that nobody closes it once more.  For
        an entry that has forgotten it, a reason that was not asked for so
        far tells that it was not closed.
        """
        if connection is None:
            return
        if (
            entry.dbapi_connection is connection
            or id(connection) in self._reasons
        ):
            entry.dbapi_connection = None
            self._reasons[id(connection)] = reason
            self.close_raw(connection)

    def give_up(self, entry: Entry, turn: int) -> None:
        """Close an entry that an interrupted line had, and free its slot.

        :param turn: of the queue's, at which that line got it.  If it was
         given back since, it is somebody else's by now.

        """
        if self.queue.withdraw(entry, turn):
            self._discard(entry, "failed")
        else:
            # but maybe without a look at who waits
            self.queue.run_outside(self.queue.settle)

    def _give_up_checkout(self, checkout: Checkout) -> None:
        """Give up what a checkout that failed has in its hands, if it has."""
        entry, turn = checkout.entry, checkout.turn
        if entry is None:
            return
        if turn is None:
            # interrupted before that was known, so it is the present one
            turn = self.queue.turn(entry)
        for ref, lease in self._leases.copy().items():
            if lease.entry is entry and lease.turn == turn:
                # interrupted on the very last lines; nobody got the handle
                self._leases.pop(ref, None)
        self.give_up(entry, turn)

    def _close_surplus(self, entry: Entry) -> None:
        self._discard(entry, entry.outdated or "idle")

    def retire(
        self,
        entry: Entry,
        reason: str,
        turn: int | None = None,
        unless: Callable[[Entry], bool] | None = None,
    ) -> bool:
        """Close an idle entry, if it is idle still.

        :param turn: the queue's, when that was decided: if it was used
         since, or replaced, that counts no more.

        :param unless: asked once the entry is out of everybody's reach.

        """
        if not self.queue.claim(entry, turn):
            return False
        if unless is not None and unless(entry):
            entry.traffic_at = monotonic()
            # that was no use: its turn comes when it would have come
            self.queue.put(entry, back=True)
            return False
        self._discard(entry, reason)
        return True

    def _closed(self, connection: Any, terminated: bool) -> None:
        reason = self._reasons.pop(id(connection), None)
        if reason is None:
            # closed by SQLAlchemy, of its own accord
            reason = "failed" if terminated else "detached"
            if terminated and self.recycled(connection):
                reason = "age"
        self._tally.add("closed " + reason)
