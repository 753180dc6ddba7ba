"""A forked child's descriptors of its parent's sockets lead nowhere."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from forks import Child
from forks import branch
from forks import in_a_child
from stub import PATIENCE
from stub import Connection
from stub import Driver

from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import ReaperPool
from sa_reaperpool import dead_end

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


class Speaking(Connection):
    """One that has a socket, as a driver's."""

    def __init__(self, driver, number):
        super().__init__(driver, number)
        listener = driver.listener
        self.sock = socket.create_connection(listener.getsockname())
        self.server = listener.accept()[0]
        self.server.settimeout(PATIENCE)

    def fileno(self):
        return self.sock.fileno()

    def ask(self):
        """What the server hears."""
        self.sock.sendall(b"hello")
        return self.server.recv(5)


class SpeakingDriver(Driver):
    def __init__(self, listener):
        super().__init__()
        self.listener = listener

    def make(self, number):
        return Speaking(self, number)


@pytest.fixture
def pool():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield ReaperPool(
            SpeakingDriver(listener).connect,
            pool_size=3,
            reaping_frequency=None,
        )


def spoken(raw):
    """What comes of it where a driver uses a connection after all."""
    said = []
    for part in (lambda: raw.sock.recv(5), lambda: raw.sock.sendall(b"no")):
        try:
            said.append(part().decode())
        except OSError as error:
            said.append(type(error).__name__)
    return said


def test_what_is_leased_and_what_is_idle(pool):
    held, idle = pool.connect(), pool.connect()
    connections = [held.dbapi_connection, idle.dbapi_connection]
    idle.close()
    for raw in connections:
        # to be read by the parent alone
        raw.server.sendall(b"world")

    def child():
        return [spoken(raw) for raw in connections]

    assert in_a_child(child) == [["", "BrokenPipeError"]] * 2
    for raw in connections:
        assert raw.sock.recv(5) == b"world"
        assert raw.ask() == b"hello"
    held.close()


def test_what_was_out_at_a_dispose(pool):
    held = pool.connect()
    raw = held.dbapi_connection
    pool.dispose()
    assert in_a_child(lambda: spoken(raw)) == ["", "BrokenPipeError"]
    assert raw.ask() == b"hello"
    held.close()


def test_what_left_the_pool_is_its_holders(pool):
    held = pool.connect()
    raw = held.dbapi_connection
    held.detach()

    def child():
        raw.sock.sendall(b"child")
        return raw.server.recv(5).decode()

    assert in_a_child(child) == "child"


def test_a_close_by_the_parent_is_seen_while_the_child_lives(pool):
    held = pool.connect()
    raw = held.dbapi_connection
    gate = os.pipe()
    child = branch()
    if not isinstance(child, Child):
        os.close(gate[1])
        # until the parent has seen it
        os.read(gate[0], 1)
        child("ended")
    # here as well, the child would have kept it open
    raw.sock.close()
    assert raw.server.recv(5) == b""
    os.close(gate[1])
    assert child.result() == "ended"


@pytest.mark.parametrize("other", ["pipe", "socket"])
def test_a_number_that_belongs_to_another_file_by_now(pool, other):
    """Its driver's close was under way in another thread."""
    held = pool.connect()
    raw = held.dbapi_connection
    if other == "pipe":
        reads, writes = os.pipe()
    else:
        here, there = socket.socketpair()
        reads, writes = here.detach(), there.detach()
    os.dup2(writes, raw.sock.fileno(), inheritable=False)

    def child():
        return os.write(raw.sock.fileno(), b"the application's")

    assert in_a_child(child) == 17
    assert os.read(reads, 17) == b"the application's"
    raw.sock.detach()
    os.close(reads)
    os.close(writes)


def test_the_descriptor_is_not_inherited_by_programs(pool):
    held = pool.connect()
    number = held.dbapi_connection.fileno()
    assert not in_a_child(lambda: os.get_inheritable(number))
    held.close()


def test_a_child_that_can_open_nothing(pool, monkeypatch):
    held = pool.connect()

    def none_left(*args):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(dead_end.socket, "socketpair", none_left)

    def child():
        with pytest.raises(ConnectionReclaimed):
            held.cursor()
        monkeypatch.undo()
        return pool.connect().dbapi_connection.number

    assert in_a_child(child) == 2
    assert held.dbapi_connection.ask() == b"hello"
    held.close()


def test_without_a_socket():
    assert dead_end.socket_of(Driver().connect()) is None
    with open(os.devnull) as file:
        assert dead_end.socket_of(file) is None


def test_a_system_that_does_not_number_sockets(pool, monkeypatch):
    """As macOS: they are told by who speaks there with whom."""

    def unnumbered(number, real=os.fstat):
        state = list(real(number))
        state[1] = 0
        return os.stat_result(state)

    monkeypatch.setattr(dead_end.os, "fstat", unnumbered)
    held = pool.connect()
    raw = held.dbapi_connection
    assert in_a_child(lambda: spoken(raw)) == ["", "BrokenPipeError"]
    assert raw.ask() == b"hello"
    held.close()
