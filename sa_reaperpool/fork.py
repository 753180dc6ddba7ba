"""What a forked child does with its parent's pools: it starts them empty.

The child's copies of the parent's connections share their sockets with the
parent.  So the child never uses, resets, closes or hands out any of them;
it keeps them, for the end of a connection's last reference closes it too.
Handles that were out at the fork raise ConnectionReclaimed in the child.

As the child begins, the thread-local values of its parent's other threads
are destroyed, before any hook runs in it.  Among them are the seats of
holders, and may be handles.  So from *before* the fork until both sides
are through, the end of a holder is nobody's death, and a collected handle
is not returned.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

from . import holder
from .reaper import reaper

_pools: weakref.WeakSet[Any] = weakref.WeakSet()
_inherited: list[object] = []


def register(pool: Any) -> None:
    """Have a pool's ``forked()`` called in each forked child."""
    _pools.add(pool)


def _before() -> None:
    holder.set_inert(True)


def _in_parent() -> None:
    holder.set_inert(False)
    # for those that did end meanwhile
    reaper.holder_ended()


def _in_child() -> None:
    for pool in list(_pools):
        _inherited.append(pool.forked())
    reaper.restart()
    holder.set_inert(False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_in_parent, after_in_child=_in_child
    )
