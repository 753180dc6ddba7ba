"""The torture bench's own accounting: what goes wrong is really counted."""

from __future__ import annotations

import os
import random
import socket
import sqlite3
import threading
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import benches  # noqa: F401
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
from waiting import PATIENCE
from waiting import eventually

from benchmarks.torture import accounting
from benchmarks.torture import journal
from benchmarks.torture import ledger
from benchmarks.torture import pools
from benchmarks.torture.journal import Journal
from benchmarks.torture.journal import Line
from benchmarks.torture.relay import Relay
from benchmarks.torture.workers import Clerk
from sa_reaperpool import ReaperPool

PARENT, CHILD = 1, 2


def lines(*events: str, process: int = PARENT) -> list[Line]:
    """One a second, each an event and a name."""
    split = (each.split() for each in events)
    return [
        Line(float(at), process, event, name)
        for at, (event, name) in enumerate(split)
    ]


# what became of a transfer

COMMITTED = ("begun a", "asked a", "done a")
UNKNOWN = ("begun a", "asked a", "unknown a")
FAILED = ("begun a", "failed a")
# killed in the midst of it
INTERRUPTED = ("begun a", "asked a")


@pytest.mark.parametrize(
    "written, found, expected",
    [
        (COMMITTED, ["a"], {"committed": 1}),
        (COMMITTED, [], {"lost": 1}),
        (COMMITTED, ["a", "a"], {"committed": 1, "twice": 1}),
        (UNKNOWN, ["a"], {"unknown_kept": 1}),
        (UNKNOWN, [], {"unknown_gone": 1}),
        (UNKNOWN, ["a", "a"], {"unknown_kept": 1, "twice": 1}),
        (INTERRUPTED, ["a"], {"unknown_kept": 1}),
        (INTERRUPTED, [], {"unknown_gone": 1}),
        (FAILED, [], {"failed": 1}),
        (FAILED, ["a"], {"failed": 1, "unasked": 1}),
        ((*FAILED, *COMMITTED), ["a"], {"failed": 1, "committed": 1}),
        (
            # the first was committed after all
            (*FAILED, *COMMITTED),
            ["a", "a"],
            {"failed": 1, "committed": 1, "twice": 1},
        ),
        (("begun a",), [], {}),
        ((), ["a"], {"unasked": 1}),
    ],
)
def test_what_became_of_a_transfer(
    written: tuple[str, ...], found: list[str], expected: dict[str, int]
) -> None:
    settled = accounting.settle(lines(*written), found)
    assert settled == accounting.Transfers(**expected)


# who holds a connection


@pytest.mark.parametrize(
    "written, doubles",
    [
        (("take 1-1", "leave 1-1", "take 1-1", "leave 1-1"), 0),
        (("take 1-1", "take 1-2", "leave 1-1", "leave 1-2"), 0),
        (("take 1-1", "take 1-1", "leave 1-1"), 1),
        # as a dead thread's would be, if it was not closed
        (("take 1-1", "take 1-1", "take 1-1"), 2),
        # the parent's, in a child
        (("take 2-1", "leave 2-1"), 1),
    ],
)
def test_two_holders(written: tuple[str, ...], doubles: int) -> None:
    assert accounting.double_holders(lines(*written)) == doubles


# when it went on


def test_recovery_and_pauses() -> None:
    written = lines(
        "calm begin",
        "done a",
        "fault kill",  # 2
        "done b",
        "failed c",
        "up server",  # 5
        "failed c",
        "done c",  # 7: a recovery of 2 s
        "calm kill",
        "failed d",
        "failed d",
        "done d",  # 11: a pause of 3 s
        "fault end",
    )
    result = accounting.progress(written, PARENT)
    assert result.recoveries == [2.0]
    assert result.longest_pause == 3.0
    assert result.faults == {"kill": 1, "end": 1}


def test_a_child_is_no_progress() -> None:
    written = lines("calm begin", "done a") + [
        Line(5.0, CHILD, "done", "b"),
        Line(9.0, PARENT, "fault", "end"),
    ]
    result = accounting.progress(written, PARENT)
    assert (result.longest_pause, result.children) == (8.0, 1)


def test_a_recovery_that_does_not_come_counts_until_the_end() -> None:
    written = lines("fault kill", "up server", "failed a", "fault end")
    assert accounting.progress(written, PARENT).recoveries == [2.0]


# what is written down, on either side


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Journal]:
    written = Journal(tmp_path)
    yield written
    written.close()


class SQLiteConnection(sqlite3.Connection):
    """Has of psycopg2's what is counted by."""

    closed = 0


@pytest.fixture
def clerk(tmp_path: Path, written: Journal) -> Iterator[Clerk]:
    engine = create_engine(
        f"sqlite:///{tmp_path}/db",
        poolclass=QueuePool,
        connect_args={"factory": SQLiteConnection},
    )
    connections = pools.Connections(engine)
    ledger.create(engine)
    yield Clerk(engine, connections, written)
    engine.dispose()


def test_a_transfer(clerk: Clerk, written: Journal) -> None:
    assert clerk.transfer("a", random.Random(1))
    events = [line.event for line in written.lines()]
    assert events == ["begun", "take", "asked", "leave", "done"]
    assert accounting.double_holders(written.lines()) == 0
    books = ledger.read(clerk.engine)
    assert books == ledger.Books(["a"], 0)
    found = accounting.settle(written.lines(), books.transfers)
    assert found == accounting.Transfers(committed=1)


def test_a_torn_account(clerk: Clerk) -> None:
    with Session(clerk.engine) as session, session.begin():
        session.get_one(ledger.Account, 7).balance = 1
    assert ledger.read(clerk.engine).torn == 1


def test_the_journal_leaves_nothing_behind(
    written: Journal, tmp_path: Path
) -> None:
    written.write(journal.BEGUN, "a")
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        assert [line.name for line in written.lines()] == ["a"]


def test_children_write_into_the_same_journal(written: Journal) -> None:
    written.write(journal.BEGUN, "a")
    pid = os.fork()
    if pid == 0:
        written.write(journal.DONE, "b")
        os._exit(0)
    os.waitpid(pid, 0)
    written.write(journal.DONE, "a")
    assert [line.process for line in written.lines()] == [
        os.getpid(),
        pid,
        os.getpid(),
    ]


# connections over the limit, and slots that are missing


class LosesTwo(QueuePool):
    """Forgets two of the connections that are returned."""

    lost = 0

    def _do_return_conn(self, record: Any) -> None:
        if self.lost < 2:
            self.lost += 1
        else:
            super()._do_return_conn(record)


class FakeConnection:
    """Has of psycopg2's what is counted by."""

    closed = 0

    def rollback(self) -> None:
        pass

    def close(self) -> None:
        self.closed = 1


@pytest.fixture
def engine_of() -> Callable[..., Any]:
    def make(poolclass: type[QueuePool], **options: Any) -> Any:
        engine = create_engine(
            "sqlite:///x",
            **{
                "poolclass": poolclass,
                "pool_size": pools.SIZE,
                "max_overflow": pools.OVERFLOW,
                "pool_timeout": 0.05,
                "_initialize": False,
                **options,
            },
        )
        engine.dialect.connect = lambda *a, **k: FakeConnection()
        engine.dialect.on_connect_url = lambda url: None
        return engine

    return make


@pytest.mark.parametrize(
    "poolclass, limit, over",
    [
        (QueuePool, pools.LIMIT, 0),
        (ReaperPool, pools.LIMIT, 0),
        # with two that nobody asked it for
        (QueuePool, pools.LIMIT + 2, 2),
    ],
)
def test_connections_over_the_limit(
    engine_of: Any, poolclass: type[QueuePool], limit: int, over: int
) -> None:
    engine = engine_of(poolclass, max_overflow=limit - pools.SIZE)
    connections = pools.Connections(engine)
    connections.begin()
    held = [engine.raw_connection() for _ in range(limit)]
    assert (connections.most, connections.over) == (limit, over)
    for connection in held:
        connection.close()


def test_a_limit_that_shrank_is_the_limit() -> None:
    """But not for who had begun before it did."""
    counted = pools.Connections.__new__(pools.Connections)
    counted._limits = [(0.0, 12), (5.0, 4), (9.0, 6)]
    assert counted._allowed(since=4.0) == 12
    assert counted._allowed(since=6.0) == 6
    assert counted._allowed(since=10.0) == 6
    counted._limits = [(0.0, 12), (5.0, 4)]
    assert counted._allowed(since=5.0) == 4


@pytest.mark.parametrize(
    "poolclass, missing", [(QueuePool, 0), (ReaperPool, 0), (LosesTwo, 2)]
)
def test_slots_missing(
    engine_of: Any, poolclass: type[QueuePool], missing: int
) -> None:
    engine = engine_of(poolclass)
    for connection in [engine.raw_connection() for _ in range(3)]:
        connection.close()
    # those that there are come at once
    assert pools.slots_missing(engine, pools.LIMIT, 0.5) == missing


# the network between


@pytest.fixture
def echo() -> Iterator[Relay]:
    """A relay to a server that sends back what it is sent."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client:
            while data := client.recv(100):
                client.sendall(data)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=[client], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    relay = Relay("127.0.0.1", listener.getsockname()[1], 1)
    yield relay
    relay.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def client_of(relay: Relay) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", relay.port), PATIENCE)
    client.sendall(b"1")
    assert client.recv(100) == b"1"
    return client


def gone(client: socket.socket) -> bool:
    try:
        return client.recv(100) == b""
    except ConnectionError:
        return True


def test_cut(echo: Relay) -> None:
    clients = [client_of(echo) for _ in range(4)]
    echo.tell("cut 1")
    for client in clients:
        assert gone(client)
        client.close()
    client_of(echo).close()


def test_hold(echo: Relay) -> None:
    client = client_of(echo)
    echo.tell("hold all")
    client.sendall(b"2")
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.recv(100)
    echo.tell("go")
    client.settimeout(PATIENCE)
    assert client.recv(100) == b"2"
    client.close()


def test_held_and_cut(echo: Relay) -> None:
    client = client_of(echo)
    echo.tell("hold 1")
    client.sendall(b"2")
    echo.tell("cut 1")
    assert gone(client)
    client.close()


def test_delay(echo: Relay) -> None:
    client = client_of(echo)
    echo.tell("delay 0.05")
    client.sendall(b"2")
    client.settimeout(0.02)
    with pytest.raises(TimeoutError):
        client.recv(100)
    client.settimeout(PATIENCE)
    assert client.recv(100) == b"2"
    echo.tell("delay 0")
    client.close()


def test_no_server(echo: Relay) -> None:
    nowhere = Relay("127.0.0.1", 1, 1)
    with socket.create_connection(("127.0.0.1", nowhere.port)) as client:
        client.settimeout(PATIENCE)
        assert eventually(lambda: gone(client))
    nowhere.close()
