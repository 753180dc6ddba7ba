"""What a forked child does with its parent's pools: it starts them empty.

The child's copies of the parent's connections share their sockets with the
parent.  So the child never uses, resets, closes or hands out any of them;
it keeps them, for the end of a connection's last reference closes it too.
Handles that were out at the fork raise ConnectionReclaimed in the child.

As the child begins, the thread-local values of its parent's other threads
are destroyed, before any hook runs in it.  Among them are the seats of
holders, and may be handles.  So whatever is called then asks process.py
first, and does nothing in a process that has not emptied its pools.

Of the parent's threads none goes on in the child, but for the one that
forked; a lock that another held stays locked.  So nothing here takes a lock
of the parent's, and each is replaced.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from typing import Any

from . import holder
from . import process
from .reaper import reaper

# In the order in which they were made, each with its number.  A dictionary,
# since a copy of its keys is one step, whoever adds to it meanwhile.
_pools: dict[weakref.ref[Any], int] = {}
_numbers = itertools.count(1)
_lock = threading.RLock()
_inherited: list[object] = []
# Cursors that are not to end with the thread-local values, by the number of
# the thread that forks.
_held: dict[int, list[Any]] = {}


def register(pool: Any) -> None:
    """Have a pool's ``forked()`` called in each forked child."""
    ref = weakref.ref(pool, _forget)
    # while it lives: the hash of a dead referent cannot be had any more
    hash(ref)
    _pools[ref] = next(_numbers)


def _forget(
    ref: weakref.ref[Any], known: dict[weakref.ref[Any], int] = _pools
) -> None:
    # anywhere, any time; at interpreter exit the name may be gone already
    known.pop(ref, None)


def pools() -> list[Any]:
    """All pools of this process, oldest first; anywhere, any time."""
    return [pool for ref in list(_pools) if (pool := ref()) is not None]


def number(pool: Any) -> int:
    """Which pool of this process is this?  The first one is 1."""
    return _pools.get(weakref.ref(pool), 0)


def keep(inherited: object) -> None:
    """Never let this be collected: it is the parent's."""
    _inherited.append(inherited)


def catch_up() -> None:
    """Empty this process's pools, unless that is done."""
    with _lock: _catch_up()  # fmt: skip


def _catch_up() -> None:
    if not process.forked():
        return
    here = os.getpid()
    holder.settle_in()
    for pool in pools():
        if pool.process != here:
            pool.forked(here)
    keep(reaper.restart())
    process.settle_in(here)


def _before() -> None:
    """Hold what would speak as it ends in the child.

    PyMySQL's and mysqlclient's unbuffered cursors read their result to the
    end then: the parent's.  A handle asks which process it is in; these do
    not.
    """
    held = [cursor for pool in pools() for cursor in pool.open_cursors()]
    if held:
        _held[threading.get_ident()] = held


def _in_parent() -> None:
    _held.pop(threading.get_ident(), None)


def _in_child() -> None:
    global _lock
    interruption = None
    while True:
        try:
            # another thread of the parent may have held it
            _lock = threading.RLock()
            catch_up()
            # kept for ever by now
            _held.clear()
            break
        except Exception:
            # told by who uses a pool, and so tries again
            raise
        except BaseException as error:
            # a signal's: to be told when this is done
            interruption = error
    if interruption is not None:
        raise interruption


def _never_free(inherited: list[object]) -> None:
    """Keep it also when the interpreter ends, and frees all else.

    Some drivers then take leave of the server, in the parent's name.
    """
    try:
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
    except (ImportError, AttributeError):
        # no CPython, or one without ctypes: such drivers will
        pass


if hasattr(os, "register_at_fork"):
    _never_free(_inherited)
    process.listen(catch_up)
    os.register_at_fork(
        before=_before,
        after_in_parent=_in_parent,
        after_in_child=_in_child,
    )
