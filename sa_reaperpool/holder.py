"""Who holds a connection, and the moment that he ends.

A :class:`.Holder` stands for a thread.  Ident numbers are used again, and
``Thread.is_alive()`` stays true for ever for threads that Python did not
start, so neither tells whether a thread lives.  What does is a thread-local
value: the thread state owns it, and drops it as the thread's last act.  The
holder refers to that value weakly, and is alive for as long as it is there.

The end of a thread takes a while: its thread-local values are dropped one by
one, and each may have a finaliser that uses the pool.  By then the thread
has a new, empty set of them, which nobody will ever drop.  What it sits down
on in that state is left to its context, which ends as its very last.  One
that sits down for the first time then cannot be told from a thread that
threading does not know; of such Linux is asked whether they are there.

Under gevent's monkey patching ``threading.local`` belongs to the greenlet,
and so does the holder.  There the value goes with a greenlet of gevent's own
kind when that ends, but with a raw one only once nobody refers to it, so
that this is asked whether it is dead as well.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from contextvars import ContextVar
from typing import Any
from typing import Callable

from .process import forked


class _Seat:
    """What the thread state owns: while it exists, so does the thread."""

    __slots__ = ("__weakref__",)


class _LastSeat(_Seat):
    """That of a thread whose thread-local values are being dropped."""

    __slots__ = ("thread", "holder")

    def __init__(self) -> None:
        # the system's number, which is not used again as soon as the other
        self.thread = threading.get_native_id()
        self.holder: Holder | None = None


class Holder:
    """A thread or greenlet."""

    __slots__ = ("_name", "_thread", "_seat", "_greenlet", "_task", "waits")

    waits: bool
    """Does it stand in line, as far as that is known?  It may have left."""

    def __init__(self, seat: _Seat, thread: threading.Thread | None):
        self.waits = False
        self._thread = None if thread is None else weakref.ref(thread)
        self._greenlet = _greenlet()
        self._task = _task() if thread is None and NATIVE else None
        self._name = (
            _name_of(self._greenlet) if thread is None else thread.name
        )
        self._seat = weakref.ref(seat, _seat_vacated)

    def be_asked_nothing(self) -> None:
        """The system does not know the thread as it did."""
        self._task = None

    @property
    def known(self) -> bool:
        """Did threading know the thread?"""
        return self._thread is not None

    @property
    def alive(self) -> bool:
        if self._seat() is None:
            return False
        if self._task is not None and _gone(self._task):
            return False
        if self._greenlet is None:
            return True
        greenlet = self._greenlet()
        return greenlet is not None and not greenlet.dead

    @property
    def name(self) -> str:
        """The thread's, as it is now: servers name theirs by the request."""
        thread = None if self._thread is None else self._thread()
        if thread is not None:
            self._name = thread.name
        return self._name

    def __repr__(self) -> str:
        return f"<Holder {self.name} {'alive' if self.alive else 'ended'}>"


here = threading.local()
"""Each thread's ``seat``, and the ``holder`` that stands for it."""

NATIVE = type(here).__module__ == "_thread"
"""Are these a thread's, and not a greenlet's?"""

_seated: dict[int, Holder] = {}
"""Who has a seat, by the number of its thread."""

_last_seat: ContextVar[_LastSeat] = ContextVar("sa_reaperpool last seat")

_listeners: list[Callable[[], None]] = []


def current() -> Holder:
    """The holder that stands for the calling thread or greenlet."""
    try:
        return here.holder  # type: ignore[no-any-return]
    except AttributeError:
        return _sit_down()


def _sit_down() -> Holder:
    ident = threading.get_ident()
    thread = _this_thread()
    holder = _ending(ident) if thread is None and NATIVE else None
    if holder is None:
        seat = _Seat()
        holder = Holder(seat, thread)
        mine = here.__dict__
        if "holder" in mine:
            # a finaliser's meanwhile
            return here.holder  # type: ignore[no-any-return]
        # in one step: a seat without a holder would be given up, as if its
        # thread ended
        mine.update(seat=seat, holder=holder)
        _seated[ident] = holder
    return holder


def _ending(ident: int) -> Holder | None:
    """Who stands for a thread that threading does not know, if it is ending.

    Only where that is certain: who counts as ended may lose what he uses.
    """
    # It was one of threading's, and is not any more; while its old values
    # are still there, no other thread has its number.
    holder = _seated.get(ident)
    if holder is not None and holder.known and holder.alive:
        return holder
    # Its context is its own.  A copy in another thread, whose number is
    # another one, tells that nothing.
    seat = _last_seat.get(None)
    if seat is None or seat.thread != threading.get_native_id():
        return None
    if seat.holder is None:
        seat.holder = Holder(seat, None)
    return seat.holder


def settle_in() -> None:
    """In a forked child: of its parent's threads this one goes on.

    The system has it under another number.
    """
    _seated.clear()
    holder = here.__dict__.get("holder")
    if holder is not None:
        holder.be_asked_nothing()
        _seated[threading.get_ident()] = holder


def listen(when_one_ends: Callable[[], None]) -> None:
    """Have a function called whenever a holder ends.

    It is called in the dying thread, when little of that works any more:
    it may append to something and wake somebody, and no more than that.
    """
    _listeners.append(when_one_ends)


def _seat_vacated(ref: weakref.ref[_Seat]) -> None:
    # At interpreter exit the names of this module may be gone already.  A
    # child's copies of its parent's other threads end as the child begins,
    # and that is nobody's death.
    if _listeners and not forked():
        if NATIVE:
            _leave(threading.get_ident())
        for listener in _listeners:
            listener()


def _leave(ident: int) -> None:
    """The calling thread has no seat any more; it may need a last one."""
    holder = _seated.pop(ident, None)
    if holder is not None:
        _last_seat.set(_LastSeat())


def _greenlet() -> weakref.ref[Any] | None:
    """The greenlet whose values here has, if they are a greenlet's."""
    module = sys.modules.get("greenlet")
    if module is None or NATIVE:
        return None
    return weakref.ref(module.getcurrent())


_TASKS = "/proc/self/task"


def _task() -> str | None:
    """Where Linux has the calling thread for as long as it is there."""
    path = f"{_TASKS}/{threading.get_native_id()}"
    return path if os.path.exists(path) else None


def _gone(task: str) -> bool:
    # a daemon may have changed its root directory meanwhile
    return not os.path.exists(task) and os.path.exists(_TASKS)


def _name_of(greenlet: weakref.ref[Any] | None) -> str:
    """Of the greenlet or thread that runs, of which threading knows none."""
    # gevent's own greenlets have one
    name = None if greenlet is None else getattr(greenlet(), "name", None)
    return str(name or f"thread {threading.get_ident()}")


def _this_thread() -> threading.Thread | None:
    # not current_thread(): for a thread that Python did not start that
    # creates an entry which stays for ever
    ident = threading.get_ident()
    for thread in threading.enumerate():
        if thread.ident == ident:
            return thread
    return None
