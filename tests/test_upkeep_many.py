"""Decisions over many entries: as the plain ones, and in nobody's way.

What upkeep.py does in one pass is done here step by step, as it reads in
the documentation; for whatever entries and settings, both are to come to
the same.
"""

from __future__ import annotations

import functools
import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rounds import Clock
from rounds import a_pool
from rounds import closed
from rounds import returned
from rounds import work
from stub import Driver
from stub import Task
from test_upkeep import NOW
from test_upkeep import Entry
from test_upkeep import Lease
from test_upkeep import given_options

from sa_reaperpool import upkeep
from sa_reaperpool.upkeep import Act
from sa_reaperpool.upkeep import judge_idle
from sa_reaperpool.upkeep import judge_leases
from sa_reaperpool.upkeep import outlived
from sa_reaperpool.upkeep import still_due

MANY = 10_000

# few values, so that there are many of the same and at the very limit
seconds = st.sampled_from([0, 1, 2, 5, 8, 10, 20])
limits = st.sampled_from([None, 1, 2, 5, 10])
entries = st.lists(
    st.builds(
        Entry,
        opened=seconds,
        idle=seconds,
        quiet=seconds,
        spread=st.sampled_from([0.0, 0.1, 0.2]),
        outdated=st.sampled_from([None, None, None, "refreshed", "dead"]),
    ),
    max_size=30,
)
idle_settings = st.builds(
    given_options,
    pool_size=st.just(40),
    max_age=limits,
    idle_timeout=limits,
    keepalive=limits,
    min_idle=st.integers(0, 32),
)


def judge_plainly(entries, settings, now):
    verdicts, kept = [], []
    for entry in sorted(entries, key=lambda entry: entry.idle_since):
        reason = outlived(entry, settings, now)
        if reason:
            verdicts.append((entry, reason))
        else:
            kept.append(entry)
    if settings.idle_timeout is not None:
        spare = max(0, len(kept) - settings.min_idle)
        unused = [
            entry
            for entry in kept[:spare]
            if now - entry.idle_since >= settings.idle_timeout
        ]
        verdicts += [(entry, "idle") for entry in unused]
        kept = [entry for entry in kept if entry not in unused]
    if settings.keepalive is not None:
        verdicts += [
            (entry, None)
            for entry in kept
            if now - entry.traffic_at
            >= settings.keepalive * (1 - entry.spread)
        ]
    return verdicts


@given(entries, idle_settings)
def test_idle_ones_as_step_by_step(entries, settings):
    expected = judge_plainly(entries, settings, NOW)
    assert judge_idle(entries, settings, NOW) == expected


@given(entries, idle_settings)
def test_what_is_due_is_so_still(entries, settings):
    verdicts = judge_idle(entries, settings, NOW)
    for entry, reason in verdicts:
        assert still_due(entry, reason, settings, NOW)
    for entry, reason in verdicts:
        # lent and returned since, which is not done to one that is too old
        entry.idle_since = entry.traffic_at = NOW
        used = still_due(entry, reason, settings, NOW)
        assert used is (reason != "idle" or bool(entry.outdated))


# leases

leases = st.lists(
    st.builds(
        Lease,
        held=seconds,
        unused=seconds,
        ended=st.booleans(),
        kept=st.sampled_from([False, False, True]),
        reserved=st.booleans(),
        leak_reported=st.booleans(),
        quiet=st.none() | seconds,
    ),
    max_size=10,
)
lease_settings = st.builds(
    given_options,
    dead_connection_timeout=limits,
    leak_timeout=limits,
    reclaim_timeout=limits,
)


def acts_plainly(lease, settings):
    """What is to be done about a lease as it is, and when."""
    grace = settings.dead_connection_timeout
    if grace is not None:
        if lease.abandoned():
            yield Act.REAP, lease.used + (0 if lease.reserved else grace)
        else:
            yield Act.LOOK, lease.used + grace
    if settings.leak_timeout is not None and not lease.leak_reported:
        yield Act.REPORT, lease.taken + settings.leak_timeout
    if settings.reclaim_timeout is not None:
        if lease.quiet_since <= lease.used:
            yield Act.WATCH, lease.used + settings.reclaim_timeout / 4
        else:
            yield Act.RECLAIM, lease.quiet_since + settings.reclaim_timeout


@given(leases, lease_settings)
def test_leases_as_step_by_step(leases, settings):
    expected, later = [], []
    if settings.leak_timeout is not None:
        later.append(NOW + settings.leak_timeout)
    if settings.reclaim_timeout is not None:
        later.append(NOW + settings.reclaim_timeout / 4)
    for lease in leases:
        acts = [] if lease.kept else list(acts_plainly(lease, settings))
        due = [act for act, at in acts if at <= NOW]
        later += [
            at for act, at in acts if at > NOW and act is not Act.LOOK
        ]
        expected += [
            (lease, act)
            for act in due
            if Act.REAP not in due or act not in (Act.WATCH, Act.RECLAIM)
        ]
    verdicts, next_one = judge_leases(leases, settings, NOW)
    assert verdicts == expected
    assert next_one == min(later, default=None)


# many, in a pool


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def make(driver, clock):
    return functools.partial(a_pool, driver)


def test_checkouts_in_the_midst_of_a_round_over_many(
    make, clock, driver, monkeypatch
):
    """While it judges, and while it closes, nobody has to wait for it."""
    pool = make(pool_size=MANY, max_overflow=0, max_age=100)
    returned(pool, MANY)
    for entry in pool.idle_entries()[MANY // 2 :: 500]:
        entry.opened_at -= 1
    lent = []

    def check_out(*args):
        with Task(pool.connect).result() as handle:
            lent.append(handle.dbapi_connection.number)

    def judge(entries, settings, now):
        if settings is not pool.settings:
            # of a pool that another test has left to the reaper
            return judge_idle(entries, settings, now)
        check_out()
        try:
            return judge_idle(entries, settings, now)
        finally:
            check_out()

    monkeypatch.setattr(upkeep, "judge_idle", judge)
    driver.when_closed = check_out
    work(pool, clock, 99)
    assert closed(pool) == {"age": 10}
    assert len(lent) == 12
    assert pool.checkedin() == MANY - 10


@pytest.mark.parametrize("moment", ["judge_idle", "still_due"])
def test_what_was_used_since_it_was_judged_is_kept(
    make, clock, monkeypatch, moment
):
    pool = make(pool_size=4, idle_timeout=10)
    returned(pool, 4)
    first = pool.idle_entries()[0]
    decide = getattr(upkeep, moment)

    def decided(*args):
        decision = decide(*args)
        if pool.idle_entries()[0] is first:
            pool.connect().close()
        return decision

    monkeypatch.setattr(upkeep, moment, decided)
    work(pool, clock, 10)
    assert closed(pool) == {"idle": 3}
    assert pool.idle_entries() == [first]


def test_what_was_judged_long_ago_is_judged_anew(make, clock):
    """Who is to act may have hung on frozen peers."""
    pool = make(pool_size=4, idle_timeout=10, min_idle=2)
    returned(pool, 4)
    tasks = {}
    pool.tend(clock() + 10, tasks.__setitem__)
    handles = [pool.connect() for _ in range(2)]
    clock.now += 11
    tasks["idle"]()
    # two are idle, and so many are wanted
    assert closed(pool) == {}
    for handle in handles:
        handle.close()


def test_what_is_to_be_done_keeps_nothing(make, clock):
    """Lost by an interrupted line meanwhile, its slot is to be free."""
    pool = make(pool_size=2, max_overflow=0, idle_timeout=10)
    returned(pool, 2)
    tasks = {}
    clock.now += 10
    pool.tend(clock(), tasks.__setitem__)
    entry = weakref.ref(pool.queue.get_nowait())
    gc.collect()
    assert entry() is None
    tasks["idle"]()
    assert closed(pool) == {"failed": 1, "idle": 1}


@pytest.mark.parametrize("min_idle", [0, 3])
def test_few_are_wanted_of_many(make, clock, min_idle):
    pool = make(pool_size=50, idle_timeout=10, min_idle=min_idle)
    returned(pool, 50)
    work(pool, clock, 10)
    assert closed(pool) == {"idle": 50 - min_idle}
    assert pool.checkedin() == min_idle
