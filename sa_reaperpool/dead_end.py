"""The child's ends of its parent's sockets: they are made to lead nowhere.

A forked child has a descriptor of each socket of its parent's.  Its handles
are fenced, but not what was taken out of them: a cursor whose block the
child leaves, a driver's finaliser that reads a result to its end, a raw
connection.  So each of these descriptors is made one of a socket whose peer
is gone.  Whatever a driver then does in the child fails as with a server
that has vanished; nothing is sent, and nothing is taken from the parent,
whose own descriptors are others.

A driver's number may be out of date: another thread may have closed the
socket just before the fork, so that the number is another file's.  So what
it is a number of is noted when a connection is opened, and looked at before
anything is done to it.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable
from typing import Any

from . import liveness

Socket = int | tuple[Any, Any]
"""Which socket something is, among all of the system's."""


def socket_of(driver_connection: Any) -> Socket | None:
    """Which socket this speaks through; None without one."""
    number_of = liveness.descriptor(driver_connection)
    if number_of is None:
        return None
    try:
        return _named(number_of())
    except Exception:
        return None


def _named(number: int) -> Socket | None:
    state = os.fstat(number)
    if not stat.S_ISSOCK(state.st_mode):
        return None
    if state.st_ino:
        return state.st_ino
    # macOS does not number them
    it = socket.socket(fileno=number)
    try:
        return it.getsockname(), it.getpeername()
    finally:
        it.detach()


def cut_off(inherited: Iterable[tuple[Any, Socket | None]]) -> None:
    """In a forked child: never reach what these speak to.

    :param inherited: drivers' connections, each with what
     :func:`.socket_of` told once it was opened.

    """
    try:
        dead_end, peer = socket.socketpair()
    except OSError:
        # no descriptor is left: what is fenced is fenced
        return
    peer.close()
    with dead_end:
        for driver_connection, known in inherited:
            if known is None or socket_of(driver_connection) != known:
                continue
            number_of = liveness.descriptor(driver_connection)
            if number_of is not None:
                os.dup2(dead_end.fileno(), number_of(), inheritable=False)
