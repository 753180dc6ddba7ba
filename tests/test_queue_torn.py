"""The queue torn at: by the garbage collector, by threads, by chance."""

from __future__ import annotations

import gc
import itertools
import random
import sys
import threading

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
from stub import switching_often

from sa_reaperpool import line
from sa_reaperpool import queue as verbs
from sa_reaperpool import returns
from sa_reaperpool import slots

SECTIONS = {
    "idle": lambda queue, idle: queue.idle(),
    "entries": lambda queue, idle: queue.entries(),
    "claim": lambda queue, idle: queue.claim(idle),
    "reserve": lambda queue, idle: queue.reserve(),
    "get_nowait": lambda queue, idle: queue.get_nowait(),
    "get": lambda queue, idle: queue.get(0),
    "put": lambda queue, idle: queue.put(idle),
    "put back": lambda queue, idle: queue.put(idle, back=True),
    "begin": lambda queue, idle: queue.begin(idle),
    "exchange": lambda queue, idle: queue.exchange(idle, 0),
    "discard": lambda queue, idle: queue.discard(idle),
    "forget": lambda queue, idle: queue.forget(),
    "purge": lambda queue, idle: queue.purge(),
    "settle": lambda queue, idle: queue.settle(),
}


ROOMS = {room.__file__ for room in (verbs, returns, line, slots)}


class HandlerAtLine:
    """Runs a handler at the nth line inside a queue's critical sections.

    As a signal would: in the thread that has the lock.
    """

    def __init__(self, queue, nth, handler):
        self.queue = queue
        self.left = nth
        self.handler = handler

    def trace(self, frame, event, arg):
        if frame.f_code.co_filename not in ROOMS:
            return None
        if event == "line" and self.queue.locked_here() and self.left >= 0:
            self.left -= 1
            if self.left < 0:
                self.handler()
        return self.trace

    def run(self, work):
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            return work()
        finally:
            sys.settrace(before)


TAKEN = {
    **SECTIONS,
    "resize": lambda queue, idle: queue.resize(1, 2),
    "put surplus": lambda queue, idle: queue.put(queue.get_nowait()),
}


@pytest.mark.parametrize("free", [0, 1])
@pytest.mark.parametrize(
    "options", [{}, {"use_lifo": True}, {"max_making": 1}]
)
@pytest.mark.parametrize("section", TAKEN)
def test_a_handler_takes_one_inside_a_section(section, options, free):
    """It gets what nobody else has, at whatever line, and no other is lost."""
    for nth in itertools.count():
        queue = Queue(limit=3 + free, maxsize=0, **options)
        three = [queue.reserve() for _ in range(3)]
        out = three.pop() if section.startswith("put") else None
        if section == "put surplus":
            queue.maxsize = 2
        for entry in three:
            queue.put(entry)
        taken = []

        def take():
            taken.append(queue.get_nowait())

        at_line = HandlerAtLine(queue, nth, take)
        idle = three[0] if out is None else out
        if section in ("begin", "exchange"):
            queue.claim(idle)
        got = at_line.run(lambda: TAKEN[section](queue, idle))
        if at_line.left >= 0:
            break
        [entry] = taken
        hands = [] if entry is None else [entry]
        if section in ("get", "get_nowait", "reserve", "exchange"):
            hands += [] if got is None else [got]
        elif section in ("claim", "begin") and got:
            hands.append(idle)
        assert len({id(each) for each in hands}) == len(hands), nth
        waiting = queue.idle() + queue.surplus
        assert not {id(each) for each in hands} & {
            id(each) for each in waiting
        }, nth
        if section != "forget":
            assert queue.live() <= 3 + free, nth
        if section not in ("forget", "discard", "resize"):
            # where nothing was to leave, everything is still there
            assert {id(each) for each in three} <= {
                id(each) for each in hands + waiting
            } | {id(idle)}, nth


@pytest.mark.parametrize("section", TAKEN)
def test_a_handler_disposes_inside_a_section(section):
    """Whatever the section does then, it fails nobody's return."""
    for nth in itertools.count():
        queue = Queue(limit=3, maxsize=2)
        idle, other = queue.get_nowait(), queue.get_nowait()
        queue.put(other)
        if not section.startswith(("put", "begin", "exchange")):
            queue.put(idle)
        at_line = HandlerAtLine(queue, nth, queue.forget)
        at_line.run(lambda: TAKEN[section](queue, idle))
        if at_line.left >= 0:
            break
        assert queue.live() <= 3, nth
        waiting = queue.idle()
        assert len({id(each) for each in waiting}) == len(waiting), nth


@pytest.mark.parametrize("moment", ["begin", "end"])
@pytest.mark.parametrize("kind", ["put", "discard", "garbage"])
@pytest.mark.parametrize(
    # get_nowait() does not begin one while somebody waits
    "section", [each for each in SECTIONS if each != "get_nowait"]
)
def test_return_by_the_garbage_collector_inside_a_section(
    section, kind, moment
):
    queue = Queue(limit=2)
    out = [queue.get_nowait()]
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
    # what the section gave is dropped, and its slot with it
    Task(lambda: SECTIONS[section](queue, other) and None).result()
    assert not lock.hooks, "there was no critical section"
    assert task.result() is not None, "it sleeps beside a free slot"


# all of it at once


def test_many_threads_never_share_an_entry():
    queue = Queue(maxsize=2, limit=3)
    in_use = set()
    wrong = []
    barrier = threading.Barrier(8)

    def work(seed):
        chance = random.Random(seed)
        barrier.wait()
        for _ in range(150):
            entry = queue.get_nowait() or queue.get()
            if entry in in_use or len(in_use) >= 3:
                wrong.append(entry)
            in_use.add(entry)
            in_use.remove(entry)
            way = chance.random()
            if way < 0.8:
                queue.put(entry)
            elif way < 0.9:
                queue.discard(entry)
            del entry
            for surplus in list(queue.surplus):
                queue.discard(surplus)

    with switching_often():
        tasks = [Task(work, seed) for seed in range(8)]
        for task in tasks:
            task.result()
    queue.surplus.clear()
    gc.collect()
    assert wrong == []
    assert queue.waiting() == 0
    assert queue.live() == queue.qsize()


whole = strategies.integers(0, 30)


class Model(RuleBasedStateMachine):
    """One thread, any order of calls, against a list and a set."""

    def __init__(self):
        super().__init__()
        self.queue = Queue(maxsize=2, limit=4)
        self.idle = []
        self.out = []

    @rule()
    def get(self):
        entry = self.queue.get_nowait()
        if self.idle:
            assert entry is self.idle.pop(0)
        elif len(self.out) == 4:
            assert entry is None
        if entry is not None:
            assert entry not in self.out
            self.out.append(entry)

    @precondition(lambda self: self.out)
    @rule(way=whole)
    def give(self, way):
        entry = self.out.pop(way % len(self.out))
        if way % 3 == 0:
            self.queue.discard(entry)
        elif way % 3 == 1:
            self.queue.put(entry)
            if len(self.idle) < 2:
                self.idle.append(entry)
            else:
                assert self.queue.surplus.pop() is entry
                self.queue.discard(entry)

    @precondition(lambda self: self.idle)
    @rule(which=whole)
    def claim(self, which):
        entry = self.idle.pop(which % len(self.idle))
        assert self.queue.claim(entry)
        self.out.append(entry)

    @invariant()
    def agree(self):
        assert self.queue.idle() == self.idle
        assert self.queue.live() == len(self.idle) + len(self.out) <= 4


Model.TestCase.settings = settings(deadline=None, max_examples=60)
TestModel = Model.TestCase
