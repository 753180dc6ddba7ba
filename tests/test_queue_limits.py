"""A queue whose limits change, and one that is closed."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import invariant
from hypothesis.stateful import precondition
from hypothesis.stateful import rule
from queues import Queue
from queues import waiters
from stub import HookedLock
from stub import Task
from stub import until
from test_interruption import Interrupter


def resize(queue, maxsize, limit):
    queue.resize(maxsize, limit)
    queue.settle()


def taken(queue, count):
    return [queue.get_nowait() for _ in range(count)]


def discard_surplus(queue):
    while queue.surplus:
        queue.discard(queue.surplus.pop())


# more


def test_growing_serves_as_many_as_there_is_room_for():
    queue = Queue(maxsize=1, limit=1)
    out, served = taken(queue, 1), []
    tasks = waiters(queue, 5, served)
    resize(queue, 2, 4)
    for task in tasks[:3]:
        out.append(task.result())
    assert queue.waiting() == 2
    assert queue.live() == 4
    assert sorted(place for place, _ in served) == [0, 1, 2]
    queue.put(out.pop())
    assert tasks[3].result() is not None
    queue.put(out.pop())
    assert tasks[4].result() is not None


def test_no_limit_serves_all():
    queue = Queue(maxsize=1, limit=1)
    out = taken(queue, 1)
    tasks = waiters(queue, 5, [])
    resize(queue, 0, None)
    entries = {task.result() for task in tasks}
    assert len(entries | set(out)) == queue.live() == 6


# fewer


def test_idle_ones_that_are_too_many_go_now_longest_idle_first():
    queue = Queue(maxsize=5, limit=5)
    entries = taken(queue, 5)
    for entry in entries:
        queue.put(entry)
    resize(queue, 3, 5)
    assert queue.surplus == entries[:2]
    discard_surplus(queue)
    resize(queue, 3, 1)
    assert queue.surplus == entries[2:4]
    assert queue.idle() == entries[4:]


def test_those_out_that_are_too_many_go_at_their_return():
    queue = Queue(maxsize=5, limit=5)
    entries = taken(queue, 5)
    resize(queue, 2, 2)
    assert queue.surplus == []
    assert queue.get_nowait() is None
    for entry in entries:
        queue.put(entry)
    # though not one of them has ended by now
    assert queue.surplus == entries[:3]
    assert queue.idle() == entries[3:]
    assert queue.live() == 5
    assert queue.get_nowait() is entries[3]
    discard_surplus(queue)
    assert queue.live() == 2


def test_idle_and_out_together():
    queue = Queue(maxsize=5, limit=5)
    entries = taken(queue, 5)
    queue.put(entries[0])
    queue.put(entries[1])
    resize(queue, 2, 2)
    assert queue.surplus == entries[:2]
    for entry in entries[2:]:
        queue.put(entry)
    assert queue.surplus == entries[:3]
    assert queue.idle() == entries[3:]


def test_from_no_limit():
    queue = Queue()
    entries = taken(queue, 8)
    for entry in entries[:4]:
        queue.put(entry)
    resize(queue, 1, 3)
    assert queue.surplus == entries[:4]
    for entry in entries[4:]:
        queue.put(entry)
    # one goes for the limit; of the others only one is kept idle
    assert len(queue.surplus) == 7
    assert queue.qsize() == 1


def test_who_waits_gets_what_stays():
    queue = Queue(maxsize=3, limit=3)
    entries = taken(queue, 3)
    tasks = waiters(queue, 2, [])
    resize(queue, 1, 1)
    queue.put(entries[0])
    queue.put(entries[1])
    assert queue.waiting() == 2
    queue.put(entries[2])
    assert tasks[0].result() is entries[2]
    queue.put(entries[2])
    assert tasks[1].result() is entries[2]


def test_who_waits_gets_a_new_one_once_there_is_room():
    queue = Queue(maxsize=3, limit=3)
    entries = taken(queue, 3)
    [task] = waiters(queue, 1, [])
    resize(queue, 1, 1)
    for entry in entries:
        assert queue.waiting() == 1
        queue.discard(entry)
    assert task.result() not in entries


def test_larger_again_before_anything_came_back():
    queue = Queue(maxsize=3, limit=3)
    entries = taken(queue, 3)
    resize(queue, 1, 1)
    resize(queue, 3, 3)
    for entry in entries:
        queue.put(entry)
    assert queue.surplus == []
    assert queue.idle() == entries


def test_after_shrinking_returns_are_quick_again():
    queue = Queue(maxsize=2, limit=2)
    entries = taken(queue, 2)
    resize(queue, 1, 1)
    queue.put(entries[0])
    discard_surplus(queue)
    calls = []
    queue._match = lambda: calls.append(1)
    queue.put(entries[1])
    del queue._match
    assert calls == []
    assert queue.idle() == [entries[1]]


# closed


def test_a_closed_queue_gives_nothing_and_keeps_nothing():
    queue = Queue(maxsize=3, limit=3)
    entries = taken(queue, 3)
    queue.put(entries[0])
    queue.close()
    assert queue.surplus == [entries[0]]
    assert not queue.surplus_under_lock
    assert queue.get_nowait() is None
    assert Task(queue.get).result() is None
    assert queue.reserve() is None
    assert not queue.claim(entries[0])
    queue.put(entries[1])
    queue.discard(entries[2])
    assert queue.surplus == entries[:2]
    assert queue.idle() == []
    discard_surplus(queue)
    assert queue.live() == 0
    assert queue.get_nowait() is None
    assert not queue.unsettled()
    queue.close()


def test_closing_wakes_all_who_wait():
    queue = Queue(limit=2)
    out, served = taken(queue, 2), []
    tasks = waiters(queue, 9, served)
    queue.close()
    assert [task.result() for task in tasks] == [None] * 9
    assert queue.waiting() == 0
    assert len(out) == 2


def test_what_was_forgotten_and_comes_back_is_surplus():
    queue = Queue(limit=2)
    [entry] = taken(queue, 1)
    queue.forget()
    queue.close()
    queue.put(entry)
    assert queue.surplus == [entry]
    assert queue.live() == 0


def test_resizing_opens_nothing_again():
    queue = Queue(limit=2)
    queue.close()
    resize(queue, 5, 9)
    assert queue.get_nowait() is None
    assert (queue.maxsize, queue.limit) == (5, 9)


# watching


def test_what_is_true_already_is_not_waited_for():
    queue = Queue()
    assert queue.wait_until(lambda: True, 3600)
    assert queue.wait_until(lambda: True, 0)


def test_what_does_not_come_true():
    queue = Queue()
    assert not queue.wait_until(lambda: False, 0)
    assert not queue.wait_until(lambda: False, 0.01)
    queue.close()
    assert not queue.wait_until(lambda: False, 0.01)
    assert not queue._watchers


def test_all_who_watch_are_woken_by_the_end():
    queue = Queue(limit=3)
    entries = taken(queue, 3)
    tasks = []
    for place in range(4):
        tasks.append(
            Task(queue.wait_until, lambda: queue.closed, 3600),
        )
        until(lambda: len(queue._watchers) == place + 1)
    queue.close()
    assert [task.result() for task in tasks] == [True] * 4
    tasks = [
        Task(queue.wait_until, lambda: not queue.live(), 3600)
        for _ in range(4)
    ]
    while entries:
        until(lambda: len(queue._watchers) == 4)
        assert all(task.is_alive() for task in tasks)
        queue.discard(entries.pop())
    assert [task.result() for task in tasks] == [True] * 4


def test_watched_beside_a_lock_of_its_own():
    queue = Queue()
    lock = queue._lock = HookedLock()
    told = []
    lock.hooks["begin"] = lambda: told.append(
        queue.wait_until(lambda: False, 3600)
    )
    Task(queue.idle).result()
    assert told == [False]


# torn at


CHANGES = {
    "resize": lambda queue: resize(queue, 0, 2),
    "close": lambda queue: queue.close(),
    "watch": lambda queue: queue.wait_until(lambda: False, 0),
}


@pytest.mark.parametrize("moment", ["begin", "end"])
@pytest.mark.parametrize("kind", ["put", "discard", "garbage"])
@pytest.mark.parametrize("change", CHANGES)
def test_return_by_the_garbage_collector_inside_a_section(
    change, kind, moment
):
    queue = Queue(limit=2)
    out = taken(queue, 1)
    other = queue.get_nowait()
    lock = queue._lock = HookedLock()
    [task] = waiters(queue, 1, [])

    def collect():
        entry = out.pop()
        if kind == "put":
            queue.put(entry)
        elif kind == "discard":
            queue.discard(entry)

    lock.hooks[moment] = collect
    Task(CHANGES[change], queue).result()
    assert not lock.hooks, "there was no critical section"
    if change != "close":
        assert task.result() is not None, "it sleeps beside a free slot"
    else:
        task.result()
        queue.discard(other)
        discard_surplus(queue)
        assert queue.live() == 0


@pytest.mark.parametrize("section", ["idle", "entries", "purge", "settle"])
@pytest.mark.parametrize("change", ["resize", "close"])
def test_changed_by_a_signals_handler_inside_a_section(change, section):
    queue = Queue(limit=1)
    out = taken(queue, 1)
    tasks = waiters(queue, 2, [])
    lock = queue._lock = HookedLock()

    def handler():
        if change == "close":
            queue.close()
        else:
            queue.resize(0, 3)
            queue.run_outside(queue.settle)

    lock.hooks["begin"] = handler
    Task(getattr(queue, section)).result()
    entries = [task.result() for task in tasks]
    assert entries.count(None) == (2 if change == "close" else 0)
    assert len(out) == 1


@pytest.mark.parametrize("change", ["resize", "close"])
def test_an_interrupted_change_leaves_nobody_asleep(change):
    nth = 0
    while True:
        nth += 1
        queue = Queue(maxsize=2, limit=2)
        out = taken(queue, 2)
        tasks = waiters(queue, 2, [])
        interrupter = Interrupter(nth)
        if change == "close":
            interrupter.run(queue.close)
        else:
            interrupter.run(lambda: resize(queue, 4, 4))
        # what the next round would do
        if queue.unsettled():
            queue.purge()
        where = interrupter.where
        if queue.closed:
            assert [task.result() for task in tasks] == [None, None], where
        elif queue.limit == 4:
            assert None not in [task.result() for task in tasks], where
        else:
            assert queue.waiting() == 2, where
            for _ in tasks:
                queue.put(out.pop())
            assert None not in [task.result() for task in tasks], where
        if where is None:
            break
    assert nth > 15


def test_an_interrupted_close_wakes_without_help():
    """Nobody has to come by first."""
    nth = 0
    while True:
        nth += 1
        queue = Queue(maxsize=2, limit=2)
        out = taken(queue, 2)
        tasks = waiters(queue, 2, [])
        interrupter = Interrupter(nth)
        interrupter.run(queue.close)
        if queue.closed:
            for task in tasks:
                assert task.result() is None, interrupter.where
        else:
            queue.close()
        if interrupter.where is None:
            break
    assert len(out) == 2


whole = strategies.integers(0, 30)


class Model(RuleBasedStateMachine):
    """One thread, any order of calls, against a list of each kind."""

    def __init__(self):
        super().__init__()
        self.queue = Queue(maxsize=2, limit=4)
        self.idle = []
        self.out = []
        self.leaving = []
        self.most = 4

    def keep(self):
        """What leaves, leaves at once; it ends when it ends."""
        new = [e for e in self.queue.surplus if e not in self.leaving]
        self.leaving += new
        return new

    def staying(self):
        return len(self.idle) + len(self.out)

    @rule()
    def get(self):
        entry = self.queue.get_nowait()
        full = (
            self.queue.limit is not None
            and self.staying() + len(self.leaving) >= self.queue.limit
        )
        if self.queue.closed:
            assert entry is None
        elif self.idle:
            assert entry is self.idle.pop(0)
        else:
            assert (entry is None) == full
        if entry is not None:
            self.out.append(entry)

    @precondition(lambda self: self.out)
    @rule(way=whole)
    def put(self, way):
        entry = self.out.pop(way % len(self.out))
        limit, maxsize = self.queue.limit, self.queue.maxsize
        self.queue.put(entry)
        if (
            self.queue.closed
            or (limit is not None and self.staying() >= limit)
            or 0 < maxsize <= len(self.idle)
        ):
            assert self.keep() == [entry]
        else:
            self.idle.append(entry)

    @precondition(lambda self: self.out)
    @rule(way=whole)
    def discard(self, way):
        self.queue.discard(self.out.pop(way % len(self.out)))

    @precondition(lambda self: self.leaving)
    @rule()
    def end(self):
        entry = self.leaving.pop()
        self.queue.surplus.remove(entry)
        self.queue.discard(entry)

    @rule(maxsize=strategies.integers(0, 4), more=strategies.integers(0, 3))
    def resize(self, maxsize, more):
        limit = maxsize + more if maxsize else None
        self.most = None if limit is None else max(limit, self.queue.live())
        resize(self.queue, maxsize, limit)
        gone = []
        while self.idle and (
            0 < maxsize < len(self.idle)
            or (limit is not None and self.staying() > limit)
        ):
            gone.append(self.idle.pop(0))
        assert self.keep() == gone

    @precondition(lambda self: self.queue.live() > 2)
    @rule()
    def close(self):
        self.queue.close()
        assert self.keep() == self.idle
        self.idle = []

    @invariant()
    def agree(self):
        assert self.queue.idle() == self.idle
        assert self.queue.live() == self.staying() + len(self.leaving)
        assert self.most is None or self.queue.live() <= self.most


Model.TestCase.settings = settings(deadline=None, max_examples=100)
TestModel = Model.TestCase
