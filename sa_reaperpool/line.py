"""Who waits in line, and how the line is served.

Who waits gets what comes first, an entry that is made and idle or the turn
to make one.  A waiting thread is served by whoever frees a slot: the entry
is put into its hands, in the order in which the threads came.  An idle
entry or a free slot and a waiter therefore never exist side by side for
longer than one critical section; but for what was out for a moment only,
which newcomers may have for a while (newcomers.py): then the first
in line has been *called*, and looks for itself as soon as it runs.  Who is
called and leaves the line looks as well, on behalf of those behind it.

Who may move what: every field here is written under ``_lock`` alone, but for
``_errands``, to which anybody appends, and of which who settles takes the
next, and ``_waiters``, to which a thread appends itself; for those of
slots.py see there.  A return never blocks on a lock that
its own thread holds already, which happens when the garbage collector runs
a finaliser, or a signal its handler, inside one of the critical sections:
the entry then stays in the inbox, and the section's owner empties that once
it has let go of the lock.

Critical sections are single lines, on purpose: see queue.py.
"""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic
from typing import Callable

from .history import Waits
from .slots import E
from .slots import Slots
from .waiter import GONE
from .waiter import Waiter


class Line(Slots[E]):
    """The slots, the lock around them, and the threads that wait for one."""

    def __init__(
        self,
        make: Callable[[], E],
        surplus: Callable[[E], object],
        *,
        maxsize: int = 0,
        limit: int | None = None,
        max_making: int | None = None,
        use_lifo: bool = False,
        greenlets: bool = False,
        waits: Waits | None = None,
    ):
        super().__init__(
            make,
            maxsize=maxsize,
            limit=limit,
            max_making=max_making,
            use_lifo=use_lifo,
        )
        self.greenlets = greenlets
        self._past = waits or Waits()
        self._surplus = surplus
        self._lock = threading.RLock()
        self._waiters: deque[Waiter] = deque()
        # these have an entry, and so have been served before
        self._makers: deque[Waiter] = deque()
        self._errands: deque[Callable[[], object]] = deque()
        self._watchers: deque[Waiter] = deque()

    # looking

    @property
    def waits(self) -> int:
        """How many have waited, served or not."""
        return self._past.number

    @property
    def waited(self) -> float:
        """Seconds that they have waited, all together."""
        return self._past.seconds

    @property
    def longest_wait(self) -> float:
        """Seconds that one of them waited at most."""
        return self._past.longest

    def waiting(self) -> int:
        """How many threads wait, for an entry or the turn to make one."""
        return len(self._waiters) + len(self._makers)

    def locked_here(self) -> bool:
        """Is this very thread inside one of the critical sections?"""
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]

    def leave_to_parent(self, keep: Callable[[E], object]) -> None:
        """In a forked child, of whom the forking thread may be in here.

        As it leaves, it is not to wait for a lock of which the holder is not
        here, nor to serve the parent's threads, nor to close anything.

        :param keep: what to do instead.

        """
        self._lock = threading.RLock()
        self._waiters, self._makers = deque(), deque()
        self._surplus = keep

    def unsettled(self) -> bool:
        """Did an interrupted line leave something to :meth:`.purge`?"""
        if self._inbox or self._errands or self._excess:
            return True
        for ref in self._live.copy().values():
            if ref() is None:
                return True
        if self.closed:
            return bool(self.waiting() or self.queue)
        if not (self._waiters or self._makers):
            return False
        # Served, but not woken, or woken, but not let go: whoever serves
        # goes on with the next one only after that.
        for line in (self._waiters, self._makers):
            try:
                if line and line[0].entry is not None:
                    return True
            except IndexError:
                # it has left meanwhile
                pass
        # a look without the lock, since it mostly says no
        if not self._overdue():
            return False
        with self._lock: return self._overdue()  # fmt: skip

    # bringing together

    def settle(self) -> None:
        """Bring together what is free and who waits.

        Called wherever either may have changed; harmless at any other time.
        """
        while True:
            with self._lock: self._match()  # fmt: skip
            while self._excess:
                self._close_excess()
            while self._errands:
                self._run_errand()
            if not self._inbox:
                return

    def _close_excess(self) -> None:
        entry = None
        try:
            entry = self._excess.popleft()
            self._surplus(entry)
        except IndexError:
            # another thread was faster
            if entry is not None:
                raise
        except Exception:
            if entry is not None:
                self.discard(entry)
            raise
        except BaseException:
            # interrupted, where nobody knows: for who settles next
            if entry is not None:
                self._excess.append(entry)
            raise

    def _run_errand(self) -> None:
        errand = None
        try:
            errand = self._errands.popleft()
            errand()
        except IndexError:
            # another thread was faster
            if errand is not None:
                raise
        except Exception:
            raise
        except BaseException:
            # interrupted, where nobody knows: for who settles next, and in
            # vain if it was done
            if errand is not None:
                self._errands.append(errand)
            raise

    def _tidy(self) -> None:
        """After each critical section: what came in while it lasted."""
        if self._inbox or self._errands:
            self._kick()

    def _nudge(self) -> None:
        self._inbox.append(None)
        self._kick()

    def _kick(self) -> None:
        if not self.locked_here():
            self.settle()

    # what follows is called with the lock held

    def _match(self) -> None:
        """Serve who waits; set aside what is one idle entry too many."""
        while self._inbox:
            given = self._inbox.popleft()
            if given is None:
                continue
            entry, turn = given
            if turn != self.turn(entry):
                continue
            if self._stays(entry):
                self._shelve(entry)
            else:
                self._excess.append(entry)
        if self._shedding:
            self._shed_idle()
        # those who have an entry have waited for that before
        if self._makers:
            self._serve(self._makers)
        if self._waiters:
            self._serve(self._waiters)
        while 0 < self.maxsize < len(self.queue):
            self._set_aside(-1)
        while self.closed and self._watchers:
            self._watchers[0].wake()
            self._watchers.popleft()

    def _serve(self, line: deque[Waiter]) -> None:
        while line:
            waiter = line[0]
            if waiter.entry is None:
                if waiter.own is not None:
                    if self._begin(waiter.own):
                        waiter.entry = waiter.own
                elif self.queue or self._may_serve():
                    waiter.entry = self._next()
                if waiter.entry is None:
                    if not self.closed:
                        return
                    waiter.entry = GONE
                self._waited_for(waiter)
            # In this order: if these lines are torn apart, a waiter that
            # was served stays in line, and is passed over the next time.
            waiter.wake()
            line.popleft()

    def _unless_awaited(self) -> E | None:
        return None if self._waiters else self._next()

    def _may_serve(self) -> bool:
        """Is there room for one more, or have all who wait to leave?"""
        # read once: it may be looked at without the lock
        limit = self.limit
        return limit is None or len(self._live) < limit or self.closed

    def _overdue(self) -> bool:
        """Is there something for somebody who waits?"""
        if not self._waiters and not self._makers:
            return False
        if self._has_turn() and (
            self._makers or self.queue or self._has_room()
        ):
            return True
        if not self._waiters or not self.queue:
            return False
        return self._first_made() is not None

    def _spare(self) -> E | None:
        # it waits for its turn when it comes to that
        return None if self._waiters else self._new(making=False)

    def _swap(self, entry: E, waiter: Waiter) -> None:
        ref = self._live.get(id(entry))
        if ref is not None:
            ref.making, ref.hollow, ref.back = False, True, True
        # one line, so that nothing is ever between the two
        given = (entry, -1 if ref is None else ref.turn)
        self._waiters.appendleft(waiter); self._inbox.append(given)  # fmt: skip  # noqa: E501

    # threads that come and go

    def _line_up(self, waiter: Waiter) -> None:
        if waiter.most is not None:
            waiting = sum(other.counts for other in self._unserved())
            if waiting >= waiter.most:
                self._serve_or_turn_away(waiter)
                return
        self._waiters.append(waiter)

    def _serve_or_turn_away(self, waiter: Waiter) -> None:
        # one may have come free since it looked
        waiter.entry = None if self._waiters else self._next()
        if waiter.entry is None:
            waiter.entry = GONE
            waiter.turn_away()
        waiter.wake()

    def _unserved(self) -> list[Waiter]:
        # of a copy, as others append meanwhile
        return [each for each in self._waiters.copy() if each.entry is None]

    def _leave_if(self, waiter: Waiter, due: Callable[[], bool]) -> bool:
        if waiter.entry is not None or not due():
            return False
        self._leave(waiter)
        return True

    def _leave(self, waiter: Waiter) -> None:
        if waiter.entry is None:
            waiter.entry = GONE
            self._waited_for(waiter)
        try:
            line = self._waiters if waiter.own is None else self._makers
            line.remove(waiter)
        except ValueError:
            pass

    def _waited_for(self, waiter: Waiter) -> None:
        elapsed = monotonic() - waiter.since
        past = self._past
        past.number += 1
        past.seconds += elapsed
        if elapsed > past.longest:
            past.longest = elapsed

    def _unwatch(self, watcher: Waiter) -> None:
        try:
            self._watchers.remove(watcher)
        except ValueError:
            # woken
            pass
