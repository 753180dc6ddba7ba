"""The views of ``watch``: plain functions of what a pool says of itself."""

from __future__ import annotations

import dataclasses
import io
import re
import threading

import pytest
from conftest import missing
from sqlalchemy import event
from stub import Driver
from stub import Task
from stub import until

from sa_reaperpool import HolderInfo
from sa_reaperpool import LeaseInfo
from sa_reaperpool import ReaperPool
from sa_reaperpool import Stats
from sa_reaperpool import label
from sa_reaperpool.demo_screen import Screen
from sa_reaperpool.snapshot import ConnectionInfo
from sa_reaperpool.snapshot import LineInfo
from sa_reaperpool.snapshot import Snapshot
from sa_reaperpool.snapshot import WaitingInfo
from sa_reaperpool.watch_parts import Event
from sa_reaperpool.watch_parts import Feed
from sa_reaperpool.watch_parts import Frame
from sa_reaperpool.watch_parts import shortened
from sa_reaperpool.watch_plain import PlainView
from sa_reaperpool.watch_plain import event_line

try:
    from rich.console import Console
    from rich.console import Group

    from sa_reaperpool.watch_view import lines
except ImportError:
    Console = None

HOSTILE = "[red]x[/red]\x1b[2J\r\n\u202e:smile:"
# with its escapes shown, and its brackets and colons as they were
HARMLESS = r"[red]x[/red]\x1b[2J \u202e:smile:"

STATS = Stats(
    size=3,
    limit=6,
    idle=1,
    in_use=4,
    opening=1,
    waiting=2,
    checkouts=1204,
    waits=12,
    waited=40.0,
    longest_wait=30.0,
    timeouts=0,
    opened=9,
    connect_failures=0,
    closed={"reaped": 1},
)


def a_lease(name="web-1", alive=True, held=0.5, **values):
    values = {
        "holders": (HolderInfo(name, alive),),
        "held_for": held,
        "unused_for": 0.25,
        "where": "/srv/shop/app.py:11 in orders",
        "in_transaction": None,
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
        in_use(a_lease("events", held=720.0, kept=True)),
        in_use(a_lease("reports", held=12.0, label="monthly")),
        in_use(a_lease("import", False)),
        in_use(a_lease(), reserved=True),
        ConnectionInfo("in transit", None, 5.0),
        ConnectionInfo("idle", 64.0, 200000.0),
    ),
    waiting=(
        WaitingInfo("web-2", 12.5, "POST /pay", "/srv/pay.py:7 in pay", False),
        WaitingInfo(None, 0.5, None, None, True),
    ),
    holding_lines=(LineInfo("/srv/shop/app.py:11 in orders", None, 4, 720.0),),
    waiting_lines=(LineInfo("/srv/pay.py:7 in pay", None, 1, 12.5),),
)
EVENTS = (
    Event(1.0, "a sentence"),
    Event(61.25, "abandoned", a_lease("import-7", False, 3.5)),
)


def a_frame(snapshot=SNAPSHOT, events=EVENTS, **values):
    values = {
        "reaped": 1,
        "elapsed": 61.5,
        "seconds": 90.0,
        "database": "sqlite:///shop.db",
        "long": 2.0,
        **values,
    }
    return Frame(snapshot, events, **values)


def many_threads(held, waiting):
    """A frame of a real pool: so many hold a connection, so many wait."""
    pool = ReaperPool(
        Driver().connect,
        pool_size=held,
        max_overflow=0,
        reaping_frequency=None,
        on_deadlock="off",
    )
    handles = [pool.connect() for _ in range(held)]
    tasks = [Task(pool.connect) for _ in range(waiting)]
    until(lambda: pool.stats().waiting == waiting)
    frame = a_frame(pool.snapshot())
    # whoever gets one gives it back when its handle is dropped
    for handle in handles:
        handle.close()
    for task in tasks:
        task.result().close()
    return frame


@pytest.fixture
def rich():
    if Console is None:
        missing("rich is not installed")


def shown(frame, width=80, height=24):
    return [line.plain.rstrip() for line in lines(frame, width, height)]


def written(frame, width, height):
    """What goes to a terminal of that size."""
    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        height=height,
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    console.print(Group(*lines(frame, width, height)))
    return file.getvalue()


@pytest.mark.usefixtures("rich")
class TestLive:
    def test_the_whole_of_it(self):
        assert shown(a_frame()) == [
            "\u2500\u2500 shop on sqlite:///shop.db "
            + "\u2500" * 19
            + " 61.5 of 90 s, Ctrl-C ends it \u2500\u2500",
            "4 of 6 in use, 1 idle, 1 opening or in transit; "
            "2 threads wait, longest 12.5 s",
            "so far: 1204 checkouts; 12 waited, longest 30.0 s; 9 opened; "
            "1 closed (1 reaped)",
            "",
            "state       for  unused  held by         label      line",
            "kept     12 min  250 ms  events                     "
            "shop/app.py:11 in orders",
            "in use   12.0 s  250 ms  reports         monthly    "
            "shop/app.py:11 in orders",
            "in use   500 ms  250 ms  import (ended)             "
            "shop/app.py:11 in orders",
            "reserved 500 ms  250 ms  web-1                      "
            "shop/app.py:11 in orders",
            "transit",
            "idle     64.0 s",
            "",
            "waiting     for          thread          label      line",
            "waits    12.5 s          web-2           POST /pay  "
            "/srv/pay.py:7 in pay",
            "connects 500 ms          ?",
            "",
            "",
            "",
            "      at  taken back    from                held  line"
            "                 1 so far",
            "   1.0 s  a sentence",
            "  61.2 s  abandoned     import-7 (ended)   3.5 s  "
            "/srv/shop/app.py:11 in orders",
        ]

    def test_states_differ_and_trouble_stands_out(self):
        drawn = lines(a_frame(), 80, 24)[5:11]
        styles = [
            [str(span.style) for span in line.spans if span.end <= limit]
            for line in drawn
            for limit in (8, 16)
        ]
        kept, long, ended, reserved, moving, idle = styles[::2]
        words = [kept, long, ended, reserved, moving, idle]
        assert len({each for [each] in words}) == 6
        # how long it is held
        assert styles[3] == [*long, *ended]
        where = {
            line.plain[25:40].strip(): str(line.spans[-1].style)
            for line in drawn[:4]
        }
        assert [name for name, style in where.items() if style == "bold"] == [
            "reports",
            "import (ended)",
        ]

    def test_what_has_no_row_is_counted_by_line(self):
        frame = many_threads(40, 150)
        found = shown(frame)
        here = r"test_watch_views\.py:\d+ in "
        assert len([line for line in found if line.startswith("in use")]) == 7
        [more] = [line for line in found if "more; of all: 40" in line]
        assert re.fullmatch(rf"and 33 more; of all: 40 at {here}.*", more)
        assert len([line for line in found if line.startswith("waits")]) == 2
        assert any(line.startswith("and 148 more wait") for line in found)
        large = shown(frame, 200, 200)
        assert len([line for line in large if line.startswith("in use")]) == 40
        assert any(line.startswith("and 140 more wait") for line in large)

    def test_fits_every_size(self):
        frame = many_threads(6, 200)
        snapshot = dataclasses.replace(
            frame.snapshot, connect_error="no such host", failed_ago=3.0
        )
        events = [EVENTS[n % 2] for n in range(100)]
        for each in (
            a_frame(frame.snapshot, events),
            a_frame(snapshot, events),
            a_frame(),
        ):
            for width in (1, 20, 37, 60, 79, 80, 120, 300):
                for height in (*range(1, 30), 50, 100):
                    text = written(each, width, height)
                    text = re.sub(r"\x1b\[[\d;]*m", "", text)
                    found = text.removesuffix("\n").split("\n")
                    assert len(found) <= height, (width, height)
                    assert max(map(len, found)) <= width, (width, height)

    def test_nothing_jumps(self):
        """Who comes and goes moves no part of the screen."""
        quiet = dataclasses.replace(
            SNAPSHOT,
            connections=(),
            waiting=(),
            stats=dataclasses.replace(
                STATS, in_use=0, idle=0, opening=0, waiting=0
            ),
        )
        heads = [
            [
                place
                for place, line in enumerate(shown(a_frame(each)))
                if line.startswith(("state", "waiting", "      at"))
            ]
            for each in (SNAPSHOT, quiet)
        ]
        assert heads[0] == heads[1] and len(heads[0]) == 3

    def test_newest_events_are_at_the_end(self):
        events = [Event(float(n), f"event {n}") for n in range(50)]
        found = shown(a_frame(events=events))
        assert found[-1].endswith("event 49") and len(found) == 24
        assert not any(line.endswith("event 30") for line in found)

    def test_counters_have_a_second_line(self):
        stats = dataclasses.replace(STATS, timeouts=5, connect_failures=3)
        snapshot = dataclasses.replace(SNAPSHOT, stats=stats)
        assert shown(a_frame(snapshot))[2:4] == [
            "so far: 1204 checkouts; 12 waited, longest 30.0 s; 5 timed out; "
            "9 opened",
            "3 connects failed; 1 closed (1 reaped)",
        ]

    def test_connect_error(self):
        snapshot = dataclasses.replace(
            SNAPSHOT, connect_error="no such host", failed_ago=3.0
        )
        assert shown(a_frame(snapshot))[3] == (
            "newest connect error, 3.00 s ago: no such host"
        )

    def test_hostile_names_are_shown_as_they_are(self):
        frame = hostile_frame()
        text = written(frame, 160, 30)
        bare = re.sub(r"\x1b\[[\d;]*m", "", text)
        assert "\x1b" not in bare and "\u202e" not in bare
        # holder, label and waiting thread; reap; pool; sentence
        assert bare.count(r"[red]x[/red]\x1b[2J") >= 6
        assert ":smile:" in bare
        assert len(bare.splitlines()) <= 30

    def test_wide_characters(self):
        snapshot = dataclasses.replace(
            SNAPSHOT,
            connections=(in_use(a_lease("\u732b" * 30, label="\u732b" * 9)),),
        )
        [row] = [
            line
            for line in lines(a_frame(snapshot), 80, 24)
            if line.plain.startswith("in use")
        ]
        assert row.cell_len <= 80 and "orders" in row.plain


def hostile_frame():
    """Of a real pool, whose threads, labels and name are hostile."""
    pool = ReaperPool(
        Driver().connect,
        pool_size=1,
        max_overflow=0,
        reaping_frequency=None,
        dead_connection_timeout=0,
        logging_name=HOSTILE,
    )
    feed = Feed()
    event.listen(pool, "reap", feed.reaped)
    kept = []

    def take():
        with label(HOSTILE):
            kept.append(pool.connect())

    first = threading.Thread(target=take, name=HOSTILE)
    first.start()
    first.join()
    assert pool.reap() == 1
    holder = pool.connect()
    second = threading.Thread(target=take, name=HOSTILE)
    second.start()
    until(lambda: pool.stats().waiting == 1)
    waiting = pool.snapshot().waiting
    holder.close()
    second.join()
    feed.tell(HOSTILE)
    events, reaped = feed.events()
    snapshot = dataclasses.replace(
        pool.snapshot(),
        waiting=waiting,
        stats=dataclasses.replace(pool.stats(), waiting=1),
    )
    return a_frame(snapshot, events, reaped=reaped, database=HOSTILE)


# plain


def plain(*frames):
    stream = io.StringIO()
    screen = Screen(stream)
    with PlainView(screen) as view:
        for frame in frames:
            screen.clock = lambda frame=frame: frame.elapsed
            view.show(frame)
    return stream.getvalue()


def test_plain_tells_counts_once_a_second():
    frames = [a_frame(events=(), elapsed=n / 5, long=1e9) for n in range(11)]
    found = plain(*frames).splitlines()
    assert [line[:11] for line in found if "in use" in line] == [
        "    1.0 s  ",
        "    2.0 s  ",
    ]


def test_plain_tells_each_event_once():
    events = [Event(float(n), f"event {n}.") for n in range(4)]
    out = plain(
        a_frame(events=events[:1], elapsed=0.0),
        a_frame(events=events[:1], elapsed=0.1),
        a_frame(events=events[:3], elapsed=0.2),
        # the oldest are forgotten
        a_frame(events=events[2:], elapsed=0.3),
    )
    assert re.findall(r"event (\d)\.", out) == ["0", "1", "2", "3"]


def test_plain_tells_of_a_long_holder_once():
    def held(*leases):
        connections = tuple(in_use(lease) for lease in leases)
        snapshot = dataclasses.replace(SNAPSHOT, connections=connections)
        return a_frame(snapshot, events=(), elapsed=0.0)

    out = plain(
        held(a_lease("reports", held=1.9)),
        held(a_lease("reports", held=2.1), a_lease("kept", kept=True, held=9)),
        held(a_lease("reports", held=2.3), a_lease("other", held=2.0)),
        held(),
        held(a_lease("reports", held=2.0)),
    )
    assert re.findall(r"still held by (\w+), held ([\d.]+)", out) == [
        ("reports", "2.10"),
        ("other", "2.00"),
        ("reports", "2.00"),
    ]
    assert "/srv/shop/app.py:11 in orders" in out


def test_plain_hostile_names():
    frame = hostile_frame()
    lease = dataclasses.replace(
        frame.snapshot.connections[0].lease, held_for=5.0
    )
    snapshot = dataclasses.replace(
        frame.snapshot, connections=(in_use(lease),)
    )
    out = plain(dataclasses.replace(frame, snapshot=snapshot))
    assert out.isascii() and out.replace("\n", "").isprintable()
    assert HARMLESS in " ".join(out.split())
    # event by event, holder and label each
    words = [event_line(each) for each in frame.events]
    assert [each.count("[red]x[/red]\\") for each in words] == [2, 1]


# what both are made of


def test_feed_counts_reaps_by_line_and_forgets_the_oldest():
    feed = Feed(most=3)
    for _ in range(4):
        feed.reaped(a_lease("import", False), "abandoned")
    feed.reaped(a_lease(where="/srv/b.py:2 in b"), "dead")
    feed.tell("a sentence")
    events, reaped = feed.events()
    assert [each.words for each in events] == [
        "abandoned",
        "dead",
        "a sentence",
    ]
    assert reaped == 5
    assert feed.lines == {
        "/srv/shop/app.py:11 in orders": 4,
        "/srv/b.py:2 in b": 1,
    }


@pytest.mark.parametrize(
    "where, width, short",
    [
        ("/srv/shop/app.py:11 in orders", 29, "/srv/shop/app.py:11 in orders"),
        ("/srv/shop/app.py:11 in orders", 28, "shop/app.py:11 in orders"),
        ("/srv/shop/app.py:11 in orders", 23, "app.py:11 in orders"),
        ("/srv/shop/app.py:11 in orders", 3, "app.py:11 in orders"),
        ("C:\\srv\\app.py:11 in orders", 20, "app.py:11 in orders"),
        ("<string>:1 in f", 5, "<string>:1 in f"),
        ("an unknown line", 5, "an unknown line"),
    ],
)
def test_a_line_keeps_its_end(where, width, short):
    assert shortened(where, width, len) == short
