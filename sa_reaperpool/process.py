"""Which process is this?

A forked child has to know from its first moment on, before any hook runs in
it, and also where C code forked without Python's hooks; a flag that a hook
sets would be set or not by chance where another thread forks as well.  Its
number would tell, but to ask for that is a system call, which took a tenth
of a checkout.  So there is a page of memory that the kernel itself empties
in each child: :data:`page` begins with 1 in the process that the pools
belong to, and with 0 in a child of it that still has its parent's.  Where
the system has no such page, the number is asked for.
"""

from __future__ import annotations

import mmap
import os
from typing import Any
from typing import Callable

number: int = os.getpid()
"""The process whose pools these are; set by :func:`.settle_in` alone."""

_MADV_WIPEONFORK = 18
"""Linux's, from 4.14 on; the module mmap does not name it."""

_listeners: list[Callable[[], object]] = []


class _Asking:
    """In place of the page: asks for the process's number each time."""

    def __getitem__(self, index: int) -> int:
        return os.getpid() == number

    def __setitem__(self, index: int, value: int) -> None:
        pass


def _new_page() -> Any:
    try:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=flags)
        page.madvise(_MADV_WIPEONFORK)
    except (AttributeError, OSError, ValueError):
        # another system, or an old kernel
        return _Asking()
    page[0] = 1
    return page


page: Any = _new_page()
"""``page[0]`` is true unless :func:`.forked`."""


def forked() -> bool:
    """Is this a child that still has its parent's pools?

    In what it runs before fork.py's hook these are its parent's: finalisers
    of the other threads' thread-local values, for example.
    """
    return not page[0]


def settle_in(here: int) -> None:
    """This process has pools of its own now; called by fork.py alone."""
    global number
    number = here
    page[0] = 1


def listen(in_a_child: Callable[[], object]) -> None:
    """What :func:`.check` is to call in a child."""
    _listeners.append(in_a_child)


def check() -> None:
    """Before something is used that may be the parent's.

    For children in which the hook was not called.
    """
    if not page[0]:
        for listener in _listeners:
            listener()
