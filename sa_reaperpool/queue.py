"""Idle entries, the threads that wait for one, and the limit.

The queue knows nothing of connections.  An *entry* is any object that can
be referred to weakly; the queue makes one, with the function it is given,
whenever a slot is free and a thread wants it.

The states of an entry, seen from here::

              make()                    get()
    (nothing) ------> in somebody's hands <-----> idle
                             |          put()
                             v
                  discard(), or garbage collected

*Capacity is the set of live entries.*  An entry counts from the moment it
is made until it is discarded or garbage collected, and nothing is counted
by hand.  So a thread that is interrupted between any two lines, entry in
hand, loses nothing: with its frame goes the entry, and with the entry the
slot.

Who may move what: every field below is written under ``_lock`` alone, but
for ``_inbox`` and ``_errands``, to which anybody appends.  A return never
blocks on a lock that its own thread holds already, which happens when the
garbage collector runs a finaliser, or a signal its handler, inside one of
the critical sections here: the entry then stays in the inbox, and the
section's owner empties that once it has let go of the lock.

An entry is of use only once it is *made*, which takes a while and is the
part of who has it.  At most ``max_making`` are being made at a time, and
that too is a property of the live entries, so that what is lost gives its
turn back.  Who waits gets what comes first, an entry that is made and idle
or the turn to make one.  An idle one may have to be made anew; then it is
*hollow*, and goes only to who has a turn.

The limits may change at any time, and the queue may be closed for good.
What is in somebody's hands then and one too many is *surplus* when it comes
back; it counts until it is discarded, so that the next to come back is not
taken for one too many as well.

A waiting thread is served by whoever frees a slot: the entry is put into
its hands, in the order in which the threads came.  An idle entry or a free
slot and a waiter therefore never exist side by side for longer than one
critical section.

The lock lets its own thread in again: a signal's handler, or a finaliser,
may check out in the middle of a section.  So no section relies on what it
saw in ``queue`` a line ago, or on room that there was then; what is looked
at and taken is so on one line, in which the interpreter runs no handler.

Critical sections are single lines, ``with lock: call()``, on purpose.  A
trace function or debugger that raises at the line of a ``with`` statement
when that is left for the second time would leave the lock held; a block
on the same line has no second time.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from time import monotonic
from time import sleep
from typing import Callable
from typing import Generic
from typing import TypeVar

from .waiter import GONE
from .waiter import Place
from .waiter import Waiter

E = TypeVar("E")


class _EntryRef(weakref.ref[E]):
    __slots__ = ("key", "turn", "place", "back", "making", "hollow", "leaving")

    key: int
    turn: int
    place: int
    """Among the idle ones, which are in ascending order."""

    back: bool
    """Is it to be given its place back?"""

    making: bool
    hollow: bool
    leaving: bool


class FairQueue(Generic[E]):
    """Hands out entries, first come, first served, up to a limit.

    :param make: makes an entry; called under the lock, so it must be quick.

    :param surplus: called, with no lock held, with each entry that was put
     back while ``maxsize`` others were idle, or that :meth:`.resize` or
     :meth:`.close` made superfluous; the entry counts until it is discarded.

    :param maxsize: how many idle entries are kept; 0 for any number.

    :param limit: how many entries may live at once; None for any number.

    :param max_making: how many may be made at once; None for any number.

    :param use_lifo: serve the idle entry that was put back last, not first.

    """

    def __init__(
        self,
        make: Callable[[], E],
        surplus: Callable[[E], object],
        *,
        maxsize: int = 0,
        limit: int | None = None,
        max_making: int | None = None,
        use_lifo: bool = False,
    ):
        self.maxsize = maxsize
        self.limit = limit
        self.max_making = max_making
        self.use_lifo = use_lifo
        self.closed = False
        self.queue: deque[E] = deque()
        self.waits = 0
        self.waited = 0.0
        self.longest_wait = 0.0
        self._make = make
        self._surplus = surplus
        self._lock = threading.RLock()
        self._live: dict[int, _EntryRef[E]] = {}
        self._waiters: deque[Waiter] = deque()
        # these have an entry, and so have been served before
        self._makers: deque[Waiter] = deque()
        self._turns = itertools.count()
        # with the turn at which it was: what was given twice by lines that
        # were interrupted, or withdrawn since, has another
        self._inbox: deque[tuple[E, int] | None] = deque()
        self._excess: deque[E] = deque()
        self._errands: deque[Callable[[], object]] = deque()
        self._watchers: deque[Waiter] = deque()
        # may there be more entries than are to stay?
        self._shedding = False

    # looking

    def qsize(self) -> int:
        return len(self.queue)

    def empty(self) -> bool:
        return not self.queue

    def live(self) -> int:
        """How many entries count: idle, or in somebody's hands."""
        return len(self._live)

    def making(self) -> int:
        """How many are being made."""
        return sum(ref.making for ref in list(self._live.values()))

    def waiting(self) -> int:
        """How many threads wait, for an entry or the turn to make one."""
        return len(self._waiters) + len(self._makers)

    def locked_here(self) -> bool:
        """Is this very thread inside one of the critical sections?"""
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]

    def counts(self, entry: E) -> bool:
        """Is this one of the live entries?"""
        return id(entry) in self._live

    def turn(self, entry: E) -> int:
        """A number that is new whenever this entry is given back.

        While it stays the same, who got the entry has it.  It is -1 if the
        entry does not count, and never that of another time.
        """
        ref = self._live.get(id(entry))
        return -1 if ref is None else ref.turn

    def idle(self) -> list[E]:
        """The idle entries, longest idle first, as a copy."""
        with self._lock: idle = list(self.queue)  # fmt: skip
        self._tidy()
        return idle

    def entries(self) -> list[E]:
        """All live entries, as a copy."""
        with self._lock: refs = list(self._live.values())  # fmt: skip
        self._tidy()
        return [entry for ref in refs if (entry := ref()) is not None]

    def inherited(self) -> list[E | None]:
        """All live entries, in a forked child.

        Without the lock: the thread that holds it is in the parent.
        """
        return [ref() for ref in self._live.copy().values()]

    # taking

    def get_nowait(self) -> E | None:
        """An idle entry, or a new one, or None when the limit is reached.

        Nobody who waits is overtaken: while someone waits, there is neither.
        """
        entry = None
        try:
            with self._lock: entry = self._next()  # fmt: skip
            self._tidy()
            return entry
        except BaseException:
            if entry is not None:
                self.put(entry)
            raise

    def get(
        self, timeout: float | None = None, place: Place | None = None
    ) -> E | None:
        """As :meth:`.get_nowait`, but wait in line.

        :param timeout: seconds; None for as long as it takes.

        :param place: who waits, and on what terms.

        :return: None when the time is up, or the queue is closed, or it was
         turned away.

        """
        waiter = Waiter(place=place)
        return self._wait(waiter, timeout, lambda: self._line_up(waiter))

    def begin(self, entry: E) -> bool:
        """May this entry be made now?  If so, :meth:`.made` is to follow.

        For one that was made and has to be made anew; a new one may.  It is
        to follow however the making ends, unless the entry does.
        """
        with self._lock: may = self._begin(entry)  # fmt: skip
        self._tidy()
        return may

    def wait_to_begin(self, entry: E, timeout: float | None = None) -> bool:
        """As :meth:`.begin`, but wait for the turn, before all newcomers.

        :return: False when the time is up, or the queue is closed.

        """
        if self.begin(entry):
            return True
        waiter = Waiter(entry)
        line_up = self._makers.append
        return self._wait(waiter, timeout, lambda: line_up(waiter)) is entry

    def exchange(self, entry: E, timeout: float | None = None) -> E | None:
        """Give back an entry that has to be made anew, and wait, as first.

        :return: one that is made, or one whose turn it is to be made, maybe
         this very entry; None as from :meth:`.get`.

        """
        waiter = Waiter()
        return self._wait(
            waiter, timeout, lambda: self._swap(entry, waiter)
        )

    def made(self, entry: E) -> None:
        """This entry is made, or could not be; somebody else may make one."""
        ref = self._live.get(id(entry))
        if ref is not None and ref.making:
            ref.making = False
            # in this order: the limit may be set meanwhile
            if self.max_making is not None:
                self._nudge()

    def _wait(
        self,
        waiter: Waiter,
        timeout: float | None,
        line_up: Callable[[], object],
    ) -> E | None:
        if self.locked_here():
            # A signal's handler, or a finaliser, in the middle of one of
            # the sections here: its thread would sleep with the lock.
            return None
        try:
            with self._lock: line_up()  # fmt: skip
            self.settle()
            if waiter.place is not None and waiter.entry is None:
                waiter.place.taken(waiter)
            waiter.sleep(timeout)
            if waiter.entry is None:
                with self._lock: self._leave(waiter)  # fmt: skip
                self._tidy()
            return None if waiter.entry is GONE else waiter.entry
        except BaseException:
            with self._lock: self._leave(waiter)  # fmt: skip
            if waiter.entry is not GONE and waiter.own is None:
                self.put(waiter.entry)
            raise

    def line(self) -> list[Waiter]:
        """Who waits and has not been served, in order, as a copy."""
        with self._lock: line = self._unserved()  # fmt: skip
        self._tidy()
        return line

    def leave_if(self, waiter: Waiter, due: Callable[[], bool]) -> bool:
        """Leave the line if this says so; nobody moves between the two.

        :param due: called under the lock, so it must be quick.

        :return: False if it says no, or if the waiter was served.

        """
        with self._lock: left = self._leave_if(waiter, due)  # fmt: skip
        self._tidy()
        return left

    def reserve(self) -> E | None:
        """A new entry although nobody asked, or None when there is no room.

        None also while threads wait: what is free is theirs.
        """
        with self._lock: entry = self._spare()  # fmt: skip
        self._tidy()
        return entry

    def claim(self, entry: E, turn: int | None = None) -> bool:
        """Take this very entry out of the idle ones, if it is still there.

        :param turn: only if it has been there since this was its
         :meth:`.turn`.

        """
        with self._lock: claimed = self._remove(entry, turn)  # fmt: skip
        self._tidy()
        return claimed

    def withdraw(self, entry: E, turn: int) -> bool:
        """Take back what an interrupted line may have given, or not.

        :param turn: at which that line got the entry.

        :return: False if the entry is somebody else's by now, or idle.
         Otherwise the caller alone has it.

        """
        with self._lock: withdrawn = self._withdraw(entry, turn)  # fmt: skip
        self._tidy()
        return withdrawn

    # giving

    def put(self, entry: E, made: bool = True, back: bool = False) -> None:
        """Give an entry back: to who waits longest, else to the idle ones.

        An entry that does not count, since :meth:`.forget` was called while
        it was out, counts again if there is room for it, else is surplus.

        :param made: False if it has to be made anew.

        :param back: it was :meth:`.claimed <claim>`, and gets its place
         among the idle ones back.

        """
        ref = self._live.get(id(entry))
        if ref is not None:
            # nobody else has it
            ref.making, ref.hollow, ref.back = False, not made, back
        if self.locked_here():
            self._inbox.append((entry, self.turn(entry)))
            return
        with self._lock: at_rest = self._lay_down(entry)  # fmt: skip
        if at_rest:
            self._tidy()
            return
        somebody_waits = self.waiting() > 0
        self.settle()
        if somebody_waits:
            # Who was served can run when this thread lets go of the
            # interpreter.  Until then the entry is of use to nobody.  The
            # shortest sleep there is, some 50 microseconds, is long enough
            # for the other to be there; sleep(0) often is not.
            sleep(1e-6)

    def discard(self, entry: E) -> None:
        """The entry counts no more; its slot is free."""
        self._live.pop(id(entry), None)
        self._nudge()

    def forget(self) -> list[E]:
        """No entry counts any more; return those that were idle."""
        with self._lock: idle = self._forget()  # fmt: skip
        self._nudge()
        return idle

    def purge(self) -> None:
        """Drop the slots of entries whose end was noticed by nobody.

        That is, whose weak reference's callback was interrupted before its
        first line.
        """
        for key, ref in self._live.copy().items():
            if ref() is None:
                with self._lock: self._purge(key, ref)  # fmt: skip
        self._nudge()

    def allow_making(self, max_making: int | None) -> None:
        """Have so many made at once from now on.

        Nobody is served yet: :meth:`.settle` is to follow.
        """
        self.max_making = max_making

    def resize(self, maxsize: int, limit: int | None) -> None:
        """Keep and allow so many entries from now on.

        Nobody is served or closed yet: :meth:`.settle` is to follow.  That
        serves as many waiters as there is room for, or gives up what is
        idle and one too many, longest idle first.  What is in somebody's
        hands and one too many is surplus when it comes back.
        """
        with self._lock: self._resize(maxsize, limit)  # fmt: skip

    def close(self) -> None:
        """Nobody gets an entry any more.

        Who waits is woken with nothing, all of them at once.  Idle entries
        are surplus, and so is whatever comes back.  Harmless if it is
        closed already: what was left to do is done.
        """
        try:
            with self._lock: self._close()  # fmt: skip
            self._nudge()
        except BaseException:
            # nobody is to sleep on because of that; what is idle is closed
            # when somebody settles next
            if not self.locked_here():
                with self._lock: self._match()  # fmt: skip
            raise

    def wait_until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Sleep until this is true, or the time is up.

        It is looked at whenever an entry of a closed queue ends, and when
        the queue is closed.

        :return: what it was in the end.

        """
        deadline = monotonic() + seconds
        while not done():
            watcher = Waiter()
            try:
                with self._lock: self._watchers.append(watcher)  # fmt: skip
                self._tidy()
                left = deadline - monotonic()
                # not beside a lock that this very thread holds
                if done() or left <= 0 or self.locked_here():
                    return done()
                watcher.sleep(left)
            finally:
                with self._lock: self._unwatch(watcher)  # fmt: skip
                self._tidy()
        return True

    def run_outside(self, errand: Callable[[], object]) -> None:
        """Call this now, or once this thread is out of the lock it holds."""
        if self.locked_here():
            self._errands.append(errand)
        else:
            errand()

    def unsettled(self) -> bool:
        """Did an interrupted line leave something to :meth:`.purge`?"""
        if self._inbox or self._errands or self._excess:
            return True
        if None in [ref() for ref in list(self._live.values())]:
            return True
        if self.closed:
            return bool(self.waiting() or self.queue)
        # served, but not woken
        waiters = [*self._waiters.copy(), *self._makers.copy()]
        if any(waiter.entry is not None for waiter in waiters):
            return True
        with self._lock: return self._overdue()  # fmt: skip

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
        try:
            errand = self._errands.popleft()
        except IndexError:
            # another thread was faster
            return
        errand()

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

    def _swap(self, entry: E, waiter: Waiter) -> None:
        ref = self._live.get(id(entry))
        if ref is not None:
            ref.making, ref.hollow, ref.back = False, True, True
        # one line, so that nothing is ever between the two
        given = (entry, -1 if ref is None else ref.turn)
        self._waiters.appendleft(waiter); self._inbox.append(given)  # fmt: skip  # noqa: E501

    def _next(self) -> E | None:
        while self.queue:
            place = -1 if self.use_lifo else 0
            if self.max_making is not None and not self._has_turn():
                found = self._first_made()
                if found is None:
                    return None
                place = found
            try:
                entry = self.queue[place]
                ref = self._live.get(id(entry))
                # Each in one line, so that an interruption finds it in the
                # queue, or this frame, that somebody may keep, is left; and
                # so that nobody takes it between the look and the taking.
                if ref is not None and ref.hollow:
                    if self.queue[place] is entry: del self.queue[place]; ref.hollow, ref.making = False, True; return entry  # fmt: skip  # noqa: E501
                elif self.queue[place] is entry: del self.queue[place]; return entry  # fmt: skip  # noqa: E501
            except IndexError:
                pass
            # a handler, in this very thread, was faster
        return self._new() if self._has_turn() else None

    def _first_made(self) -> int | None:
        # of a copy, as a handler may take one of them meanwhile
        places = list(enumerate(list(self.queue)))
        for place, entry in reversed(places) if self.use_lifo else places:
            ref = self._live.get(id(entry))
            if ref is None or not ref.hollow:
                return place
        return None

    def _has_turn(self) -> bool:
        return self.max_making is None or self.making() < self.max_making

    def _has_room(self) -> bool:
        return self.limit is None or len(self._live) < self.limit

    def _begin(self, entry: E) -> bool:
        ref = self._live.get(id(entry))
        # one that does not count makes no difference to those that do
        if ref is not None and not ref.making:
            if self.closed or not self._has_turn():
                return False
            ref.making = True
        return True

    def _overdue(self) -> bool:
        """Is there something for somebody who waits?"""
        turn = self._has_turn()
        if self._makers and turn:
            return True
        if not self._waiters:
            return False
        if turn and (self.queue or self._has_room()):
            return True
        return self._first_made() is not None

    def _spare(self) -> E | None:
        # it waits for its turn when it comes to that
        return None if self._waiters else self._new(making=False)

    def _new(self, making: bool = True) -> E | None:
        if self.closed or not self._has_room():
            return None
        entry = self._make()
        try:
            return entry if self._count(entry, making) else None
        except BaseException:
            self._live.pop(id(entry), None)
            raise

    def _count(self, entry: E, making: bool = False) -> bool:
        """Let this one count, unless a handler has taken the last room."""
        ref = _EntryRef(entry, self._entry_died)
        ref.key = id(entry)
        ref.turn = ref.place = next(self._turns)
        ref.making = making
        ref.back = ref.hollow = ref.leaving = False
        self._live[ref.key] = ref
        if self._above():
            self._live.pop(ref.key, None)
            return False
        return True

    def _entry_died(self, ref: weakref.ref[E]) -> None:
        # anywhere, any time: in a thread that holds the lock as well
        key = ref.key  # type: ignore[attr-defined]
        if self._live.get(key) is ref:
            self._live.pop(key, None)
        self._nudge()

    def _lay_down(self, entry: E) -> bool:
        """The usual return: nobody waits, and there is room."""
        ref = self._live.get(id(entry))
        full = 0 < self.maxsize <= len(self.queue)
        asked_for = self._waiters or self._makers
        if ref is not None and not (
            full or asked_for or self._inbox or self._shedding
        ):
            self._shelve(entry)
            return True
        self._inbox.append((entry, -1 if ref is None else ref.turn))
        return False

    def _shelve(self, entry: E) -> None:
        ref = self._live.get(id(entry))
        if ref is None:
            # a handler has forgotten all: is there room for it?
            self._inbox.append((entry, -1))
            return
        turn = next(self._turns)
        where = len(self.queue)
        if ref.back:
            while where and self._place(where - 1) > ref.place:
                where -= 1
        else:
            ref.place = turn
        # one line, so that nothing is ever between the two
        ref.turn = turn; self.queue.insert(where, entry)  # fmt: skip  # noqa: E501

    def _place(self, index: int) -> int:
        try:
            ref = self._live.get(id(self.queue[index]))
        except IndexError:
            # a handler has taken it
            return -1
        return -1 if ref is None else ref.place

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
        self._serve(self._makers)
        self._serve(self._waiters)
        while self._crowded():
            self._set_aside(-1)
        while self.closed and self._watchers:
            self._watchers[0].wake()
            self._watchers.popleft()

    def _serve(self, line: deque[Waiter]) -> None:
        while line:
            waiter = line[0]
            if waiter.entry is None:
                waiter.entry = self._find(waiter)
                if waiter.entry is None and self.closed:
                    waiter.entry = GONE
                if waiter.entry is None:
                    return
                self._waited_for(waiter)
            # In this order: if these lines are torn apart, a waiter that
            # was served stays in line, and is passed over the next time.
            waiter.wake()
            line.popleft()

    def _find(self, waiter: Waiter) -> E | None:
        if waiter.own is None:
            return self._next()
        return waiter.own if self._begin(waiter.own) else None

    def _stays(self, entry: E) -> bool:
        if self.closed:
            return False
        if id(entry) in self._live:
            return not (self._shedding and self._leaves(entry))
        return self._has_room() and self._count(entry)

    def _leaves(self, entry: E) -> bool:
        """Is this one beyond the limit?  If so, it is from then on."""
        ref = self._live.get(id(entry))
        if ref is None:
            return True
        if self._too_many():
            ref.leaving = True
        return ref.leaving

    def _too_many(self) -> bool:
        refs = list(self._live.values())
        return self._above(leaving=sum(ref.leaving for ref in refs))

    def _above(self, leaving: int = 0) -> bool:
        if self.limit is None:
            return False
        return len(self._live) - leaving > self.limit

    def _crowded(self) -> bool:
        return 0 < self.maxsize < len(self.queue)

    def _mark(self, entry: E) -> None:
        ref = self._live.get(id(entry))
        if ref is not None:
            ref.leaving = True

    def _set_aside(self, place: int) -> None:
        """Make an idle one surplus: the first, or the last."""
        if self.queue: entry = self.queue[place]; del self.queue[place]; self._excess.append(entry); self._mark(entry)  # fmt: skip  # noqa: E501

    def _longest_idle(self) -> E | None:
        return self.queue[0] if self.queue else None

    def _shed_idle(self) -> None:
        while (entry := self._longest_idle()) is not None:
            if not (self.closed or self._leaves(entry)):
                break
            # unless a handler was faster
            if self.queue and self.queue[0] is entry: self._excess.append(self.queue.popleft())  # fmt: skip  # noqa: E501
        self._shedding = self.closed or self._above()

    def _resize(self, maxsize: int, limit: int | None) -> None:
        self.maxsize, self.limit, self._shedding = maxsize, limit, True
        # so that this is not forgotten if nobody settles
        self._inbox.append(None)
        while self._crowded():
            self._set_aside(0)

    def _close(self) -> None:
        self.closed = self._shedding = True

    def _unwatch(self, watcher: Waiter) -> None:
        try:
            self._watchers.remove(watcher)
        except ValueError:
            # woken
            pass

    def _line_up(self, waiter: Waiter) -> None:
        place = waiter.place
        if place is not None and place.most is not None:
            waiting = [other.place for other in self._unserved()]
            if sum(other is None or other.counts for other in waiting) >= (
                place.most
            ):
                self._serve_or_turn_away(waiter, place)
                return
        self._waiters.append(waiter)

    def _serve_or_turn_away(self, waiter: Waiter, place: Place) -> None:
        # one may have come free since it looked
        waiter.entry = None if self._waiters else self._next()
        if waiter.entry is None:
            waiter.entry = GONE
            place.turned_away = True
        waiter.wake()

    def _unserved(self) -> list[Waiter]:
        return [each for each in self._waiters if each.entry is None]

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
        self.waits += 1
        self.waited += elapsed
        if elapsed > self.longest_wait:
            self.longest_wait = elapsed

    def _purge(self, key: int, ref: _EntryRef[E]) -> None:
        # its number may have been given to another entry meanwhile
        if self._live.get(key) is ref:
            del self._live[key]

    def _withdraw(self, entry: E, turn: int) -> bool:
        ref = self._live.get(id(entry))
        if ref is None:
            # it counts no more, so that nobody gets it
            return turn == -1
        if ref.turn != turn:
            return False
        # from here on nobody else has it, nor what lies in the inbox
        ref.turn = next(self._turns)
        return True

    def _remove(self, entry: E, turn: int | None) -> bool:
        if turn is not None and self.turn(entry) != turn:
            return False
        try:
            self.queue.remove(entry)
        except ValueError:
            return False
        return True

    def _forget(self) -> list[E]:
        self._live.clear()
        idle = []
        # one by one, as a handler may take one of them meanwhile
        while True:
            try:
                idle.append(self.queue.popleft())
            except IndexError:
                return idle
