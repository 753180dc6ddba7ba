"""Clients that are no DBAPI connections, and pools of them."""

from __future__ import annotations

import itertools
import threading

from sa_reaperpool import ReaperPool


class Client:
    """It has neither close() nor rollback() nor cursor()."""

    def __init__(self, service, number):
        self.service = service
        self.number = number

    def __repr__(self):
        return f"<client {self.number}>"

    def echo(self, *args, **kwargs):
        return self.number, args, kwargs

    def quit(self):
        self.service.note_quit(self.number)


class Service:
    """Makes clients, and knows which have quit.

    :param kind: their class.

    """

    def __init__(self, kind=Client):
        self.kind = kind
        self.clients = []
        self.quits = []
        self.when_quitting = lambda: None
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def open(self):
        client = self.kind(self, next(self._numbers))
        with self._lock:
            self.clients.append(client)
        return client

    def note_quit(self, number):
        with self._lock:
            self.quits.append(number)
        self.when_quitting()


def a_pool(*creator, **options):
    options = {
        "pool_size": 2,
        "max_overflow": 0,
        "timeout": 0,
        "reaping_frequency": None,
        # as old as the test says, all of them
        "jitter": 0,
        "reset_on_return": None,
        "disconnect_with": Client.quit,
        **options,
    }
    return ReaperPool(*creator, **options)
