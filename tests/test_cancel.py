"""What runs on a connection is ended before that is closed."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace

import pytest
from stub import Connection
from stub import Driver
from stub import Task

from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import ReaperPool
from sa_reaperpool import cancel
from sa_reaperpool.cancel import end_command
from sa_reaperpool.cancel import finish_alone


class Running:
    """As psycopg's: a command runs under its lock."""

    def __init__(self):
        self.lock = threading.Lock()
        self.info = SimpleNamespace(transaction_status=1)
        self.begun = threading.Event()
        self.ordered = threading.Event()
        self.left = False

    def run(self):
        with self.lock:
            self.begun.set()
            assert self.ordered.wait(20)
            # it has the answer, and works on that
            self.info.transaction_status = 3
            self.left = True

    def cancel(self):
        self.ordered.set()


def test_who_runs_it_has_left_when_it_is_ended():
    connection = Running()
    running = Task(connection.run)
    assert connection.begun.wait(20)
    assert end_command(connection)
    assert connection.left and not connection.lock.locked()
    running.result()


def test_nothing_runs():
    connection = Running()
    connection.info.transaction_status = 0
    assert not end_command(connection)
    assert not connection.ordered.is_set()


class Driven(Running):
    """As psycopg's, with what its close() frees."""

    def __init__(self):
        super().__init__()
        self.sock, self.server = socket.socketpair()
        self.pgconn = SimpleNamespace(finish=self.finish)
        self.finished = []

    def fileno(self):
        return self.sock.fileno()

    def run(self):
        with self.lock:
            self.begun.set()
            assert self.sock.recv(1) == b""

    def finish(self):
        self.finished.append(self.lock.locked())

    def rollback(self):
        pass

    cursor = rollback

    def close(self):
        raise AssertionError("it is in use")


@pytest.fixture
def driven():
    connection = Driven()
    yield connection
    connection.sock.close()
    connection.server.close()


def test_it_is_finished_while_nobody_else_can_use_it(driven):
    assert finish_alone(driven)
    assert driven.finished == [True]
    assert not driven.lock.locked()


def test_who_uses_it_by_then_is_cut_off(driven):
    running = Task(driven.run)
    assert driven.begun.wait(20)
    assert finish_alone(driven)
    assert driven.finished == [True]
    running.result()


def test_what_is_used_on_is_not_closed(driven, monkeypatch):
    monkeypatch.setattr(cancel, "PATIENCE", 0.01)
    with driven.lock:
        assert not finish_alone(driven)
    assert driven.finished == []
    assert driven.server.recv(1) == b""


def test_who_is_interrupted_leaves_it_unlocked(driven):
    driven.pgconn.finish = interrupt
    with pytest.raises(KeyboardInterrupt):
        finish_alone(driven)
    assert not driven.lock.locked()


def interrupt():
    raise KeyboardInterrupt


def test_what_another_pool_gets_back_is_not_finished(driven):
    driven._pool = SimpleNamespace(close_returns=True)
    assert finish_alone(driven)
    assert driven.finished == []


def test_the_pool_does_not_close_what_is_used_on(driven, monkeypatch, caplog):
    monkeypatch.setattr(cancel, "PATIENCE", 0.01)
    pool = ReaperPool(lambda: driven, 1, 0, reaping_frequency=None)
    handle = pool.connect()
    with driven.lock:
        pool.disconnect()
    assert "does not come back from its driver" in caplog.text
    assert driven.finished == []
    assert (pool.checkedout(), pool.stats().closed) == (0, {"shutdown": 1})
    with pytest.raises(ConnectionReclaimed):
        handle.cursor()


def test_who_closes_it_in_a_way_of_his_own_gets_it_as_it_is(driven):
    pool = ReaperPool(lambda: driven, 1, 0, reaping_frequency=None)
    closed = []
    pool.disconnect_with(closed.append)
    handle = pool.connect()
    pool.disconnect()
    assert closed == [driven]
    assert driven.finished == []
    assert not handle.is_valid


class Reluctant(Connection):
    """Remote, as it were: it does not know what it has."""

    def __getattr__(self, name):
        raise RuntimeError(f"no such command: {name}")


def test_what_knows_no_lock_is_closed(caplog):
    driver = Driver()
    pool = ReaperPool(
        lambda: Reluctant(driver, 1), 1, 0, reaping_frequency=None
    )
    handle = pool.connect()
    connection = handle.driver_connection
    pool.disconnect()
    assert connection.closed
    assert "Exception" not in caplog.text
    assert pool.stats().closed == {"shutdown": 1}
    assert pool.in_others_hands == {}


class Slow(Running):
    """As psycopg2's, whose close() waits while its status tells nothing."""

    def __init__(self, sock):
        self.sock = sock

    def fileno(self):
        return self.sock.fileno()

    def rollback(self):
        pass

    cursor = rollback

    def close(self):
        assert self.sock.recv(1) == b""


def test_a_close_that_waits_is_cut_off(monkeypatch):
    monkeypatch.setattr(cancel, "PATIENCE", 0.04)
    ours, server = socket.socketpair()
    with ours, server:
        pool = ReaperPool(lambda: Slow(ours), 1, 0, reaping_frequency=None)
        handle = pool.connect()
        Task(pool.disconnect).result()
        assert not handle.is_valid
        assert server.recv(1) == b""
