"""What comes back: to who waits longest, else to the idle ones.

The usual return does without the lock, and is written out in adapter/, in
``close()``; it is :meth:`.lay`.

Critical sections are single lines, on purpose: see queue.py.
"""

from __future__ import annotations

from .newcomers import BRIEF
from .newcomers import Newcomers
from .slots import E
from .slots import _EntryRef


class Returns(Newcomers[E]):
    """A line, and what is given back to it."""

    def lay(self, entry: E) -> None:
        """Give back an entry that is made, by the short way, without lock.

        First it is idle, then who gives it looks whether that was right;
        and who waits first stands in line, then looks whether something is
        idle.  So at least one of the two sees the other.
        """
        slot: _EntryRef[E] = entry.slot  # type: ignore[attr-defined]
        turn = next(self._turns)
        # one line, so that nothing is ever between the two
        slot.turn = slot.place = turn; self.queue.append(entry)  # fmt: skip  # noqa: E501, E702
        if (
            self._waiters
            or self._makers
            or self._inbox
            or self._shedding
            or not slot.counted
            or 0 < self.maxsize < len(self.queue)
        ):
            self.rearrange(entry, slot)

    def rearrange(
        self,
        entry: E,
        slot: _EntryRef[E],
        now: float = 0.0,
        held: float = BRIEF,
    ) -> None:
        """What was laid down may be due to somebody, or be one too many.

        :param now: the time.

        :param held: for how long it was out.

        """
        if self._lock._is_owned():  # type: ignore[attr-defined]
            # a finaliser's, or a signal handler's: the section's owner looks
            # at the inbox
            self._inbox.append(None)
            if not slot.counted:
                self._pick_up(entry)
            return
        if not slot.counted:
            with self._lock: self._pick_up(entry)  # fmt: skip
        if held < BRIEF:
            if self._lets_in(now):
                self._call_first()
                return
        elif held > BRIEF and self._waiters:
            self._keep_out(now, held)
        somebody_waits = self._waiters or self._makers
        with self._lock: all_done = self._hand_on()  # fmt: skip
        if not all_done or self._inbox or self._errands:
            self.settle()
        if somebody_waits:
            self._let_run()

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
        if at_rest and not (self._waiters or self._makers):
            # in this order, as in lay(): who lined up meanwhile has looked
            # before it was there
            self._tidy()
            return
        somebody_waits = self.waiting() > 0
        self.settle()
        if somebody_waits:
            self._let_run()

    # what follows is called with the lock held

    def _hand_on(self) -> bool:
        """Give what is idle to who waits longest.

        As :meth:`._match` does; here at once, where that is all there is to
        do, as it is thousands of times a second.

        :return: False if there is more to do, or something else.

        """
        if (
            not self._waiters
            or self._makers
            or self._inbox
            or self._errands
            or self._excess
            or self._shedding
            or self.max_making is not None
        ):
            return False
        waiter = self._waiters[0]
        place = -1 if self.use_lifo else 0
        try:
            entry = self.queue[place]
            slot: _EntryRef[E] = entry.slot  # type: ignore[attr-defined]
            if waiter.entry is not None or slot.hollow or not slot.counted:
                return False
            # As in _next(): one line, so that nothing is ever between the
            # two, and unless a handler was faster.
            if self.queue[place] is entry: del self.queue[place]; waiter.entry = entry  # fmt: skip  # noqa: E501
        except IndexError:
            return False
        if waiter.entry is None:
            return False
        self._waited_for(waiter)
        # in the order of _serve()
        waiter.wake()
        self._waiters.popleft()
        return not self.queue

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

    def _pick_up(self, entry: E) -> None:
        """An idle entry does not count: is there room for it?"""
        if self._remove(entry, None):
            self._inbox.append((entry, -1))
