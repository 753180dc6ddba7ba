"""Who holds a connection, and the moment that he ends.

A :class:`.Holder` stands for a thread.  Ident numbers are used again, and
``Thread.is_alive()`` stays true for ever for threads that Python did not
start, so neither tells whether a thread lives.  What does is a thread-local
value: the thread state owns it, and drops it as the thread's last act.  The
holder refers to that value weakly, and is alive for as long as it is there.

Under gevent's monkey patching ``threading.local`` belongs to the greenlet,
and so does the holder.  There the value goes with a greenlet of gevent's own
kind when that ends, but with a raw one only once nobody refers to it, so
that this is asked whether it is dead as well.
"""

from __future__ import annotations

import sys
import threading
import weakref
from typing import Any
from typing import Callable

from .process import forked


class _Seat:
    """What the thread state owns: while it exists, so does the thread."""

    __slots__ = ("__weakref__",)


class Holder:
    """A thread or greenlet."""

    __slots__ = ("_name", "_thread", "_seat", "_greenlet", "place")

    place: Any
    """Where it stands in line, as far as it is known to; what stands there
    may have left already."""

    def __init__(self, seat: _Seat):
        self.place = None
        thread = _this_thread()
        self._thread = None if thread is None else weakref.ref(thread)
        self._greenlet = _greenlet()
        self._name = (
            _name_of(self._greenlet) if thread is None else thread.name
        )
        self._seat = weakref.ref(seat, _seat_vacated)

    @property
    def alive(self) -> bool:
        if self._seat() is None:
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

_listeners: list[Callable[[], None]] = []


def current() -> Holder:
    """The holder that stands for the calling thread or greenlet."""
    try:
        return here.holder  # type: ignore[no-any-return]
    except AttributeError:
        return _sit_down()


def _sit_down() -> Holder:
    seat = _Seat()
    holder = Holder(seat)
    here.seat = seat
    here.holder = holder
    return holder


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
        for listener in _listeners:
            listener()


def _greenlet() -> weakref.ref[Any] | None:
    """The greenlet whose values here has, if they are a greenlet's."""
    module = sys.modules.get("greenlet")
    if module is None or type(here).__module__ == "_thread":
        return None
    return weakref.ref(module.getcurrent())


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
