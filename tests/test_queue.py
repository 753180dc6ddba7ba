"""The queue: the limit, the order, and slots that come free by any way."""

from __future__ import annotations

import gc
import random
import threading
from collections import deque

import pytest
from queues import Entry
from queues import Queue
from queues import waiters

from sa_reaperpool import queue as queue_module
from sa_reaperpool import slots

# the limit


def test_no_more_entries_than_the_limit():
    queue = Queue(limit=2)
    entries = [queue.get_nowait(), queue.get_nowait()]
    assert len(set(entries)) == 2
    assert queue.get_nowait() is None
    assert queue.live() == 2


def test_without_a_limit_there_is_always_one():
    queue = Queue()
    assert len({queue.get_nowait() for _ in range(50)}) == 50


def test_surplus_is_reported_outside_the_lock_and_counts_until_discarded():
    queue = Queue(maxsize=1, limit=3)
    first, second, third = (queue.get_nowait() for _ in range(3))
    queue.put(first)
    queue.put(second)
    assert queue.surplus == [second]
    assert not queue.surplus_under_lock
    assert queue.live() == 3
    queue.discard(second)
    assert queue.live() == 2
    assert queue.idle() == [first]


def test_maxsize_zero_keeps_any_number():
    queue = Queue(maxsize=0)
    entries = [queue.get_nowait() for _ in range(20)]
    for entry in entries:
        queue.put(entry)
    assert queue.idle() == entries
    assert queue.surplus == []


@pytest.mark.parametrize("use_lifo", [False, True])
def test_order_of_idle_entries(use_lifo):
    queue = Queue(limit=3, use_lifo=use_lifo)
    entries = [queue.get_nowait() for _ in range(3)]
    for entry in entries:
        queue.put(entry)
    got = [queue.get_nowait() for _ in range(3)]
    assert got == (entries[::-1] if use_lifo else entries)


def test_a_lost_entry_frees_its_slot():
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    del entry
    gc.collect()
    assert queue.live() == 0
    assert queue.get_nowait() is not None


def test_a_failing_factory_takes_no_slot():
    errors = deque([ValueError()])

    def make():
        if errors:
            raise errors.popleft()
        return Entry()

    queue = Queue(make, limit=1)
    with pytest.raises(ValueError):
        queue.get_nowait()
    assert queue.get_nowait() is not None


# waiting


@pytest.mark.parametrize("use_lifo", [False, True])
def test_waiters_are_served_in_the_order_they_came(use_lifo):
    queue = Queue(limit=1, use_lifo=use_lifo)
    entry = queue.get_nowait()
    served = []
    tasks = waiters(queue, 4, served)
    for place in range(4):
        queue.put(entry)
        tasks[place].result()
        assert served == [(n, entry) for n in range(place + 1)]
    assert queue.waiting() == 0


def test_nobody_overtakes_who_waits():
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    tasks = waiters(queue, 1, [])
    queue.put(entry)
    # the one who put it back was fast, but it is not there any more
    assert queue.get_nowait() is None
    assert tasks[0].result() is entry


@pytest.mark.parametrize("way", ["put", "discard", "garbage", "forget"])
def test_a_slot_that_comes_free_wakes_a_waiter(way):
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    [task] = waiters(queue, 1, [])
    if way == "put":
        queue.put(entry)
    elif way == "discard":
        queue.discard(entry)
    elif way == "garbage":
        del entry
        gc.collect()
    else:
        queue.forget()
    assert task.result() is not None


def test_purge_finds_a_slot_whose_loss_nobody_noticed():
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    queue._entry_died = None
    queue._live.clear()
    # a reference whose callback never came
    ref = slots._EntryRef(entry)
    ref.key = id(entry)
    queue._live[ref.key] = ref
    [task] = waiters(queue, 1, [])
    del entry
    gc.collect()
    assert queue.live() == 1
    del queue._entry_died
    queue.purge()
    assert task.result() is not None


def late_reference(entry):
    """To one that died at the same address, before this one was made."""
    late = slots._EntryRef(Entry())
    assert late() is None
    late.key = id(entry)
    return late


def test_a_late_end_is_not_that_of_who_lives_at_the_same_address():
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    queue._entry_died(late_reference(entry))
    assert queue.counts(entry)
    assert queue.get_nowait() is None


def test_purge_spares_who_came_to_the_same_address_meanwhile():
    class Live(dict):
        def items(self):
            # as it was a moment ago
            return [(late.key, late)]

    queue = Queue(limit=1)
    entry = queue.get_nowait()
    late = late_reference(entry)
    queue._live = Live(queue._live)
    queue.purge()
    assert queue.counts(entry)
    assert queue.get_nowait() is None


def test_who_lines_up_while_an_entry_is_put_back():
    """It takes no lock for that, and so may come at any line."""
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    served = []
    shelve = queue._shelve

    def shelve_late(entry):
        tasks.extend(waiters(queue, 1, served))
        shelve(entry)

    tasks = []
    queue._shelve = shelve_late
    queue.put(entry)
    del queue._shelve
    [task] = tasks
    assert task.result() is entry


def test_who_lines_up_while_the_line_is_looked_at():
    """It takes no lock for that either."""

    class LookedAt:
        @property
        def entry(self):
            queue._waiters.append(late)

    queue = Queue(limit=1)
    late = queue_module.Waiter()
    first = LookedAt()
    queue._waiters.append(first)
    assert queue.line() == [first]
    assert list(queue._waiters) == [first, late]


def test_what_is_laid_down_as_the_queue_is_closed():
    """It is closed as well, and lent to nobody before that."""
    queue = Queue(limit=2)
    entry = queue.get_nowait()
    queue.closed = queue._shedding = True
    queue.queue.append(entry)
    assert queue.get_nowait() is None
    queue.settle()
    assert queue.surplus == [entry]


@pytest.mark.parametrize("seed", range(5))
def test_any_of_many_idle_ones_can_be_claimed(seed):
    """Also where two that came back at once have changed places."""
    chance = random.Random(seed)
    queue = Queue()
    entries = [queue.get_nowait() for _ in range(60)]
    for entry in entries:
        queue.put(entry)
    for _ in range(6):
        here = chance.randrange(59)
        queue.queue[here], queue.queue[here + 1] = (
            queue.queue[here + 1],
            queue.queue[here],
        )
    left = list(queue.queue)
    chance.shuffle(entries)
    for entry in entries:
        assert queue.claim(entry)
        assert not queue.claim(entry)
        left.remove(entry)
        assert list(queue.queue) == left
    assert queue.live() == 60


def test_time_is_up():
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    assert queue.get(0) is None
    assert queue.get(0.001) is None
    assert queue.waiting() == 0
    assert queue.waits == 2
    assert 0.001 <= queue.longest_wait <= queue.waited
    # who gave up is owed nothing
    queue.put(entry)
    assert queue.idle() == [entry]


def test_served_at_the_last_moment(monkeypatch):
    queue = Queue(limit=1)
    entry = queue.get_nowait()

    def sleep(waiter, seconds):
        queue.put(entry)

    monkeypatch.setattr(queue_module.Waiter, "sleep", sleep)
    assert queue.get(0.0) is entry
    assert queue.idle() == []


@pytest.mark.parametrize("served", [False, True])
def test_interrupted_while_waiting(monkeypatch, served):
    queue = Queue(limit=1)
    entry = queue.get_nowait()

    def sleep(waiter, seconds):
        if served:
            queue.put(entry)
        raise KeyboardInterrupt

    monkeypatch.setattr(queue_module.Waiter, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        queue.get()
    assert queue.waiting() == 0
    if not served:
        queue.put(entry)
    assert queue.idle() == [entry]


def test_interrupted_with_an_entry_in_hand_serves_the_next(monkeypatch):
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    sleep = queue_module.Waiter.sleep
    interrupted = threading.Event()

    def interrupt(waiter, seconds):
        sleep(waiter, seconds)
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    monkeypatch.setattr(queue_module.Waiter, "sleep", interrupt)
    first, second = waiters(queue, 2, [])
    queue.put(entry)
    with pytest.raises(KeyboardInterrupt):
        first.result()
    assert second.result() is entry


# reserve, claim, forget


def test_reserve_takes_free_room_only():
    queue = Queue(limit=2)
    idle = queue.get_nowait()
    queue.put(idle)
    reserved = queue.reserve()
    assert reserved is not idle
    assert queue.reserve() is None


def test_reserve_leaves_what_is_free_to_who_waits():
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    [task] = waiters(queue, 1, [])
    # room, and nobody served yet: the moment before settle()
    queue.limit = 2
    assert queue.reserve() is None
    queue.settle()
    assert task.result() is not entry


def test_claim_is_won_once():
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    assert not queue.claim(entry)
    queue.put(entry)
    assert queue.claim(entry)
    assert not queue.claim(entry)
    assert queue.live() == 1
    assert queue.get_nowait() is None


def test_forget_leaves_nothing_and_counts_nothing():
    queue = Queue(limit=2)
    out, idle = queue.get_nowait(), queue.get_nowait()
    queue.put(idle)
    assert queue.forget() == [idle]
    assert (queue.live(), queue.qsize()) == (0, 0)
    queue.put(out)
    assert queue.live() == 1
    assert queue.idle() == [out]


def test_forgotten_entry_is_surplus_where_its_place_is_taken():
    queue = Queue(limit=1)
    out = queue.get_nowait()
    queue.forget()
    taken = queue.get_nowait()
    assert taken is not out
    queue.put(out)
    assert queue.surplus == [out]
    assert queue.live() == 1


def test_no_turn_comes_twice_although_an_entry_is_counted_anew():
    """Else who failed long ago would close what is somebody else's now."""
    queue = queue_module.FairQueue(Entry, str, maxsize=1, limit=1)
    entry = queue.get_nowait()
    turns = []
    for forget in (False, True, False, True):
        if forget:
            queue.forget()
            assert queue.turn(entry) == -1
        queue.put(entry)
        turns.append(queue.turn(entry))
        assert queue.claim(entry)
    assert len(set(turns)) == len(turns)
