"""Histograms of times: each time once, in its bucket."""

from __future__ import annotations

import random
import threading

import pytest
from stub import Driver
from stub import Task
from stub import switching_often

from sa_reaperpool import ReaperPool
from sa_reaperpool.timings import BOUNDS
from sa_reaperpool.timings import Histogram
from sa_reaperpool.timings import Histograms
from sa_reaperpool.timings import Timings

KINDS = ["wait", "use", "create"]


def tell(timings, kind, *seconds):
    told = {
        "wait": timings.waited,
        "use": timings.used,
        "create": timings.created,
    }
    for each in seconds:
        told[kind](each)


@pytest.mark.parametrize("kind", KINDS)
def test_each_in_its_bucket(kind):
    timings = Timings()
    tell(timings, kind, 0.0, 0.0001, 0.00011, 0.3, 0.5, 30.0, 31.0, 1000.0)
    found = getattr(timings.histograms(), kind)
    buckets = {
        bound: count for bound, count in zip([*BOUNDS, None], found.counts)
    }
    assert {bound: count for bound, count in buckets.items() if count} == {
        0.0001: 2,
        0.00025: 1,
        0.5: 2,
        30.0: 1,
        None: 2,
    }
    assert sum(found.sums) == pytest.approx(1061.80021)
    assert found.sums[-1] == 1031.0
    others = [each for each in KINDS if each != kind]
    for each in others:
        assert getattr(timings.histograms(), each) == Histogram()


def test_bounds_are_in_order():
    assert list(BOUNDS) == sorted(set(BOUNDS))


def test_goes_on_counting():
    timings = Timings()
    for _ in range(3):
        tell(timings, "use", 0.2)
        timings.histograms()
    assert sum(timings.histograms().use.counts) == 3
    assert timings.histograms().use.sums[BOUNDS.index(0.25)] == pytest.approx(
        0.6
    )


def test_keeps_little():
    timings = Timings()
    lists = (timings._waits, timings._uses, timings._creates)
    for tell in (timings.waited, timings.used, timings.created):
        for _ in range(5000):
            tell(0.1)
            timings.count_if_many()
        assert max(map(len, lists)) <= 1000
    found = timings.histograms()
    for kind in (found.wait, found.use, found.create):
        assert sum(kind.counts) == 5000


def test_what_waits_for_nothing():
    timings = Timings()
    for _ in range(2):
        for _ in range(3):
            next(timings.at_once)
        timings.waited(50.0)
        found = timings.histograms().wait
    assert (found.counts[0], found.counts[-1]) == (6, 2)
    assert sum(found.counts) == 8 and sum(found.sums) == 100.0


def test_added_up():
    timings = Timings()
    tell(timings, "wait", 0.2, 50.0)
    one = timings.histograms()
    both = one + one
    assert sum(both.wait.counts) == 4 and both.wait.sums[-1] == 100.0
    assert Histograms() + one == one


def test_from_many_threads():
    timings = Timings()
    over = threading.Event()

    def work(seed):
        chance = random.Random(seed)
        for _ in range(3000):
            timings.waited(chance.random())
            timings.used(chance.random())
            next(timings.at_once)
            timings.count_if_many()

    def read():
        while not over.is_set():
            timings.histograms()

    with switching_often():
        reader = Task(read)
        for task in [Task(work, seed) for seed in range(4)]:
            task.result()
    over.set()
    reader.result()
    found = timings.histograms()
    assert sum(found.use.counts) == 12000
    assert sum(found.wait.counts) == 24000


def test_inside_its_own_count():
    """As by a finaliser that returns a connection there."""
    timings = Timings()
    done = []

    class Seconds(float):
        def __lt__(self, other):
            if not done:
                done.append(1)
                for _ in range(1500):
                    timings.used(0.5)
                    timings.count_if_many()
            return super().__lt__(other)

    tell(timings, "use", Seconds(0.1), Seconds(0.2))
    timings.histograms()
    assert sum(timings.histograms().use.counts) == 1502


# a pool's


def a_pool():
    return ReaperPool(Driver().connect, reaping_frequency=None)


def test_off_by_default():
    assert a_pool().timings is None


def test_a_new_pool_goes_on_with_them():
    pool = a_pool()
    assert pool.recreate().timings is None
    pool.timings = timings = Timings()
    assert pool.recreate().timings is timings


def test_a_child_begins_anew():
    pool = a_pool()
    pool.timings = timings = Timings()
    pool.forked(pool.process)
    assert pool.timings is not timings
    assert pool.timings.histograms() == Histograms()


def test_asked_inside_its_own_count():
    """As by a signal's handler."""
    timings = Timings()
    asked = []

    class Seconds(float):
        def __lt__(self, other):
            asked.append(timings.histograms())
            return super().__lt__(other)

    tell(timings, "use", 0.5)
    before = timings.histograms()
    tell(timings, "use", *(Seconds(0.1) for _ in range(9)))
    assert sum(timings.histograms().use.counts) == 10
    assert set(asked) == {before}
