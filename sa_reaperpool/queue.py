"""Idle entries, the threads that wait for one, and the limit.

The queue knows nothing of connections.  It is five rooms, each on top of
the next: here are its verbs, in returns.py what comes back, in newcomers.py
who need not stand in line, in line.py who waits and how they are served, and
in slots.py which entries count, their states and the limits.

Most verbs are a critical section, which moves what is to be moved, and
after it a look at what came in meanwhile.  What moves it is a function that
is called with the lock held, in one of the other rooms; they say who may
move what.

The lock lets its own thread in again: a signal's handler, or a finaliser,
may check out in the middle of a section.  So no section relies on what it
saw in ``queue`` a line ago, or on room that there was then; what is looked
at and taken is so on one line, in which the interpreter runs no handler.

The usual checkout and the usual return do without the lock, and without a
call: they are written out in adapter/, in ``connect()`` and ``close()``.
The one takes an idle entry where nobody waits, or newcomers are let in, the
other is :meth:`.lay`.

Critical sections are single lines, ``with lock: call()``, on purpose.  A
trace function or debugger that raises at the line of a ``with`` statement
when that is left for the second time would leave the lock held; a block
on the same line has no second time.
"""

from __future__ import annotations

from time import monotonic
from typing import Callable

from .returns import Returns
from .slots import E
from .waiter import GONE
from .waiter import Waiter


class FairQueue(Returns[E]):
    """Hands out entries, first come, first served, up to a limit.

    :param make: makes an entry; called under the lock, so it must be quick.

    :param surplus: called, with no lock held, with each entry that was put
     back while ``maxsize`` others were idle, or that :meth:`.resize` or
     :meth:`.close` made superfluous; the entry counts until it is discarded.

    :param maxsize: how many idle entries are kept; 0 for any number.

    :param limit: how many entries may live at once; None for any number.

    :param max_making: how many may be made at once; None for any number.

    :param use_lifo: serve the idle entry that was put back last, not first.

    :param greenlets: are those who wait greenlets, and not threads?  Then
     nobody is ever let in before them, see newcomers.py.

    :param waits: where those who waited are counted.

    """

    # looking

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

    def line(self) -> list[Waiter]:
        """Who waits and has not been served, in order, as a copy."""
        with self._lock: line = self._unserved()  # fmt: skip
        self._tidy()
        return line

    # taking

    def get_nowait(self) -> E | None:
        """An idle entry, or a new one, or None when the limit is reached.

        Nobody who waits is overtaken: while someone waits, it is None.
        """
        # a look without the lock, since it is mostly in vain
        if self._waiters or not (
            self.queue or self._inbox or self._errands or self._may_serve()
        ):
            return None
        entry = None
        try:
            with self._lock: entry = self._unless_awaited()  # fmt: skip
            self._tidy()
            return entry
        except BaseException:
            if entry is not None:
                self.put(entry)
            raise

    def get(
        self, timeout: float | None = None, waiter: Waiter | None = None
    ) -> E | None:
        """As :meth:`.get_nowait`, but wait in line.

        :param timeout: seconds; None for as long as it takes.

        :param waiter: who waits, and on what terms.

        :return: None when the time is up, or the queue is closed, or it was
         turned away.

        """
        if waiter is None:
            waiter = Waiter()
        if waiter.most is None:
            return self._wait(waiter, timeout, self._waiters.append)
        return self._wait(waiter, timeout, self._line_up_if_allowed)

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
        return self._wait(waiter, timeout, self._makers.append) is entry

    def exchange(self, entry: E, timeout: float | None = None) -> E | None:
        """Give back an entry that has to be made anew, and wait, as first.

        :return: one that is made, or one whose turn it is to be made, maybe
         this very entry; None as from :meth:`.get`.

        """

        def line_up(waiter: Waiter) -> None:
            with self._lock: self._swap(entry, waiter)  # fmt: skip

        return self._wait(Waiter(), timeout, line_up)

    def _line_up_if_allowed(self, waiter: Waiter) -> None:
        with self._lock: self._line_up(waiter)  # fmt: skip

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
        line_up: Callable[[Waiter], object],
    ) -> E | None:
        if self._lock._is_owned():  # type: ignore[attr-defined]
            # A signal's handler, or a finaliser, in the middle of one of
            # the sections here: its thread would sleep with the lock.
            return None
        try:
            # In this order: who gives something back without the lock looks
            # for waiters after it.
            line_up(waiter)
            if (
                waiter.own is not None
                or self.queue
                or self._inbox
                or self._errands
                or self._may_serve()
            ):
                self.settle()
            if waiter.entry is None:
                waiter.taken()
            waiter.sleep(timeout)
            while waiter.entry is None:
                # called to look for itself, or for nothing; or its time is up
                self.settle()
                left = waiter.left(timeout)
                if left is not None and left <= 0:
                    break
                if waiter.entry is None:
                    waiter.sleep(left)
            if waiter.entry is None:
                with self._lock: self._leave(waiter)  # fmt: skip
                self._tidy()
                self._pass_on()
            return None if waiter.entry is GONE else waiter.entry
        except BaseException:
            with self._lock: self._leave(waiter)  # fmt: skip
            if waiter.entry is not GONE and waiter.own is None:
                self.put(waiter.entry)
            # whatever it was about to do for others
            self.settle()
            raise

    def _pass_on(self) -> None:
        """Who leaves may have been called for what others wait for."""
        if self.queue and self._waiters:
            self.settle()

    def leave_if(self, waiter: Waiter, due: Callable[[], bool]) -> bool:
        """Leave the line if this says so; nobody moves between the two.

        :param due: called under the lock, so it must be quick.

        :return: False if it says no, or if the waiter was served.

        """
        with self._lock: left = self._leave_if(waiter, due)  # fmt: skip
        self._tidy()
        self._pass_on()
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

    # for good

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
