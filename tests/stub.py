"""A driver that opens nothing, and threads that tests can hold by the hand.

Nothing here waits for time to pass: threads meet at gates, and whatever
must come true within :data:`PATIENCE` fails the test if it does not.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager

from sqlalchemy.engine.default import DefaultDialect

PATIENCE = 20.0
"""Seconds after which something that should happen counts as hanging."""


class StubError(Exception):
    """What the stub driver raises when told to."""


class Gate:
    """A place where a thread stops until the test lets it go on.

    :param error: raised by whoever passes, if given.

    """

    def __init__(self, error=None):
        self.error = error
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, *args, **kwargs):
        self.reached.set()
        assert self.opened.wait(PATIENCE), "nobody opened the gate"
        if self.error is not None:
            raise self.error

    def wait(self):
        assert self.reached.wait(PATIENCE), "nobody came to the gate"

    def open(self):
        self.opened.set()


class Task(threading.Thread):
    """A thread whose outcome can be asked for."""

    def __init__(self, function, *args, **kwargs):
        super().__init__(daemon=True)
        self._call = (function, args, kwargs)
        self._outcome = None
        self._error = None
        self.start()

    def run(self):
        function, args, kwargs = self._call
        del self._call
        try:
            self._outcome = function(*args, **kwargs)
        except BaseException as error:
            self._error = error

    def result(self):
        """Wait for its end; return what it returned, raise what it raised."""
        self.join(PATIENCE)
        assert not self.is_alive(), "the thread hangs"
        if self._error is not None:
            raise self._error
        return self._outcome


def until(condition):
    """Wait for what another thread is about to make true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.0005)


class HookedLock:
    """A queue's lock, and what happens while it is held."""

    def __init__(self):
        self.lock = threading.RLock()
        self.hooks = {}

    def __enter__(self):
        self.lock.acquire()
        self.hooks.pop("begin", int)()

    def __exit__(self, *args):
        self.hooks.pop("end", int)()
        self.lock.release()

    def _is_owned(self):
        return self.lock._is_owned()


@contextmanager
def switching_often():
    """Have threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Cursor:
    closed = False

    def execute(self, statement, *args):
        pass

    def close(self):
        self.closed = True


def execute(handle):
    """Begin, on a handle."""
    cursor = handle.cursor()
    cursor.execute("SELECT 1")
    cursor.close()


class Connection:
    """A DBAPI connection that only writes down what is done to it."""

    def __init__(self, driver, number):
        self.driver = driver
        self.number = number
        self.closed = False
        self.calls = []

    def __repr__(self):
        return f"<connection {self.number}>"

    def cursor(self):
        self.calls.append("cursor")
        return Cursor()

    def rollback(self):
        self.calls.append("rollback")
        self.driver.when_reset(self)

    def commit(self):
        self.calls.append("commit")

    def close(self):
        self.driver.when_closed(self)
        self.driver.count_close(self)


class SocketConnection(Connection):
    """One that has a socket, whose other end the test has."""

    def __init__(self, driver, number, sock):
        super().__init__(driver, number)
        self.sock = sock

    def fileno(self):
        return self.sock.fileno()


class Driver:
    """Opens stub connections; its next connects can be told what to do."""

    def __init__(self):
        self.connections = []
        self.connects = 0
        self.most_open = 0
        self._open = 0
        self._counting = threading.Lock()
        self.when_reset = self.when_closed = lambda connection: None
        self._turns = deque()
        self._numbers = itertools.count(1)

    def then(self, *turns):
        """Each of the next connects calls one of these first; None: none."""
        self._turns.extend(turns)

    def connect(self):
        self.connects += 1
        turn = self._turns.popleft() if self._turns else None
        if isinstance(turn, BaseException):
            raise turn
        if turn is not None:
            turn()
        connection = self.make(next(self._numbers))
        with self._counting:
            self.connections.append(connection)
            self._open += 1
            self.most_open = max(self.most_open, self._open)
        return connection

    def count_close(self, connection):
        with self._counting:
            self._open -= not connection.closed
            connection.closed = True

    def make(self, number):
        return Connection(self, number)

    @property
    def open_ones(self):
        return [each for each in self.connections if not each.closed]


class StubDialect(DefaultDialect):
    """Lets a pool look and ping as if it belonged to an engine."""

    def __init__(self):
        super().__init__()
        self.pings = []
        self.dead = set()

    def do_ping(self, dbapi_connection):
        self.pings.append(dbapi_connection.number)
        return dbapi_connection.number not in self.dead


def in_ended_thread(function, *args, **kwargs):
    """Call it in a thread that has ended when this returns."""
    return Task(function, *args, **kwargs).result()
