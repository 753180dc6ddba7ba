"""What runs on a connection is ended before that is closed."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from stub import Task

from sa_reaperpool.cancel import end_command


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
