"""What befalls the pool: one fault after the other, drawn by chance."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any
from typing import Protocol

import psycopg2
from sqlalchemy import Engine

from . import journal
from .journal import Journal
from .pools import LIMIT
from .pools import OVERFLOW
from .pools import SIZE
from .pools import Connections
from .relay import Relay
from .workers import Crowd

BACK_WITHIN = 30.0
"""Seconds that a fault waits for the next commit after a restart."""


class Server(Protocol):
    """A server that may be killed."""

    def kill(self) -> None: ...

    def start(self) -> None: ...


class Faults:
    """Everything that can go wrong with this pool, as methods."""

    def __init__(
        self,
        engine: Engine,
        connections: Connections,
        crowd: Crowd,
        relay: Relay,
        journal: Journal,
        *,
        dsn: str,
        server: Server | None,
        seed: int,
    ) -> None:
        self.pool: Any = engine.pool
        self.connections = connections
        self.crowd = crowd
        self.relay = relay
        self.journal = journal
        self.dsn = dsn
        self.server = server
        self.random = random.Random(seed)
        self._application = str(engine.url.query["application_name"])

    def known(self) -> dict[str, tuple[int, Callable[[], None]]]:
        """By name: how often it is drawn, and what it does."""
        known = {
            "terminate": (4, self.terminate),
            "cut": (4, self.cut),
            "hold": (3, self.hold),
            "delay": (2, self.delay),
            "die": (6, self.die),
            "fork": (2, self.fork),
            "fork-idle": (2, lambda: self.fork(lull=0.1)),
            "none": (2, lambda: None),
        }
        if self.server is not None:
            known["kill"] = (3, self.kill)
        if hasattr(self.pool, "configure"):
            known["configure"] = (3, self.configure)
            known["refresh"] = (2, self.refresh)
        return known

    def go_on_for(self, seconds: float) -> None:
        """Draw faults until the time is up; each one once in any case."""
        end = time.monotonic() + seconds
        known = self.known()
        first = list(known)
        self.random.shuffle(first)
        weights = [weight for weight, _ in known.values()]
        self.journal.write(journal.CALM, "begin")
        while first or time.monotonic() < end:
            if first:
                name = first.pop()
            else:
                [name] = self.random.choices(list(known), weights)
            self.journal.write(journal.FAULT, name)
            known[name][1]()
            self.journal.write(journal.CALM, name)
            time.sleep(self.random.uniform(0.05, 0.5))

    # the server

    def terminate(self) -> None:
        some = self.random.choice([0.2, 0.5, 1.0])
        admin = psycopg2.connect(self.dsn)
        try:
            with admin, admin.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = %s AND random() < %s",
                    (self._application, some),
                )
        finally:
            admin.close()

    def kill(self) -> None:
        assert self.server is not None
        self.server.kill()
        time.sleep(self.random.uniform(0, 1))
        self.server.start()
        self.journal.write(journal.UP, "server")
        before = self.crowd.clerk.confirmed
        deadline = time.monotonic() + BACK_WITHIN
        while self.crowd.clerk.confirmed == before:
            if time.monotonic() > deadline:
                break
            time.sleep(0.005)

    # the network

    def cut(self) -> None:
        self.relay.tell(f"cut {self.random.choice([0.2, 0.5, 1.0])}")

    def hold(self) -> None:
        """A peer that says nothing: its connections are then cut, or not."""
        self.relay.tell(f"hold {self.random.choice(['0.3', '0.6', 'all'])}")
        time.sleep(self.random.uniform(0.2, 1.5))
        if self.random.random() < 0.5:
            self.relay.tell(f"cut {self.random.choice([0.3, 1.0])}")
        self.relay.tell("go")

    def delay(self) -> None:
        self.relay.tell(f"delay {self.random.uniform(0.005, 0.05):.3f}")
        time.sleep(self.random.uniform(0.2, 1))
        self.relay.tell("delay 0")

    # the program itself

    def die(self) -> None:
        for _ in range(self.random.randint(1, 3)):
            self.crowd.die()

    def fork(self, lull: float = 0.0) -> None:
        killed = self.random.random() < 0.2
        after = self.random.uniform(0.01, 0.2)
        self.crowd.fork(after if killed else None, lull)

    def configure(self) -> None:
        size = self.random.choice([2, 4, SIZE])
        overflow = self.random.choice([0, OVERFLOW])
        self._resize(size, overflow)
        time.sleep(self.random.uniform(0.1, 0.5))
        self._resize(SIZE, OVERFLOW)

    def _resize(self, size: int, overflow: int) -> None:
        limit = size + overflow
        if limit == LIMIT:
            self.connections.set_limit(limit)
        self.pool.configure(pool_size=size, max_overflow=overflow)
        self.connections.set_limit(limit)

    def refresh(self) -> None:
        self.pool.refresh()
