"""Looking at sockets: real ones, in pairs."""

from __future__ import annotations

import select
import socket
import sqlite3
import struct
import sys
import threading

import pytest
from sqlalchemy import create_engine
from sqlalchemy import text
from stub import Driver
from stub import SocketConnection
from stub import StubDialect

from sa_reaperpool import ReaperPool
from sa_reaperpool import entries
from sa_reaperpool import liveness
from sa_reaperpool import peek
from sa_reaperpool import stock
from sa_reaperpool import taking
from sa_reaperpool.adapter import handles
from sa_reaperpool.adapter import short
from sa_reaperpool.liveness import Look
from sa_reaperpool.liveness import cursor_open
from sa_reaperpool.liveness import in_transaction
from sa_reaperpool.liveness import probe
from sa_reaperpool.liveness import running


class WithFileno:
    """As psycopg2 and psycopg 3 do it."""

    closed = 0

    def __init__(self, sock):
        self.sock = sock

    def fileno(self):
        return self.sock.fileno()


class WithSock:
    """As PyMySQL does it."""

    def __init__(self, sock):
        self._sock = sock


@pytest.fixture(params=["the system's poll", "poll", "select"])
def way(request, monkeypatch):
    if request.param != "the system's poll":
        monkeypatch.setattr(peek, "_poll", None)
        monkeypatch.setattr(peek, "poll", peek._module_poll)
    if request.param == "select":
        monkeypatch.delattr(select, "poll")


@pytest.fixture
def pair(way):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture(params=[WithFileno, WithSock])
def connection(request, pair):
    return request.param(pair[0])


# one look


def test_quiet(connection):
    look = probe(connection)
    assert [look(), look()] == [Look.QUIET] * 2


def test_readable_and_nothing_is_read(connection, pair):
    look = probe(connection)
    pair[1].sendall(b"notice")
    assert [look(), look()] == [Look.READABLE] * 2
    assert pair[0].recv(100) == b"notice"
    assert look() is Look.QUIET


def test_closed_by_the_peer(connection, pair):
    look = probe(connection)
    pair[1].close()
    assert look() is not Look.QUIET
    if hasattr(select, "poll"):
        assert look() is Look.CLOSED


def test_closed_with_a_last_word(connection, pair):
    look = probe(connection)
    pair[1].sendall(b"FATAL: terminating connection")
    pair[1].close()
    # still unread: it takes poll() to see past it
    assert look() is not Look.QUIET
    if hasattr(select, "POLLRDHUP") and hasattr(select, "poll"):
        assert look() is Look.CLOSED


def test_half_closed_by_the_peer(connection, pair):
    look = probe(connection)
    pair[1].shutdown(socket.SHUT_WR)
    assert look() is not Look.QUIET


@pytest.mark.parametrize("number", [-1, -7, 2**31, 2**32])
def test_what_is_no_descriptor_is_not_quiet(way, number):
    """Of a socket that was closed on this side, it is -1."""

    class Closed:
        closed = 0

        def fileno(self):
            return number

    assert probe(Closed()).quiet() is False


def test_reset_by_the_peer(way):
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
        with ours:
            look = probe(WithFileno(ours))
            assert look() is Look.QUIET
            theirs.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            theirs.close()
            assert look() is not Look.QUIET


def test_closed_by_the_driver_whatever_became_of_its_number(pair):
    connection = WithFileno(pair[0])
    look = probe(connection)
    # the descriptor is open and quiet: it is another file's by now
    connection.closed = 1
    assert look() is Look.CLOSED


def test_closed_under_the_driver(connection, pair):
    look = probe(connection)
    pair[0].close()
    assert look() is Look.CLOSED


# whether there is something to look at


class Silent:
    def fileno(self):
        raise OSError("no socket")


class MakesThingsUp:
    """Hands out any attribute: a proxy, or a test's mock."""

    def __init__(self):
        self.asked = []

    def __getattr__(self, name):
        self.asked.append(name)
        return lambda *args: 0


@pytest.mark.parametrize("connection", [object(), Silent(), WithSock(None)])
def test_no_socket(connection):
    assert probe(connection) is None


def test_sqlite_has_no_socket():
    with sqlite3.connect(":memory:") as connection:
        assert probe(connection) is None
    connection.close()


def test_connection_is_not_asked_for_what_it_may_make_up():
    connection = MakesThingsUp()
    assert probe(connection) is None
    assert "fileno" not in connection.asked


# what drivers tell


class Info:
    def __init__(self, transaction_status):
        self.transaction_status = transaction_status


class Reporting:
    def __init__(self, status):
        self.info = Info(status)


@pytest.mark.parametrize(
    "status, active, transaction",
    [
        (0, False, False),
        (1, True, True),
        (2, False, True),
        (3, False, True),
        (4, False, False),
    ],
)
def test_libpqs_states(status, active, transaction):
    assert running(Reporting(status)) is active
    assert in_transaction(Reporting(status)) is transaction


def test_drivers_that_do_not_tell():
    for connection in (object(), Reporting(None), None):
        assert not running(connection)
        assert in_transaction(connection) is None


def test_sqlite_tells_of_transactions():
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (x)")
    assert in_transaction(connection) is False
    connection.execute("INSERT INTO t VALUES (1)")
    assert in_transaction(connection) is True
    connection.close()


class StubCursor:
    def __init__(self, **state):
        vars(self).update(state)


PyMySQLCursor = type("Cursor", (StubCursor,), {"__module__": "pymysql.c"})


@pytest.mark.parametrize(
    "cursor, is_open",
    [
        (StubCursor(closed=False), True),
        (StubCursor(closed=True), False),
        (StubCursor(), True),
        (PyMySQLCursor(connection=object()), True),
        (PyMySQLCursor(connection=None), False),
    ],
)
def test_cursor_open(cursor, is_open):
    assert cursor_open(cursor) is is_open


# at checkout


class Sockets(Driver):
    """A driver whose connections are pairs of sockets."""

    def __init__(self):
        super().__init__()
        self.peers = {}

    def make(self, number):
        ours, self.peers[number] = socket.socketpair()
        return SocketConnection(self, number, ours)

    def end(self):
        for connection in self.connections:
            connection.sock.close()
            self.peers[connection.number].close()


@pytest.fixture
def sockets():
    driver = Sockets()
    yield driver
    driver.end()


def a_pool(driver, **options):
    options = {"reaping_frequency": None, **options}
    return ReaperPool(driver.connect, dialect=StubDialect(), **options)


def returned(pool, count):
    handles = [pool.connect() for _ in range(count)]
    for handle in handles:
        handle.close()


def test_quiet_connections_are_not_pinged(sockets):
    pool = a_pool(sockets)
    for _ in range(5):
        returned(pool, 2)
    assert pool._dialect.pings == []
    assert sockets.connects == 2


def test_readable_connection_is_pinged_and_kept(sockets):
    pool = a_pool(sockets)
    returned(pool, 1)
    sockets.peers[1].sendall(b"notice")
    assert pool.connect().dbapi_connection.number == 1
    assert pool._dialect.pings == [1]


def test_dead_connection_is_replaced_with_all_others_that_are(sockets):
    pool = a_pool(sockets)
    returned(pool, 4)
    for number in (1, 2, 4):
        sockets.peers[number].close()
        pool._dialect.dead.add(number)
    handle = pool.connect()
    assert handle.dbapi_connection.number == 5
    # the third was quiet: nobody needed to ask it
    assert sorted(pool._dialect.pings) == [1, 2, 4]
    assert [each.number for each in sockets.open_ones] == [3, 5]
    assert dict(pool.stats().closed) == {"dead": 3}


def test_readable_one_beside_a_dead_one_stays(sockets):
    pool = a_pool(sockets)
    returned(pool, 2)
    sockets.peers[1].close()
    pool._dialect.dead.add(1)
    sockets.peers[2].sendall(b"notice")
    pool.connect()
    assert pool._dialect.pings == [1, 2]
    assert [each.number for each in sockets.open_ones] == [2, 3]


def test_liveness_off_looks_at_nothing(sockets):
    pool = a_pool(sockets, liveness="off")
    returned(pool, 1)
    sockets.peers[1].close()
    assert pool.connect().dbapi_connection.number == 1
    assert pool._dialect.pings == []


def test_liveness_ping_asks_each_time(sockets):
    pool = a_pool(sockets, liveness="ping")
    for _ in range(3):
        returned(pool, 1)
    # not the first time: it was just opened
    assert pool._dialect.pings == [1, 1]


def test_without_a_dialect_nothing_is_looked_at(sockets):
    pool = ReaperPool(sockets.connect, reaping_frequency=None)
    returned(pool, 1)
    sockets.peers[1].close()
    assert pool.connect().dbapi_connection.number == 1


# without a socket


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    given = Clock()
    for module in (handles, short, entries, stock, taking):
        monkeypatch.setattr(module, "monotonic", given)
    return given


@pytest.mark.parametrize("unused, pings", [(0.5, []), (1.0, [1]), (60, [1])])
def test_ping_instead_unless_used_within_a_second(clock, unused, pings):
    pool = a_pool(Driver())
    returned(pool, 1)
    clock.now += unused
    pool.connect()
    assert pool._dialect.pings == pings


def test_a_ping_that_answered_holds_for_a_second(clock):
    pool = a_pool(Driver(), use_lifo=True)
    returned(pool, 1)
    for wait in (5, 0.9, 5):
        clock.now += wait
        pool.connect().close()
    assert pool._dialect.pings == [1, 1]


def test_one_found_dead_makes_the_others_suspect(clock):
    pool = a_pool(Driver())
    returned(pool, 2)
    entries = pool.idle_entries()
    clock.now += 5
    entries[1].traffic_at = clock.now - 0.1
    clock.now += 0.2
    pool._dialect.dead.add(1)
    first, second = pool.connect(), pool.connect()
    assert first.dbapi_connection.number == 3
    assert second.dbapi_connection.number == 2
    assert pool._dialect.pings == [1, 2]


def test_sqlite_engine_is_pinged_when_long_unused(
    clock, tmp_path, monkeypatch
):
    engine = create_engine(f"sqlite:///{tmp_path}/a.db", poolclass=ReaperPool)
    pings = []
    ping = engine.dialect.do_ping

    def noted(connection):
        pings.append(1)
        return ping(connection)

    monkeypatch.setattr(engine.dialect, "do_ping", noted)
    for wait, expected in ((0, 0), (0.5, 0), (2, 1), (0.5, 1)):
        clock.now += wait
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        assert len(pings) == expected
    engine.dispose()


@pytest.mark.skipif(
    peek._poll is None, reason="this system's poll() is not to be had"
)
def test_who_checks_out_keeps_the_interpreter():
    """Who lets go of it, for a look, has it back after all who want it."""
    ours, theirs = socket.socketpair()
    interval = sys.getswitchinterval()
    gate, passed = threading.Lock(), []

    def wait_to_run():
        with gate:
            passed.append(True)

    with ours, theirs:
        look = probe(WithFileno(ours))
        # as a connection's first look does
        assert look.quiet()
        waiting = threading.Thread(target=wait_to_run)
        try:
            # nobody is made to let go of it from here on
            sys.setswitchinterval(1000)
            with gate:
                # which goes on until it waits
                waiting.start()
            for _ in range(20_000):
                assert look.quiet()
            kept = not passed
        finally:
            sys.setswitchinterval(interval)
            waiting.join()
    assert kept


def test_a_poll_that_is_taken_away_later_is_done_without(monkeypatch):
    """As by eventlet, which may patch the module after it was looked at."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        look = probe(WithFileno(ours))
        assert look.quiet()
        monkeypatch.delattr(select, "poll", raising=False)
        assert look() is Look.QUIET
        assert look.quiet()
        theirs.send(b"x")
        assert look() is Look.READABLE
        assert not look.quiet()


def test_look_is_one_system_call(monkeypatch):
    """Of the system calls that there are for this: one poll, no read."""
    calls = []

    class Poll:
        def register(self, *args):
            pass

        def poll(self, timeout):
            calls.append(timeout)
            return []

    class Socket(WithFileno):
        def recv(self, *args):
            raise AssertionError("it reads")

    monkeypatch.setattr(liveness.select, "poll", Poll, raising=False)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        look = probe(Socket(ours))
        look()
    assert calls == [0]
