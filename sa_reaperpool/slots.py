"""The live set: which entries count, and how many may.

An *entry* is any object that can be referred to weakly, and that takes an
attribute ``slot``; one is made, with the function given, whenever a slot is
free and a thread wants it.

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

An entry is of use only once it is *made*, which takes a while and is the
part of who has it.  At most ``max_making`` are being made at a time, and
that too is a property of the live entries, so that what is lost gives its
turn back.  An idle one may have to be made anew; then it is *hollow*, and
goes only to who has a turn.

The limits may change at any time, and all may be closed for good.  What is
in somebody's hands then and one too many is *surplus* when it comes back;
it counts until it is discarded, so that the next to come back is not taken
for one too many as well.

Who may move what: the fields here are written under the queue's lock, which
is in line.py.  Without it, anybody may append to ``_inbox``, set
``max_making``, and take from ``_excess`` what is then the taker's to close;
and anybody may take an idle entry out of ``queue``, or append one that is
his, by one call of a deque's method, which is one step.  So nothing that
holds the lock relies on what it saw in ``queue`` a step ago.
An entry ends in one step, which drops it from ``_live``: whoever has it takes
that, or the callback of its weak reference, at any moment.  What an entry's
reference says of it is written also by whoever has the entry.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from typing import Callable
from typing import Generic
from typing import TypeVar

E = TypeVar("E")


class _EntryRef(weakref.ref[E]):
    __slots__ = (
        "key",
        "counted",
        "turn",
        "place",
        "back",
        "making",
        "hollow",
        "leaving",
    )

    key: int
    counted: bool
    """Is it, by this reference, one of the live entries?"""

    turn: int
    place: int
    """Among the idle ones, which are in ascending order."""

    back: bool
    """Is it to be given its place back?"""

    making: bool
    hollow: bool
    leaving: bool


class Slots(Generic[E]):
    """The entries that count, the idle ones among them, and the limits."""

    def __init__(
        self,
        make: Callable[[], E],
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
        self._make = make
        self._live: dict[int, _EntryRef[E]] = {}
        self._turns = itertools.count()
        # with the turn at which it was: what was given twice by lines that
        # were interrupted, or withdrawn since, has another
        self._inbox: deque[tuple[E, int] | None] = deque()
        self._excess: deque[E] = deque()
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

    def inherited(self) -> list[E | None]:
        """All live entries, in a forked child.

        Without the lock: the thread that holds it is in the parent.
        """
        return [ref() for ref in self._live.copy().values()]

    # the end of an entry

    def discard(self, entry: E) -> None:
        """The entry counts no more; its slot is free."""
        ref = self._live.pop(id(entry), None)
        if ref is not None:
            ref.counted = False
        self._nudge()

    def _entry_died(self, ref: weakref.ref[E]) -> None:
        # anywhere, any time: in a thread that holds the lock as well
        key = ref.key  # type: ignore[attr-defined]
        if self._live.get(key) is ref:
            self._live.pop(key, None)
        self._nudge()

    def _nudge(self) -> None:
        """A slot may have come free; called anywhere, any time.

        Here nobody waits for it; line.py is told.
        """

    # what follows is called with the lock held

    # one more

    def _has_room(self) -> bool:
        # read once: it may be looked at without the lock
        limit = self.limit
        return limit is None or len(self._live) < limit

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
        ref.counted = True
        ref.turn = ref.place = next(self._turns)
        ref.making = making
        ref.back = ref.hollow = ref.leaving = False
        self._live[ref.key] = ref
        entry.slot = ref  # type: ignore[attr-defined]
        if self._above():
            self._live.pop(ref.key, None)
            ref.counted = False
            return False
        return True

    # the turn to make one

    def _has_turn(self) -> bool:
        most = self.max_making
        return most is None or self.making() < most

    def _begin(self, entry: E) -> bool:
        ref = self._live.get(id(entry))
        # one that does not count makes no difference to those that do
        if ref is not None and not ref.making:
            if self.closed or not self._has_turn():
                return False
            ref.making = True
        return True

    # idle ones

    def _next(self) -> E | None:
        # what was laid down in a closed one is about to be closed as well
        while self.queue and not self.closed:
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

    def _remove(self, entry: E, turn: int | None) -> bool:
        if turn is not None and self.turn(entry) != turn:
            return False
        where = self._sought(entry)
        try:
            # one line, so that nobody takes it between the look and the taking
            if self.queue[where] is entry: del self.queue[where]; return True  # fmt: skip  # noqa: E501
        except IndexError:
            pass
        try:
            self.queue.remove(entry)
        except ValueError:
            return False
        return True

    def _sought(self, entry: E) -> int:
        """Where an idle entry is to be found, as a rule.

        By its place, since to compare with thousands one by one takes long;
        two that come back at the same time may have changed places.
        """
        ref = self._live.get(id(entry))
        if ref is None:
            return 0
        low, high = 0, len(self.queue)
        while low < high:
            middle = (low + high) // 2
            if self._place(middle) < ref.place:
                low = middle + 1
            else:
                high = middle
        return low

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

    # one too many

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

    # no more

    def _purge(self, key: int, ref: _EntryRef[E]) -> None:
        # its number may have been given to another entry meanwhile
        if self._live.get(key) is ref:
            del self._live[key]

    def _forget(self) -> list[E]:
        for ref in self._live.copy().values():
            ref.counted = False
        self._live.clear()
        idle = []
        # one by one, as a handler may take one of them meanwhile
        while True:
            try:
                idle.append(self.queue.popleft())
            except IndexError:
                return idle
