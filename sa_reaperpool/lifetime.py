"""A pool's life from its first configuration to its shutdown.

What is shut down stays so: the queue is closed, and nobody gets anything
from it any more.  Its connections end one by one, the idle ones at once and
each of the others when its lease ends, by whatever way that is: each of
them ends with the entry's slot, of which the queue tells who waits for it.

The reaper has nothing to open or to ping in such a pool.  It does go on
taking back what dead holders left, as nobody else would close that, and
lets go of the pool once there is nothing left.  Who waits in
:meth:`.LifetimePool.shutdown` takes it back as well, since not every pool
has a reaper, nor has one that is shut down while the interpreter exits.
"""

from __future__ import annotations

import threading
from difflib import get_close_matches
from time import monotonic
from types import TracebackType
from typing import Any
from typing import Mapping
from typing import TypeVar

from sqlalchemy.exc import ArgumentError

from .adapter import Entry
from .lease import LeaseInfo
from .options import OPTIONS
from .options import Settings
from .options import validate
from .reaper import reaper
from .stock import StockedPool
from .stock import limit_of
from .timings import Timings

P = TypeVar("P", bound="LifetimePool")

_LOOK_AGAIN = 1.0
"""Seconds between looks for dead holders while a shutdown waits."""

_AT_EXIT = 5.0
"""Seconds that the end of a ``with`` block waits for connections."""

_KEYWORDS = {option.keyword for option in OPTIONS}
_BY_NAME = {
    **{option.keyword: option for option in OPTIONS},
    **{option.name: option for option in OPTIONS},
}


class LifetimePool(StockedPool):
    """A pool that can be configured, disposed of and shut down."""

    _configuring: threading.RLock = None  # type: ignore[assignment]

    def _begin_empty(self) -> None:
        super()._begin_empty()
        self._configuring = threading.RLock()
        if self.timings is not None:
            self.timings = Timings()

    def leases(self) -> tuple[LeaseInfo, ...]:
        raise NotImplementedError()

    # configuration

    def configure(self, **options: Any) -> None:
        """Change options while the pool is in use, from any thread.

        All of those given change, or, if any of them is wrong, none::

            pool.configure(pool_size=10, max_overflow=0, max_age=600)

        It takes effect at once.  Where the pool grows, as many of those
        who wait are served as there is room for; where it shrinks, idle
        connections that are too many are closed before this returns, and
        those in use when they are returned.  Until then they count: nobody
        gets a new connection beside them.

        A new ``timeout``, ``max_waiting`` or ``on_deadlock`` is for checkouts
        that begin to wait from now on, a new ``jitter`` for connections opened
        from now on.  With a
        ``pool_size`` of 0 ``max_overflow`` becomes -1, as in any QueuePool,
        so that both are to be given when there is to be a limit again.
        :meth:`.recreate` hands on what is set here.

        :param options: ``pool_size``, ``max_overflow``, ``timeout`` (or
         ``pool_timeout``), ``max_waiting``, ``max_connecting``,
         ``on_deadlock``, and all that the reaper goes by:
         ``reaping_frequency``, ``dead_connection_timeout``, ``max_age``,
         ``idle_timeout``, ``min_idle``, ``keepalive``, ``jitter``,
         ``leak_timeout``, ``reclaim_timeout``.  What they take is what the
         pool's constructor takes.

        :raises sqlalchemy.exc.ArgumentError: a value is not allowed, or
         not beside the others; or the option is none, or not one that can
         change while the pool is in use.

        """
        changes = _by_keyword(options)
        with self._configuring: self._apply(changes)  # fmt: skip
        # outside of that lock, as this closes what is too many
        self.queue.run_outside(self.queue.settle)
        # A pool is looked after from its first connect on, and its first
        # one may be under way, with the frequency as it was.
        if self._started or self.queue.live():
            if not reaper.look_again(self):
                # no thread to be had: the next connect tries again
                self._started = False
                self._unusual = True
        self.logger.info("Pool configured: %s", ", ".join(sorted(changes)))

    def _apply(self, changes: Mapping[str, object]) -> None:
        current = self._arguments()
        known = {name: current[name] for name in _KEYWORDS & current.keys()}
        checked = validate({**known, **changes})
        settings = Settings.of(checked)
        before = self.queue.maxsize
        # in the order in which min_idle never is above the size
        if before and settings.min_idle > before:
            self._apply_limits(checked)
            self.settings = settings
        else:
            self.settings = settings
            self._apply_limits(checked)
        self.queue.allow_making(settings.max_connecting)

    def _apply_limits(self, checked: Mapping[str, Any]) -> None:
        size = checked["pool_size"]
        max_overflow = checked["max_overflow"] if size else -1
        self.change_limits(max_overflow, checked["timeout"])
        self.queue.resize(size, limit_of(size, max_overflow))

    # anew

    def recreate(self: P) -> P:
        """A new pool like this one, with the options as they are by now.

        It works also if this one is shut down: so after
        ``engine.pool.shutdown()``, ``engine.dispose()`` makes the engine
        work again.
        """
        self.logger.info("Pool recreating")
        with self._configuring: arguments = self._arguments()  # fmt: skip
        new = self.__class__(self.creator, **arguments)
        # which goes on counting there
        new.timings = self.timings
        new.history = self.history
        new.history.goes_on_with(new, new._counters)
        return new

    def _arguments(self) -> dict[str, Any]:
        return {**self._base_arguments(), **self._own_arguments()}

    def _own_arguments(self) -> dict[str, Any]:
        own = vars(self.settings).copy()
        own["disconnect_with"] = self._closer
        if own["liveness"] == "ping":
            # the two are one; given both ways it would be said twice
            del own["liveness"]
            own["pre_ping"] = True
        return own

    def dispose(self) -> None:
        """Close what is idle; what is checked out no longer counts.

        As with QueuePool, a connection that is returned later is kept.  The
        reaper's next round closes it.  A pool that is shut down remains so.
        """
        for entry in self.queue.entries():
            # what is to be replaced still is
            entry.outdated = entry.outdated or "shutdown"
        # min_idle is for a pool that is in use
        self._started = False
        self._unusual = True
        for entry in self.queue.forget():
            self._discard(entry, "shutdown")
        self.logger.info("Pool disposed. %s", self.status())

    # the end

    def shutdown(
        self, timeout: float | None = None
    ) -> tuple[LeaseInfo, ...]:
        """Lend no connection any more, and wait for those that are out.

        From now on a checkout raises :class:`.PoolShutdown`, also one that
        waits already, and so does :meth:`.wait_ready`.  Idle connections
        are closed now, those that are checked out when they are returned;
        what dead holders left is taken back.  One that is being opened is
        closed when it is open.

        To call this again is to go on waiting; several threads may.  A
        thread that holds a connection of the pool itself should not wait
        without a limit.

        For an engine, ``engine.dispose()`` afterwards gives it a new pool.

        :param timeout: seconds to wait; None for as long as it takes, 0 or
         less for not at all.  It does not cut a driver's close short, nor a
         close by a ``close`` event's listener.

        :return: the leases that are still out, as :meth:`.leases` does:
         those kept by :meth:`.keep` among them.  Detached connections are
         not the pool's any more.

        """
        deadline = None if timeout is None else monotonic() + timeout
        if not self.shut:
            self.logger.info("Pool shutting down. %s", self.status())
        self.queue.close()
        while not self._drained():
            self._care.reap(monotonic())
            left = _LOOK_AGAIN
            if deadline is not None:
                left = min(left, deadline - monotonic())
            # a signal's handler: its own thread may hold what it waits for
            if left <= 0 or self.queue.locked_here():
                break
            self.queue.wait_until(self._drained, left)
        # which it may let go of
        reaper.look_again(self)
        return self.leases()

    def _drained(self) -> bool:
        # what was out at a dispose() has no place in the queue any more
        return not (self._leases or self.queue.live())

    def __enter__(self: P) -> P:
        self._refuse_if_shut()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Shut the pool down.

        This waits 5 seconds at most: whatever this thread itself has not
        returned by now, it will not return while it waits.  After an
        exception, whose traceback may well refer to connections, it does
        not wait at all.  A warning names what is still out; that is closed
        when it is returned.  Who wants to wait otherwise calls
        :meth:`.shutdown` inside the block.
        """
        left = self.shutdown(0 if kind is not None else _AT_EXIT)
        for lease in left:
            self.logger.warning(
                "The pool is shut down with a connection still out: held by "
                "%s for %.1f s, checked out at %s.",
                ", ".join(repr(holder.name) for holder in lease.holders),
                lease.held_for,
                lease.where,
            )

    # what this means to others

    @property
    def frequency(self) -> float | None:
        """Seconds between the reaper's rounds; None once there is nothing
        left of a pool that is shut down."""
        if self.shut and self._drained():
            return None
        return super().frequency

    @property
    def started(self) -> bool:
        return super().started and not self.shut

    def missing_idle(self) -> int:
        self._refuse_if_shut()
        return super().missing_idle()

    def _pause(self, seconds: float) -> None:
        """Between two attempts to connect."""
        self.queue.wait_until(lambda: self.queue.closed, seconds)

    def _close_surplus(self, entry: Entry) -> None:
        if not self.queue.closed:
            super()._close_surplus(entry)
            return
        try:
            self._discard(entry, "shutdown")
        except Exception:
            # a listener's: its own failure, and not that of the next one
            self.logger.error(
                "Exception while a pool was shut down", exc_info=True
            )


def _by_keyword(options: Mapping[str, object]) -> dict[str, object]:
    """What :meth:`.LifetimePool.configure` was given, looked through."""
    given: dict[str, object] = {}
    for name, value in options.items():
        option = _BY_NAME.get(name)
        if option is None:
            meant = get_close_matches(name, _BY_NAME, 1)
            raise ArgumentError(
                f"Unknown option {name!r}"
                + (f": did you mean {meant[0]!r}?" if meant else "")
            )
        if not option.changes:
            raise ArgumentError(
                f"Option {name!r} cannot change while the pool is in use: "
                "give it to the constructor"
            )
        if option.keyword in given:
            raise ArgumentError(
                f"{option.keyword!r} and {option.name!r} are two names for "
                "one option: give only one of them"
            )
        given[option.keyword] = value
    return given
