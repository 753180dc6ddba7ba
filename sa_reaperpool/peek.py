"""A look at a socket in the midst of a checkout.

The functions of Python's modules let go of the interpreter for each system
call, as one may wait; and a thread that has let go of it, where others want
it as well, has it back only after these.  That was most of what a checkout
cost in a process whose threads are busy, and more than the ping it spares.
A poll() with no time to wait returns at once, so it is called here by way of
ctypes, which can keep the interpreter; where there is no such function, by
the module ``select``.
"""

from __future__ import annotations

import select
from typing import Any
from typing import Callable

try:
    import ctypes
except ImportError:
    ctypes = None  # type: ignore[assignment]

# Linux tells by POLLRDHUP that the peer closed while data is unread
GONE: int = (
    getattr(select, "POLLHUP", 0)
    | getattr(select, "POLLERR", 0)
    | getattr(select, "POLLNVAL", 0)
    | getattr(select, "POLLRDHUP", 0)
)


_MOST = 2**31 - 1


def _system_poll() -> Any:
    """The C library's poll(), called with the interpreter kept; or None."""
    try:
        # what the process itself has loaded; Windows tells of no such thing
        return ctypes.PyDLL(None).poll if hasattr(select, "poll") else None
    except (AttributeError, OSError, TypeError):
        return None


def _module_poll(asked: Any, number: int, wait: int) -> object:
    if not isinstance(asked, int):
        return asked.poll(wait)
    readable, _, _ = select.select([asked], [], [], wait)
    return readable


_poll = _system_poll()

poll: Callable[[Any, int, int], object] = _poll or _module_poll
"""``poll(asked, 1, 0)`` looks: something true if there is something to be
seen, or if it cannot look.  Called with numbers as they are, since each
object of ctypes' would be one more to be made and one more to be kept."""

if _poll is not None:

    class _Asked(ctypes.Structure):
        """struct pollfd"""

        _fields_ = [
            ("fd", ctypes.c_int),
            ("events", ctypes.c_short),
            ("revents", ctypes.c_short),
        ]


def at(number: int) -> Any:
    """A descriptor, for :data:`.poll`; for one thread at a time.

    There is one for each connection, so it is small.

    :raises ValueError: there is no descriptor of that number.

    """
    if not 0 <= number <= _MOST:
        # which poll() passes over
        raise ValueError(f"{number} is no descriptor's number")
    if _poll is not None:
        return ctypes.byref(_Asked(number, select.POLLIN | GONE))
    return poll_of(number) if hasattr(select, "poll") else number


def poll_of(number: int) -> Any:
    """A poll object, which serves one thread at a time."""
    poll = select.poll()
    poll.register(number, select.POLLIN | GONE)
    return poll
