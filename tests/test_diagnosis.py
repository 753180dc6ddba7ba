"""Verdicts and reports, of scenes that are made up."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sa_reaperpool.diagnosis import Held
from sa_reaperpool.diagnosis import Scene
from sa_reaperpool.diagnosis import report
from sa_reaperpool.diagnosis import verdict
from sa_reaperpool.habits import SEEN
from sa_reaperpool.habits import Habits
from sa_reaperpool.lease import HolderInfo
from sa_reaperpool.lease import LeaseInfo


def held(
    seconds=0.2,
    unused=0.0,
    *,
    alive=True,
    kept=False,
    name="worker",
    where="app.py:1 in work",
    **more,
):
    info = LeaseInfo(
        holders=(HolderInfo(name, alive),),
        held_for=seconds,
        unused_for=unused,
        where=where,
        in_transaction=True,
        kept=kept,
    )
    return Held(info, **more)


def scene(*leases, **more):
    given = {"waited": 30.0, "limit": 30.0, "size": 2, "overflow": 0}
    return Scene(leases, **{**given, **more})


BRISK = held()
OWN = held(own=True)
WAITS = held(40, waits=True)
LONG = held(3600, 3000)
SLOW = held(3600, 0, busy=True)
ENDED = held(2, 2, alive=False)
KEPT = held(9999, 9999, kept=True)
SCENES = {
    # this thread has one, or all
    "nested": [
        scene(OWN, BRISK, usual=0.1),
        scene(OWN, OWN, deadlock=True),
        scene(OWN, LONG, usual=0.1),
        scene(within=1),
        scene(LONG, within=1, usual=0.1),
        # a connect that has only begun is in nobody's way
        scene(OWN, opening=1, opening_for=0.2),
    ],
    "deadlock": [
        scene(WAITS, WAITS, deadlock=True),
        scene(held(own=True, waits=True), WAITS, deadlock=True),
    ],
    "leak": [
        scene(LONG, BRISK, usual=0.1),
        scene(LONG, LONG, usual=0.1),
        scene(LONG, WAITS, usual=0.1),
        scene(LONG, KEPT, usual=0.1),
        scene(SLOW, BRISK, usual=0.1),
        scene(BRISK, ENDED, usual=0.1),
        # nothing is known to be usual
        scene(LONG, BRISK),
        scene(ENDED),
        # not waited for at all
        scene(held(2, 2), waited=0.0, usual=0.1),
    ],
    "unreachable": [
        scene(opening=2, opening_for=31),
        scene(opening=2, opening_for=1, connect_error="refused"),
        scene(opening=1, connect_error="refused"),
        scene(opening=1, connect_error="x", failed_ago=90, waited=100),
        scene(OWN, opening=1, opening_for=30),
        scene(LONG, opening=1, opening_for=30, usual=0.1),
        scene(opening=1, opening_for=1.5, waited=0.0),
    ],
    "small": [
        scene(BRISK, BRISK, usual=0.1, wanted=3),
        scene(BRISK, BRISK, wanted=3),
        scene(KEPT, BRISK, usual=0.1),
        scene(KEPT, KEPT, usual=0.1),
        # by this thread, as for a connection that LISTENs
        scene(held(9, own=True, kept=True), BRISK, usual=1),
        scene(BRISK, WAITS, usual=0.1),
        # long, but as usual
        scene(LONG, LONG, usual=600),
        scene(SLOW, SLOW),
        # since before, but not for as long as this waited
        scene(held(29), BRISK, usual=0.1),
        scene(held(0.09, 0.09), waited=0.0, usual=0.001),
        scene(held(0.9, 0.9), waited=0.0),
        scene(),
        # opens as it should
        scene(BRISK, opening=1, opening_for=0.3, usual=0.1),
        scene(opening=1, opening_for=0.5, waited=0.0),
        # an error, but nothing is left to be opened
        scene(BRISK, BRISK, connect_error="refused", usual=0.1),
        scene(opening=1, permits=1),
        # an error of long ago, and what is being opened just now
        scene(BRISK, opening=1, connect_error="refused", failed_ago=90),
    ],
}
EACH = [(reason, each) for reason, list_ in SCENES.items() for each in list_]


@pytest.mark.parametrize("reason, seen", EACH)
def test_verdict(reason, seen):
    found = verdict(seen)
    assert found.reason == reason
    starts = {
        "nested": "Nested checkout: this thread itself holds ",
        "deadlock": "Deadlock suspected: all ",
        "leak": "Leak: ",
        "unreachable": "Database unreachable: ",
        "small": "Too small: ",
    }
    assert found.sentence.startswith(starts[reason])
    assert found.sentence.endswith(".") and "\n" not in found.sentence


def test_a_thread_that_holds_all_waits_for_itself():
    sentence = verdict(scene(OWN, OWN)).sentence
    assert "holds 2 of 2" in sentence and "a deadlock" in sentence
    sentence = verdict(scene(OWN, BRISK)).sentence
    assert "holds 1 of 2" in sentence and "deadlock" not in sentence


def test_a_leak_beside_it_is_told():
    """Who uses two at a time as a rule runs dry when others leak."""
    sentence = verdict(scene(OWN, LONG, SLOW, KEPT, usual=0.05)).sentence
    assert (
        "; and a leak, maybe: 2 held far longer than usual, the longest for "
        "60 min, taken at app.py:1 in work." in sentence
    )


def test_an_open_cursor_is_told():
    """Of drivers that do not tell that a statement runs."""
    reads = held(31, 31, reads=True)
    sentence = verdict(scene(reads, SLOW)).sentence
    assert "; 1 have an open cursor, and may run a statement" in sentence
    text = report(scene(reads, held(2, reads=True, busy=True)), "", "")
    first, second = text.splitlines()[2:]
    assert ", a cursor is open, at" in first
    assert ", runs a statement, at" in second


def test_what_a_leak_is_measured_by():
    seen = scene(BRISK, LONG, SLOW, ENDED, usual=0.05)
    sentence = verdict(seen).sentence
    assert "3 of 4 connections" in sentence
    assert "19 of 20 are back within 0.05 s" in sentence
    assert "the longest for 60 min, taken at app.py:1" in sentence
    assert "of 1 all holders have ended" in sentence
    assert "1 run a statement, which may be slow or blocked" in sentence


def test_the_size_that_would_do():
    sentence = verdict(scene(BRISK, BRISK, usual=0.1, wanted=7)).sentence
    assert "all 2 connections are in brisk use" in sentence
    assert "would need about 7" in sentence


def test_the_report():
    seen = scene(
        held(75.5, 70, name="web-1", where="app.py:7 in view"),
        held(2.5, 0.5, alive=False, busy=True),
        dataclasses.replace(KEPT, waits=True),
        waited=30.02,
        waiting=1,
        overflow=1,
        connect_error="OperationalError: refused",
        name="books",
    )
    text = report(seen, "The verdict.", "connection timed out, timeout 30.00")
    assert text.splitlines() == [
        "The verdict.",
        "QueuePool limit of size 2 overflow 1 reached, connection timed out, "
        "timeout 30.00 (waited 30.0 s, 1 other waits, pool 'books')",
        "Newest connect error: OperationalError: refused",
        "  web-1 alive, held 75.5 s, last used 70.0 s ago, in a transaction, "
        "at app.py:7 in view",
        "  worker ended, held 2.50 s, last used 0.50 s ago, in a "
        "transaction, runs a statement, at app.py:1 in work",
        "  worker alive, held 2.8 h, last used 2.8 h ago, in a transaction, "
        "waits for this pool, kept, at app.py:1 in work",
    ]


def test_a_thread_has_one_line_whatever_its_name():
    seen = scene(held(name="a\nb\tc"), held(name="x" * 500))
    lines = report(seen, "The verdict.", "timed out").splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("  a b c alive, ")
    assert lines[3].startswith(f"  {'x' * 57}... alive, ")


def test_a_long_report_is_cut():
    text = report(scene(*[BRISK] * 500), "The verdict.", "timed out")
    lines = text.splitlines()
    assert len(lines) <= 24
    assert lines[-1] == "  ... and 482 more"


def test_many_holders_of_one_are_counted():
    holders = tuple(HolderInfo(f"t{n}", n % 2 == 0) for n in range(9))
    info = dataclasses.replace(BRISK.info, holders=holders)
    [*_, line] = report(scene(Held(info)), "v", "o").splitlines()
    assert line.startswith("  t0 alive; t1 ended; t2 alive and 6 more, held")


helds = st.builds(
    held,
    st.floats(0, 9999),
    st.floats(0, 9999),
    alive=st.booleans(),
    kept=st.booleans(),
    own=st.booleans(),
    waits=st.booleans(),
    busy=st.booleans(),
)
scenes = st.builds(
    Scene,
    leases=st.lists(helds, max_size=30).map(tuple),
    waited=st.floats(0, 100),
    limit=st.none() | st.floats(0, 100),
    size=st.integers(0, 30),
    overflow=st.integers(-30, 30),
    waiting=st.integers(0, 100),
    deadlock=st.booleans(),
    opening=st.integers(0, 5),
    opening_for=st.floats(0, 100),
    connect_error=st.none() | st.text(max_size=300),
    usual=st.none() | st.floats(0, 100),
    wanted=st.integers(0, 500),
    permits=st.none() | st.integers(1, 9),
    name=st.none() | st.text(max_size=20),
)


@given(scenes)
def test_there_is_always_exactly_one_verdict(seen):
    reason, sentence = verdict(seen)
    assert reason in SCENES
    assert sentence.count("\n") == 0
    assert len(report(seen, sentence, "timed out").split("\n")) <= 24 + (
        seen.connect_error or ""
    ).count("\n")


# what is usual


def habits(*held_for, now=100.0):
    habits = Habits()
    for seconds in held_for:
        habits.returned((now, seconds))
    return habits


def test_nothing_is_usual_at_first():
    assert habits(*[1.0] * 4).usual() is None
    assert habits(*[1.0] * 5).usual() == 1.0


def test_the_rare_long_one_does_not_count():
    assert habits(*[0.01] * 95, *[3600.0] * 5).usual() == 0.01
    # but one of ten is as usual as the others
    assert habits(*[0.01] * 90, *[3600.0] * 10).usual() == 3600.0


def test_what_is_usual_changes():
    assert habits(*[5.0] * 999, *[0.01] * SEEN).usual() == 0.01


@pytest.mark.parametrize(
    "served, refused, in_use, waiting, wanted",
    [
        # twice as many ask as are served
        (100, 90, 4, 10, 8),
        # nobody else: one more will do
        (100, 0, 4, 1, 5),
        # no more than who is there, however often he asks
        (10, 200, 4, 3, 7),
        (0, 0, 4, 6, 10),
        (0, 0, 4, 0, 5),
        (1, 0, 0, 1, 1),
    ],
)
def test_what_the_demand_would_need(served, refused, in_use, waiting, wanted):
    seen = habits(*[0.1] * served)
    for _ in range(refused):
        seen.refused(99.0)
    # what was before does not count
    seen.refused(10.0)
    assert seen.wanted(in_use, waiting, 100.0, 30.0) == wanted
