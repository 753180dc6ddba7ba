"""Forking, with what a child says told to its parent, and a hang shown."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import tempfile
import traceback
from multiprocessing.connection import wait

from stub import PATIENCE
from stub import Connection
from stub import Driver

from sa_reaperpool import ReaperPool


class Child:
    """A forked child, seen by its parent."""

    def __init__(self, pid, told, traces):
        self.pid = pid
        self._told = told
        self._traces = traces

    def result(self, within=PATIENCE):
        """What it gave.

        :raises AssertionError: it failed, or it hangs: where its threads
         stand is in the message.

        """
        text = ""
        hangs = False
        while True:
            if not wait([self._told], within):
                hangs = True
                os.kill(self.pid, signal.SIGUSR2)
                # a moment for it to write its stacks down
                wait([self._told], 1)
                os.kill(self.pid, signal.SIGKILL)
                break
            part = os.read(self._told, 65536).decode()
            if not part:
                break
            text += part
        _, status = os.waitpid(self.pid, 0)
        os.close(self._told)
        self._traces.seek(0)
        trace = self._traces.read().decode()
        self._traces.close()
        assert not hangs, f"the child hangs\n{trace}"
        told = json.loads(text) if text else {"error": f"ended: {status}"}
        assert "error" not in told, f"in the child: {told['error']}"
        return told["result"]


def branch():
    """Fork: a Child in the parent, and in the child what tells its parent.

    That is a function which is given the result, and does not return.
    """
    told, tell = os.pipe()
    traces = tempfile.TemporaryFile()
    pid = os.fork()
    if pid:
        os.close(tell)
        return Child(pid, told, traces)
    faulthandler.register(signal.SIGUSR2, file=traces, all_threads=True)

    def end(result=None, error=None):
        answer = {"result": result} if error is None else {"error": error}
        with contextlib.suppress(OSError):
            os.write(tell, json.dumps(answer).encode())
        # no clean-up: what is open in this process is its parent's
        os._exit(0)

    return end


def forked(work, *args):
    """A child that does this work, and tells its result."""
    side = branch()
    if isinstance(side, Child):
        return side
    try:
        side(work(*args))
    except BaseException:
        side(error=traceback.format_exc())


def in_a_child(work, *args):
    """What this gives in a forked child."""
    return forked(work, *args).result()


class Talking(Connection):
    """A connection that tells its server of all that is done to it.

    Of its end as well, as mysqlclient's do.
    """

    def __init__(self, driver, number):
        super().__init__(driver, number)
        self.sock, self.server = socket.socketpair()
        self.server.setblocking(False)

    def cursor(self):
        self.sock.send(b"cursor ")
        return super().cursor()

    def rollback(self):
        self.sock.send(b"rollback ")
        super().rollback()

    def commit(self):
        self.sock.send(b"commit ")
        super().commit()

    def close(self):
        self.sock.send(b"close ")
        super().close()

    def __del__(self):
        with contextlib.suppress(Exception):
            self.sock.send(b"end ")


class TalkingDriver(Driver):
    def __init__(self):
        super().__init__()
        self.servers = []

    def make(self, number):
        connection = Talking(self, number)
        self.servers.append(connection.server)
        return connection

    def heard(self):
        """What the servers were told since they were asked last."""
        return "".join(map(_read, self.servers)).split()


def _read(server):
    with contextlib.suppress(BlockingIOError):
        return server.recv(65536).decode()
    return ""


def a_pool(driver, poolclass=ReaperPool, **options):
    options = {"pool_size": 3, "max_overflow": 0, "timeout": 15, **options}
    if poolclass is ReaperPool:
        options.setdefault("reaping_frequency", None)
    return poolclass(driver.connect, **options)


def numbers(pool, count=3):
    """The connections that so many checkouts at a time get."""
    handles = [pool.connect() for _ in range(count)]
    found = [handle.dbapi_connection.number for handle in handles]
    for handle in handles:
        handle.close()
    return found
