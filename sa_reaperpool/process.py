"""Which process is this?

A forked child is asked for its number, and no flag is set for it: whatever
was set before a fork by another thread, which forks as well, is set or not
set in the child by chance.  The number is right from the child's first
moment on, and also where C code forked without Python's hooks.
"""

from __future__ import annotations

import os
from typing import Callable

number: int = os.getpid()
"""The process whose pools these are; set by fork.py alone."""

_getpid = os.getpid
_listeners: list[Callable[[], object]] = []


def forked() -> bool:
    """Is this a child that still has its parent's pools?

    In what it runs before fork.py's hook these are its parent's: finalisers
    of the other threads' thread-local values, for example.
    """
    return _getpid() != number


def listen(in_a_child: Callable[[], object]) -> None:
    """What :func:`.check` is to call in a child."""
    _listeners.append(in_a_child)


def check() -> None:
    """Before something is used that may be the parent's.

    For children in which the hook was not called.
    """
    if _getpid() != number:
        for listener in _listeners:
            listener()
