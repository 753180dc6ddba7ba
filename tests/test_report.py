"""The report: a plain function of a snapshot, for a reader at night."""

from __future__ import annotations

import dataclasses
import gc
import sys

import pytest
from sqlalchemy.exc import InvalidRequestError
from stub import Driver
from stub import StubError
from stub import Task
from stub import until

import sa_reaperpool
from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import HolderInfo
from sa_reaperpool import LeaseInfo
from sa_reaperpool import ReaperPool
from sa_reaperpool import Stats
from sa_reaperpool import fork
from sa_reaperpool import label
from sa_reaperpool import process
from sa_reaperpool.report import render
from sa_reaperpool.snapshot import ConnectionInfo
from sa_reaperpool.snapshot import LineInfo
from sa_reaperpool.snapshot import Snapshot
from sa_reaperpool.snapshot import WaitingInfo
from sa_reaperpool.words import duration
from sa_reaperpool.words import one_line


class Odd(str):
    """A string that does not say what it is."""

    def __str__(self):
        return Odd("something else")


STATS = Stats(
    size=3,
    limit=5,
    idle=1,
    in_use=3,
    opening=1,
    waiting=2,
    checkouts=1204,
    waits=12,
    waited=40.0,
    longest_wait=30.0,
    timeouts=1,
    opened=9,
    connect_failures=1,
    closed={"reaped": 1, "age": 3},
)


def a_lease(name="web-1", alive=True, held=2.5, **values):
    values = {
        "holders": (HolderInfo(name, alive),),
        "held_for": held,
        "unused_for": 0.25,
        "where": "/srv/app.py:11 in orders",
        "in_transaction": True,
        "kept": False,
        **values,
    }
    return LeaseInfo(**values)


def in_use(lease, **values):
    return ConnectionInfo("in use", lease.held_for, 7200.0, lease, **values)


SNAPSHOT = Snapshot(
    name="shop",
    at=0.0,
    stats=STATS,
    connections=(
        in_use(a_lease("reports", held=720.0, unused_for=719.0)),
        in_use(a_lease(label="GET /orders"), reserved=True),
        in_use(a_lease("import", False, 0.5, kept=True, in_transaction=None)),
        ConnectionInfo("opening", 3.25, None),
        ConnectionInfo("idle", 64.0, 200000.0),
    ),
    waiting=(
        WaitingInfo("web-2", 12.5, "POST /pay", "/srv/pay.py:7 in pay", False),
        WaitingInfo(None, 0.5, None, None, True),
    ),
    holding_lines=(),
    waiting_lines=(),
)


def test_the_whole_of_it():
    assert render(SNAPSHOT).splitlines() == [
        "Pool 'shop': 3 of 5 in use, 1 idle, 1 opening or in transit; "
        "2 threads wait, longest 12.5 s",
        "  so far: 1204 checkouts; 12 waited, longest 30.0 s; 1 timed out; "
        "9 opened; 1 connect failed; 4 closed (3 age, 1 reaped)",
        "    state        for  unused       age  transaction  held by"
        "         label        line",
        "    in use    12 min  12 min     2.0 h  open         reports"
        "                      /srv/app.py:11 in orders",
        "    reserved  2.50 s  0.25 s     2.0 h  open         web-1"
        "           GET /orders  /srv/app.py:11 in orders",
        "    kept      0.50 s  0.25 s     2.0 h               import (ended)"
        "               /srv/app.py:11 in orders",
        "    opening   3.25 s",
        "    idle      64.0 s          2.3 days",
        "     waits  thread                       label      line",
        "    12.5 s  web-2                        POST /pay"
        "  /srv/pay.py:7 in pay",
        "    0.50 s  ? (for its turn to connect)",
    ]


def test_a_pool_that_nobody_has_used():
    pool = ReaperPool(Driver().connect, logging_name="new")
    assert pool.report().splitlines() == [
        "Pool 'new': 0 of 15 in use, 0 idle; nobody waits",
        "  so far: 0 checkouts; 0 opened",
    ]


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"limit": None}, "3 in use, 1 idle"),
        ({"opening": 0}, "1 idle; 2 threads"),
        ({"waiting": 1}, "; 1 thread waits, "),
        ({"waiting": 0}, "; nobody waits"),
    ],
)
def test_counts(changes, text):
    stats = dataclasses.replace(STATS, **changes)
    shown = render(dataclasses.replace(SNAPSHOT, stats=stats))
    assert text in shown.splitlines()[0]


def test_states_of_a_pool_and_its_connections():
    snapshot = dataclasses.replace(
        SNAPSHOT,
        disposed=1,
        shut=True,
        connections=(in_use(a_lease(), disposed=True),),
    )
    lines = render(snapshot).splitlines()
    assert ", 1 from before a dispose(), shut down; " in lines[0]
    assert lines[3].startswith("    disposed  2.50 s")


def test_the_newest_connect_error():
    snapshot = dataclasses.replace(
        SNAPSHOT, connect_error="Refused:\n no", failed_ago=4.0
    )
    line = render(snapshot).splitlines()[2]
    assert line == "  newest connect error, 4.00 s ago: Refused: no"


def test_many_holders_are_counted():
    lease = a_lease(holders=tuple(HolderInfo(str(n), n < 1) for n in range(9)))
    snapshot = dataclasses.replace(SNAPSHOT, connections=(in_use(lease),))
    assert "  0, 1 (ended) and 7 more  " in render(snapshot)


# more than are shown


def test_the_rest_is_counted_by_line():
    stats = dataclasses.replace(
        STATS, in_use=900, limit=1000, idle=60, opening=2, waiting=500
    )
    snapshot = dataclasses.replace(
        SNAPSHOT,
        stats=stats,
        holding_lines=(
            LineInfo("/srv/app.py:11 in orders", "GET /orders", 890, 720.0),
            LineInfo("/srv/app.py:90 in other", None, 10, 2.0),
        ),
        waiting_lines=(LineInfo("/srv/pay.py:7 in pay", None, 500, 12.5),),
    )
    text = render(snapshot)
    assert "  and 897 in use, 1 opening or in transit, 59 idle\n" in text
    assert (
        "  in use, by line:\n"
        "    count  longest  label        line\n"
        "      890   12 min  GET /orders  /srv/app.py:11 in orders\n"
        "       10   2.00 s               /srv/app.py:90 in other\n"
    ) in text
    assert text.endswith(
        "  and 498 more wait\n"
        "  waiting, by line:\n"
        "    count  longest  line\n"
        "      500   12.5 s  /srv/pay.py:7 in pay"
    )


def test_as_many_as_asked_for():
    pool = ReaperPool(Driver().connect, pool_size=99, reaping_frequency=None)
    handles = [pool.connect() for _ in range(60)]
    for shown, rows in ((None, 60), (7, 7), (50, 50)):
        report = pool.report(shown)
        assert report.count("\n    in use ") == rows
        assert ("by line" in report) == (rows < 60)
    for handle in handles:
        handle.close()
    assert pool.report(10).count("\n    idle ") == 2
    assert pool.report(None).count("\n    idle ") == 60


# what others have named

HOSTILE = [
    "a\nb\r\nc\x85d\u2028e",
    "\x1b[2J\x1b]0;title\x07",
    "\u202eright to left\u2066",
    "\ud800",
    "nul \0",
    "x" * 10_000_000,
    "\x1b" * 5000,
    " " * 5000,
    "",
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_harmless(name):
    snapshot = dataclasses.replace(
        SNAPSHOT,
        name=name,
        connections=(in_use(a_lease(name, label=name, where=name)),),
        waiting=(WaitingInfo(name, 1.0, name, name, False),),
        holding_lines=(LineInfo(name, name, 3, 1.0),),
        waiting_lines=(LineInfo(name, name, 2, 1.0),),
        connect_error=name,
    )
    text = render(snapshot)
    assert len(text) < 5000
    assert len(text.split("\n")) == len(text.splitlines()) == 15
    assert all(line.isprintable() for line in text.splitlines())


def test_one_line():
    assert one_line("web-1") == "web-1"
    assert one_line("a \t b\n") == "a b"
    assert one_line("x\x1b[0m") == "x\\x1b[0m"
    assert one_line("x" * 61) == "x" * 57 + "..."
    assert one_line("é 漢字") == "é 漢字"


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0.00 s"),
        (0.00123, "1.2 ms"),
        (9.994, "9.99 s"),
        (12.34, "12.3 s"),
        (119.0, "119.0 s"),
        (600.0, "10 min"),
        (7200.0, "2.0 h"),
        (172800.0, "2.0 days"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


# a real pool


def test_who_holds_and_who_waits():
    pool = ReaperPool(
        Driver().connect,
        pool_size=1,
        max_overflow=0,
        reaping_frequency=None,
        logging_name="shop",
    )
    with label("GET /orders"):
        handle = pool.connect()

    def want():
        with label("POST /pay"):
            pool.connect().close()

    task = Task(want)
    until(lambda: pool.queue.waiting())
    lines = pool.report().splitlines()
    handle.close()
    task.result()
    assert lines[0].startswith("Pool 'shop': 1 of 1 in use, 0 idle; 1 thread")
    assert "  MainThread  GET /orders  " in lines[3]
    assert f"  {__file__}:" in lines[3]
    assert lines[3].endswith(" in test_who_holds_and_who_waits")
    assert f"  {task.name}" in lines[5] and "  POST /pay  " in lines[5]
    assert lines[5].endswith(" in want")


def test_no_password_of_a_connect_error():
    def connect(password="tiger"):
        raise StubError("no such user: scott, password=tiger")

    pool = ReaperPool(connect, reaping_frequency=None)
    with pytest.raises(StubError):
        pool.connect()
    assert "newest connect error" in pool.report()
    assert "tiger" not in pool.report()


def test_of_all_pools():
    pools = [
        ReaperPool(Driver().connect, logging_name=f"all-{n}", pool_size=n)
        for n in (1, 2)
    ]
    text = sa_reaperpool.report()
    assert f"process {process.number}: " in text.split("\n")[0]
    for pool in pools:
        assert f"\n\n{pool.report()}" in text
    assert text.index("'all-1'") < text.index("'all-2'")
    handle = pool.connect()
    pool.dispose()
    assert "\n    disposed " in sa_reaperpool.report()
    handle.close()
    pool.dispose()
    assert "'all-2'" not in sa_reaperpool.report()
    del pool
    pools.clear()
    gc.collect()
    assert "'all-1'" not in sa_reaperpool.report()


def test_a_pool_without_a_name_has_a_number():
    pools = [ReaperPool(Driver().connect) for _ in range(2)]
    names = [pool.snapshot().name for pool in pools]
    assert [name.partition("-")[0] for name in names] == ["pool", "pool"]
    numbers = [int(name.partition("-")[2]) for name in names]
    assert numbers[1] == numbers[0] + 1


@pytest.mark.parametrize("name", [5, Odd("shop")])
def test_a_name_that_is_no_string(name):
    pool = ReaperPool(Driver().connect, logging_name=name)
    shown = str.__str__(name) if isinstance(name, str) else str(name)
    assert type(pool.snapshot().name) is str
    assert f"Pool '{shown}': " in sa_reaperpool.report()


# pools that are not complete


def test_while_a_pool_is_being_made():
    """At any line: a signal may come there, or another thread's turn."""
    reports = []

    def look(frame, event, arg):
        if event == "line":
            sys.settrace(None)
            reports.append(sa_reaperpool.report())
            sys.settrace(look)
        return look

    gc.collect()
    before = sa_reaperpool.report().count("Pool '")
    sys.settrace(look)
    try:
        pool = ReaperPool(Driver().connect, reaping_frequency=None)
    finally:
        sys.settrace(None)
    counts = [report.count("Pool '") - before for report in reports]
    assert len(counts) > 100
    assert counts == sorted(counts) and set(counts) == {0, 1}
    assert pool.report() in reports[-1]


def test_a_pool_that_could_not_be_made():
    """Its error is kept, and with it the pool, as in sys.last_value."""
    gc.collect()
    before = fork.pools()
    with pytest.raises(InvalidRequestError) as kept:
        ReaperPool(Driver().connect, events=[(print, "no such event")])
    assert fork.pools() == before
    sa_reaperpool.report()
    assert kept.tb is not None


def test_a_pool_that_ran_dry():
    pool = ReaperPool(
        Driver().connect, pool_size=1, max_overflow=0, reaping_frequency=None
    )
    handle = pool.connect()
    with pytest.raises(CheckoutTimeout):
        pool.connect(timeout=0)
    assert "; 1 timed out; " in pool.report()
    handle.close()
