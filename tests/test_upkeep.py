"""Decisions: given entries, settings and a time, what is to be done."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sa_reaperpool.options import Settings
from sa_reaperpool.options import validate
from sa_reaperpool.upkeep import Act
from sa_reaperpool.upkeep import backoff
from sa_reaperpool.upkeep import judge_idle
from sa_reaperpool.upkeep import judge_leases
from sa_reaperpool.upkeep import missing
from sa_reaperpool.upkeep import outlived

NOW = 1000.0


@dataclass(eq=False)
class Entry:
    """All times are seconds before NOW."""

    opened: float = 0.0
    idle: float = 0.0
    quiet: float = 0.0
    spread: float = 0.0
    outdated: str | None = None

    def __post_init__(self):
        self.opened_at = NOW - self.opened
        self.idle_since = NOW - self.idle
        self.traffic_at = NOW - self.quiet


@dataclass(eq=False)
class Lease:
    """All times are seconds before NOW."""

    held: float = 0.0
    unused: float = 0.0
    ended: bool = False
    kept: bool = False
    reserved: bool = False
    leak_reported: bool = False
    quiet: float | None = None

    def __post_init__(self):
        self.taken = NOW - self.held
        self.used = NOW - self.unused
        self.quiet_since = 0.0 if self.quiet is None else NOW - self.quiet

    def abandoned(self):
        return self.ended


def given_options(**options):
    options.setdefault("pool_size", 20)
    return Settings.of(validate(options))


def idle_verdicts(entries, **options):
    return judge_idle(entries, given_options(**options), NOW)


def acts(*leases, **options):
    options.setdefault("dead_connection_timeout", 5)
    verdicts, _ = judge_leases(leases, given_options(**options), NOW)
    return [(leases.index(lease), act) for lease, act in verdicts]


def next_due(*leases, **options):
    options.setdefault("dead_connection_timeout", 5)
    return judge_leases(leases, given_options(**options), NOW)[1]


# idle: age


@pytest.mark.parametrize("age, reason", [(9.99, None), (10, "age")])
def test_max_age(age, reason):
    settings = given_options(max_age=10)
    assert outlived(Entry(opened=age), settings, NOW) == reason


@pytest.mark.parametrize("age, reason", [(7.9, None), (8, "age")])
def test_max_age_is_shortened_by_the_entrys_fraction(age, reason):
    settings = given_options(max_age=10)
    entry = Entry(opened=age, spread=0.2)
    assert outlived(entry, settings, NOW) == reason


def test_without_max_age_nobody_is_too_old():
    assert outlived(Entry(opened=900), given_options(), NOW) is None


@pytest.mark.parametrize("reason", ["refreshed", "shutdown"])
def test_outdated_goes_first(reason):
    entry = Entry(opened=50, idle=50, outdated=reason)
    options = {"max_age": 10, "idle_timeout": 10}
    assert outlived(entry, given_options(**options), NOW) == reason
    assert idle_verdicts([entry], **options) == [(entry, reason)]


def test_too_old_are_closed_longest_idle_first():
    entries = [Entry(opened=20, idle=n) for n in (3, 9, 1, 5)]
    verdicts = idle_verdicts(entries, max_age=10)
    assert [entry.idle for entry, _ in verdicts] == [9, 5, 3, 1]
    assert {reason for _, reason in verdicts} == {"age"}


def test_max_age_does_not_stop_at_min_idle():
    entries = [Entry(opened=20), Entry(opened=20)]
    assert len(idle_verdicts(entries, max_age=10, min_idle=2)) == 2


# idle: idle_timeout


@pytest.mark.parametrize("idle, closes", [(9.99, False), (10, True)])
def test_idle_timeout(idle, closes):
    entry = Entry(opened=100, idle=idle)
    expected = [(entry, "idle")] if closes else []
    assert idle_verdicts([entry], idle_timeout=10) == expected


def test_idle_timeout_shrinks_to_min_idle_longest_idle_first():
    entries = [Entry(idle=20 + n) for n in range(20)]
    random.Random(5).shuffle(entries)
    verdicts = idle_verdicts(entries, idle_timeout=10, min_idle=6)
    assert [entry.idle for entry, _ in verdicts] == list(range(39, 25, -1))
    assert {reason for _, reason in verdicts} == {"idle"}


def test_young_ones_count_for_min_idle():
    old, young = Entry(idle=50), Entry(idle=1)
    assert idle_verdicts([young, old], idle_timeout=10, min_idle=1) == [
        (old, "idle")
    ]
    assert idle_verdicts([young, old], idle_timeout=10, min_idle=2) == []


def test_those_too_old_do_not_count_for_min_idle():
    aged = Entry(opened=99, idle=60)
    first, second = Entry(idle=50), Entry(idle=40)
    verdicts = idle_verdicts(
        [second, first, aged], idle_timeout=10, min_idle=1, max_age=90
    )
    assert verdicts == [(aged, "age"), (first, "idle")]


# idle: keepalive


@pytest.mark.parametrize("quiet, pings", [(9.99, False), (10, True)])
def test_keepalive(quiet, pings):
    entry = Entry(quiet=quiet)
    expected = [(entry, None)] if pings else []
    assert idle_verdicts([entry], keepalive=10) == expected


@pytest.mark.parametrize("quiet, pings", [(7.9, False), (8, True)])
def test_keepalive_is_shortened_by_the_entrys_fraction(quiet, pings):
    entry = Entry(quiet=quiet, spread=0.2)
    assert bool(idle_verdicts([entry], keepalive=10)) is pings


def test_a_ping_is_no_use():
    # heard a moment ago, by a ping, and idle for long
    entry = Entry(idle=50, quiet=1)
    assert idle_verdicts([entry], keepalive=10, idle_timeout=20) == [
        (entry, "idle")
    ]


def test_nobody_is_pinged_who_is_closed():
    aged, spare, kept = (Entry(opened=a, idle=i, quiet=50) for a, i in (
        (99, 1), (50, 60), (50, 50)
    ))  # fmt: skip
    assert idle_verdicts(
        [kept, spare, aged],
        max_age=90,
        idle_timeout=10,
        min_idle=1,
        keepalive=10,
    ) == [(aged, "age"), (spare, "idle"), (kept, None)]


def test_nothing_to_do_by_default():
    assert idle_verdicts([Entry(900, 900, 900)]) == []


seconds = st.integers(0, 60)
entries_of_any_kind = st.lists(
    st.builds(
        Entry,
        opened=seconds,
        idle=seconds,
        quiet=seconds,
        spread=st.sampled_from([0.0, 0.1, 0.2]),
        outdated=st.sampled_from([None, None, None, "refreshed"]),
    ),
    max_size=12,
)
none_or_seconds = st.none() | st.integers(1, 60)


@given(
    entries=entries_of_any_kind,
    max_age=none_or_seconds,
    idle_timeout=none_or_seconds,
    keepalive=none_or_seconds,
    min_idle=st.integers(0, 8),
)
def test_idle_verdicts_hold_together(
    entries, max_age, idle_timeout, keepalive, min_idle
):
    verdicts = idle_verdicts(
        entries,
        max_age=max_age,
        idle_timeout=idle_timeout,
        keepalive=keepalive,
        min_idle=min_idle,
    )
    judged = [entry for entry, _ in verdicts]
    assert len(set(map(id, judged))) == len(judged)

    by_reason = {None: [], "age": [], "idle": [], "refreshed": []}
    for entry, reason in verdicts:
        by_reason[reason].append(entry)
    for reason in ("age", "idle"):
        idles = [entry.idle for entry in by_reason[reason]]
        assert idles == sorted(idles, reverse=True)

    kept = [
        entry
        for entry in entries
        if entry not in by_reason["age"] + by_reason["refreshed"]
    ]
    stay = [entry for entry in kept if entry not in by_reason["idle"]]
    assert all(entry.outdated is None for entry in stay)
    if by_reason["idle"]:
        assert len(stay) >= min_idle
        assert min(e.idle for e in by_reason["idle"]) >= idle_timeout
    if idle_timeout and len(stay) > min_idle:
        assert all(entry.idle < idle_timeout for entry in stay)
    if keepalive:
        due = [e for e in stay if e.quiet >= keepalive * (1 - e.spread)]
        assert set(map(id, by_reason[None])) == set(map(id, due))
    else:
        assert by_reason[None] == []


# min_idle


@pytest.mark.parametrize(
    "idle, live, limit, min_idle, opens",
    [
        (0, 0, 10, 0, 0),
        (0, 0, 10, 3, 3),
        (2, 2, 10, 3, 1),
        (3, 5, 10, 3, 0),
        (5, 5, 10, 3, 0),
        (0, 9, 10, 3, 1),
        (0, 10, 10, 3, 0),
        (0, 50, None, 3, 3),
        # a limit that was lowered since
        (0, 12, 10, 3, 0),
    ],
)
def test_missing(idle, live, limit, min_idle, opens):
    settings = given_options(min_idle=min_idle)
    assert missing(idle, live, limit, settings) == opens


def test_backoff_doubles_up_to_half_a_minute():
    waits = [backoff(failures, 1.0) for failures in range(1, 9)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff(100_000, 1.0) == 30


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_backoff_is_spread_over_half_of_it(failures, chance):
    longest = backoff(failures, 1.0)
    assert longest / 2 <= backoff(failures, chance) <= longest


# leases


@pytest.mark.parametrize("unused, reaps", [(4.99, False), (5, True)])
def test_an_abandoned_lease_after_its_grace(unused, reaps):
    lease = Lease(held=50, unused=unused, ended=True)
    assert acts(lease) == ([(0, Act.REAP)] if reaps else [])


def test_grace_counts_from_the_last_use_not_from_the_end():
    assert acts(Lease(held=900, unused=1, ended=True)) == []


def test_no_grace_at_all():
    lease = Lease(ended=True)
    assert acts(lease, dead_connection_timeout=0) == [(0, Act.REAP)]


@pytest.mark.parametrize("unused, looks", [(4.99, False), (5, True)])
def test_a_lease_long_unused_is_looked_at(unused, looks):
    lease = Lease(held=50, unused=unused)
    assert acts(lease) == ([(0, Act.LOOK)] if looks else [])


@pytest.mark.parametrize("held, reports", [(9.99, False), (10, True)])
def test_leak_timeout(held, reports):
    lease = Lease(held=held)
    expected = [(0, Act.REPORT)] if reports else []
    assert acts(lease, leak_timeout=10) == expected


def test_a_leak_is_reported_once():
    lease = Lease(held=50, leak_reported=True)
    assert acts(lease, leak_timeout=10) == []


def test_a_lease_in_brisk_use_may_be_a_leak_all_the_same():
    assert acts(Lease(held=50), leak_timeout=10) == [(0, Act.REPORT)]


def test_no_leak_without_leak_timeout():
    assert acts(Lease(held=900)) == []


@pytest.mark.parametrize("quiet", [None, 800])
@pytest.mark.parametrize("ended", [False, True])
def test_a_kept_lease_is_left_alone(ended, quiet):
    lease = Lease(held=900, unused=900, ended=ended, quiet=quiet, kept=True)
    assert acts(lease, leak_timeout=10, reclaim_timeout=10) == []
    assert next_due(lease) is None


RECLAIM = {"dead_connection_timeout": None, "reclaim_timeout": 40}


@pytest.mark.parametrize(
    "unused, quiet, act",
    [
        (9.9, None, None),
        (10, None, Act.WATCH),
        (900, None, Act.WATCH),
        (900, 39.9, None),
        (900, 40, Act.RECLAIM),
        # used again since it was seen to be quiet
        (9.9, 900, None),
        (10, 900, Act.WATCH),
        (10, 10, Act.WATCH),
    ],
)
def test_a_lease_is_quiet_for_long_before_it_is_reclaimed(unused, quiet, act):
    lease = Lease(held=900, unused=unused, quiet=quiet)
    expected = [] if act is None else [(0, act)]
    assert acts(lease, **RECLAIM) == expected
    assert acts(lease, dead_connection_timeout=None) == []


def test_what_is_reaped_need_not_be_reclaimed():
    lease = Lease(held=900, unused=100, quiet=90, ended=True)
    assert acts(lease, reclaim_timeout=40) == [(0, Act.REAP)]
    assert acts(lease, **RECLAIM) == [(0, Act.RECLAIM)]


def test_when_to_look_again():
    _, due = judge_leases([], given_options(**RECLAIM), NOW)
    assert due == NOW + 10
    _, due = judge_leases([], given_options(leak_timeout=7), NOW)
    assert due == NOW + 7
    for lease, expected in [
        (Lease(unused=3), NOW + 7),
        (Lease(unused=50, quiet=38), NOW + 2),
        (Lease(unused=50, quiet=3), NOW + 10),
    ]:
        _, due = judge_leases([lease], given_options(**RECLAIM), NOW)
        assert due == expected
    _, due = judge_leases([Lease(held=4)], given_options(leak_timeout=7), NOW)
    assert due == NOW + 3


def test_the_next_abandoned_lease_is_due():
    leases = [
        Lease(unused=1, ended=True),
        Lease(unused=3, ended=True),
        Lease(unused=2, ended=True),
        # these have their own times
        Lease(unused=4.5),
        Lease(unused=4.7, ended=True, kept=True),
        Lease(unused=60, ended=True),
    ]
    assert next_due(*leases) == NOW + 2


def test_nothing_is_due_while_all_holders_live():
    assert next_due(Lease(unused=4), Lease(unused=90)) is None


leases_of_any_kind = st.lists(
    st.builds(
        Lease,
        held=seconds,
        unused=seconds,
        ended=st.booleans(),
        kept=st.booleans(),
        leak_reported=st.booleans(),
        quiet=none_or_seconds,
    ),
    max_size=12,
)


@given(leases_of_any_kind, seconds, none_or_seconds, none_or_seconds)
def test_lease_verdicts_hold_together(
    leases, grace, leak_timeout, reclaim_timeout
):
    settings = given_options(
        dead_connection_timeout=grace,
        leak_timeout=leak_timeout,
        reclaim_timeout=reclaim_timeout,
    )
    verdicts, due = judge_leases(leases, settings, NOW)
    for lease, act in verdicts:
        assert not lease.kept
        if act is Act.REPORT:
            assert not lease.leak_reported and lease.held >= leak_timeout
        elif act is Act.WATCH:
            assert lease.unused >= reclaim_timeout / 4
        elif act is Act.RECLAIM:
            assert lease.unused > lease.quiet >= reclaim_timeout
        else:
            assert lease.unused >= grace
            assert lease.ended is (act is Act.REAP)
    if due is None:
        assert leak_timeout is None and reclaim_timeout is None
        return
    assert due > NOW
    # before that time there is nothing to be done that is not known now
    before, _ = judge_leases(leases, settings, NOW + (due - NOW) * 0.9)
    assert [each for each in before if each[1] is not Act.LOOK] == [
        each for each in verdicts if each[1] is not Act.LOOK
    ]
