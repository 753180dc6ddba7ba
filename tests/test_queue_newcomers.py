"""Newcomers are let in beside who waits: when, for how long, at whose cost."""

from __future__ import annotations

import threading

import pytest
from queues import Queue
from queues import waiters
from stub import Driver
from stub import HookedLock
from stub import Task
from stub import switching_often
from stub import until

from sa_reaperpool import ReaperPool
from sa_reaperpool import newcomers
from sa_reaperpool import queue as queue_module
from sa_reaperpool import waiter as waiter_module
from sa_reaperpool.newcomers import BRIEF
from sa_reaperpool.waiter import Waiter


def give_back(queue, entry, now, held=BRIEF / 2):
    """As a handle's close() does."""
    slot = entry.slot
    slot.turn = slot.place = next(queue._turns)
    queue.queue.append(entry)
    queue.rearrange(entry, slot, now, held)


def called(waiter):
    """Has it been woken, and has not looked yet?"""
    return not waiter._bell.locked()


def in_line(queue, count):
    """Who waits, and does not sleep."""
    line = [Waiter() for _ in range(count)]
    queue._waiters.extend(line)
    return line


def test_one_is_served_and_then_newcomers_are_let_in():
    queue = Queue(limit=2)
    first, second = queue.get_nowait(), queue.get_nowait()
    line = in_line(queue, 3)
    give_back(queue, first, now=100.0)
    assert [waiter.entry for waiter in line] == [first, None, None]
    give_back(queue, second, now=100.0 + BRIEF * 0.9)
    assert line[1].entry is None
    # for whoever comes first
    assert queue.idle() == [second]
    assert [called(waiter) for waiter in line[1:]] == [True, False]


def test_none_is_let_in_before_greenlets():
    queue = Queue(limit=2, greenlets=True)
    first, second = queue.get_nowait(), queue.get_nowait()
    line = in_line(queue, 3)
    give_back(queue, first, now=100.0)
    give_back(queue, second, now=100.0 + BRIEF * 0.9)
    assert [waiter.entry for waiter in line] == [first, second, None]
    assert queue.open_until == 0
    assert queue.get_nowait() is None


def test_only_for_a_while():
    queue = Queue(limit=2)
    first, second = queue.get_nowait(), queue.get_nowait()
    line = in_line(queue, 2)
    give_back(queue, first, now=100.0)
    give_back(queue, second, now=100.0 + BRIEF)
    assert [waiter.entry for waiter in line] == [first, second]


def test_a_long_line_is_not_delayed_by_more_than_a_short_one():
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    in_line(queue, 1600)
    give_back(queue, entry, now=100.0)
    assert queue.open_until - 100.0 == pytest.approx(1e-5)


def test_what_was_held_for_longer_goes_to_who_waits():
    queue = Queue(limit=2)
    first, second = queue.get_nowait(), queue.get_nowait()
    line = in_line(queue, 2)
    give_back(queue, first, now=100.0)
    give_back(queue, second, now=100.0, held=BRIEF)
    assert [waiter.entry for waiter in line] == [first, second]


def crowded(queue, slot):
    queue.maxsize = 1
    queue.queue.append(queue._new())


NOT_IF = {
    "somebody waits for his turn": lambda queue, slot: queue._makers.append(
        Waiter(own=object())
    ),
    "something came in": lambda queue, slot: queue._inbox.append(None),
    "something was put off": lambda queue, slot: queue._errands.append(list),
    "there may be too many": lambda queue, slot: setattr(
        queue, "_shedding", True
    ),
    "it did not count": lambda queue, slot: setattr(slot, "counted", False),
    "there are more idle than are kept": crowded,
}


@pytest.mark.parametrize("what", NOT_IF)
def test_not_where_there_is_more_to_be_done(what):
    queue = Queue(limit=3)
    entry = queue.get_nowait()
    [waiter] = in_line(queue, 1)
    queue.open_until = 200.0
    NOT_IF[what](queue, entry.slot)
    give_back(queue, entry, now=100.0)
    assert waiter.entry is not None


def test_whoever_comes_takes_it_before_who_waits():
    driver = Driver()
    pool = ReaperPool(
        driver.connect, pool_size=1, max_overflow=0, reaping_frequency=None
    )
    handle = pool.connect()
    [waiter] = in_line(pool.queue, 1)
    pool.queue.open_until = float("inf")
    handle.close()
    assert called(waiter)
    handle = pool.connect(timeout=0)
    assert waiter.entry is None
    pool.queue.open_until = 0.0
    handle.close()
    assert waiter.entry is not None


def test_who_is_called_takes_what_nobody_else_has_taken():
    """In the order in which they came, and nobody sleeps beside it."""
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    served = []
    tasks = waiters(queue, 3, served)
    queue.open_until = 200.0
    for task in tasks:
        give_back(queue, entry, now=100.0)
        assert task.result() is entry
    assert served == [(place, entry) for place in range(3)]


def test_who_finds_nothing_sleeps_on_and_stays_the_first():
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    served = []
    tasks = waiters(queue, 2, served)
    first, _ = queue._waiters
    first.call()
    until(lambda: not called(first))
    queue.put(entry)
    assert tasks[0].result() is entry
    queue.put(entry)
    tasks[1].result()
    assert served == [(0, entry), (1, entry)]


def test_a_call_leaves_the_time_limit_as_it_was(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(waiter_module, "monotonic", lambda: now[0])
    waiter = Waiter()
    now[0] = 104.0
    assert waiter.left(10.0) == 6.0
    assert waiter.left(None) is None


class Sleepless(Waiter):
    """Whose time is up at once."""

    __slots__ = ()

    def sleep(self, seconds):
        pass


def test_whose_time_is_up_as_he_is_called_passes_it_on(monkeypatch):
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    behind = Waiter()

    def between():
        # he has woken by himself, and is about to leave the line
        queue._waiters.append(behind)
        queue.open_until = 200.0
        Task(give_back, queue, entry, now=100.0).result()
        assert called(queue._waiters[0])

    hooks = {"begin": lambda: hooks.update(begin=between)}
    queue._lock = HookedLock()
    queue._lock.hooks = hooks
    monkeypatch.setattr(queue_module, "Waiter", Sleepless)
    assert queue.get(0) is None
    assert not hooks
    assert behind.entry is entry


def test_who_is_taken_out_as_he_is_called_passes_it_on():
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    first, behind = in_line(queue, 2)
    queue.open_until = 200.0
    give_back(queue, entry, now=100.0)
    assert called(first)
    assert queue.leave_if(first, lambda: True)
    assert behind.entry is entry


def test_who_was_served_and_left_in_line_is_passed_over():
    """By an interruption between the two."""
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    served, behind = in_line(queue, 2)
    served.entry = object()
    queue.open_until = 200.0
    give_back(queue, entry, now=100.0)
    assert behind.entry is entry


def test_a_call_that_was_interrupted_is_made_by_the_next(monkeypatch):
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    [waiter] = in_line(queue, 1)
    queue.open_until = 200.0
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Waiter, "wake", interrupt)
        give_back(queue, entry, now=100.0)
    # a newcomer has it meanwhile
    assert queue.queue.popleft() is entry
    give_back(queue, entry, now=100.0)
    assert called(waiter)


def interrupt(waiter):
    raise KeyboardInterrupt()


def test_who_is_interrupted_does_what_was_put_off_as_he_left(monkeypatch):
    queue = Queue(limit=1)
    queue.get_nowait()
    done = []
    hooks = {"begin": lambda: queue.run_outside(lambda: done.append(None))}
    queue._lock = HookedLock()
    queue._lock.hooks = hooks
    monkeypatch.setattr(Waiter, "sleep", lambda self, seconds: interrupt(self))
    with pytest.raises(KeyboardInterrupt):
        queue.get(20)
    assert done == [None]


def test_not_soon_after_one_that_was_held_for_long():
    queue = Queue(limit=3)
    first, second, third = (queue.get_nowait() for _ in range(3))
    line = in_line(queue, 5)
    queue.open_until = 200.0
    give_back(queue, first, now=100.0, held=0.25)
    give_back(queue, second, now=103.9)
    give_back(queue, third, now=103.9)
    assert [waiter.entry for waiter in line[:3]] == [first, second, third]
    give_back(queue, first, now=104.1)
    give_back(queue, second, now=104.1)
    assert [waiter.entry for waiter in line[3:]] == [first, None]


def test_who_is_interrupted_when_called_passes_it_on(monkeypatch):
    queue = Queue(limit=1)
    entry = queue.get_nowait()
    served = []
    first, second = waiters(queue, 2, served)
    settle = queue.settle

    def interrupted():
        if threading.current_thread() is first and not interruptions:
            interruptions.append(1)
            raise KeyboardInterrupt()
        settle()

    interruptions = []
    monkeypatch.setattr(queue, "settle", interrupted)
    queue.open_until = 200.0
    give_back(queue, entry, now=100.0)
    with pytest.raises(KeyboardInterrupt):
        first.result()
    assert second.result() is entry


def test_many_that_fight_for_what_they_hold_for_no_time():
    driver = Driver()
    pool = ReaperPool(driver.connect, pool_size=2, max_overflow=0, timeout=60)
    held, doubles = set(), []

    def work():
        for _ in range(200):
            handle = pool.connect()
            number = id(handle.dbapi_connection)
            if number in held:
                doubles.append(number)
            held.add(number)
            held.discard(number)
            handle.close()

    with switching_often():
        tasks = [Task(work) for _ in range(12)]
        for task in tasks:
            task.result()
    assert not doubles
    assert not pool.queue.waiting()
    assert len(pool.queue.idle()) == pool.queue.live() <= 2
    handles = [pool.connect() for _ in range(2)]
    for handle in handles:
        handle.close()
    pool.dispose()


# who was served, and the interpreter


class Rest:
    """A clock, and a sleep that takes as long as is said."""

    def __init__(self, monkeypatch):
        self.now, self.lasts, self.count = 100.0, 0.0, 0
        monkeypatch.setattr(newcomers, "monotonic", lambda: self.now)
        monkeypatch.setattr(newcomers, "sleep", self.sleep)

    def sleep(self, seconds):
        self.count += 1
        self.now += self.lasts


@pytest.fixture
def rest(monkeypatch):
    return Rest(monkeypatch)


def test_who_hands_over_lets_go_of_the_interpreter(rest):
    queue = Queue()
    rest.lasts = 0.00006
    for _ in range(50):
        queue._let_run()
    assert rest.count == 50


def test_not_where_it_takes_long_to_have_it_back(rest):
    queue = Queue()
    rest.lasts = 0.001
    for _ in range(50):
        queue._let_run()
    assert rest.count == 1
    # but it is looked at now and then whether that is still so
    rest.now += 0.02
    queue._let_run()
    assert rest.count == 2


def test_a_single_one_that_takes_long_changes_nothing(rest):
    queue = Queue()
    for rest.lasts in [0.00006] * 5 + [0.001] + [0.00006] * 5:
        queue._let_run()
    assert rest.count == 11


def test_it_is_let_go_of_again_once_others_run_no_more(rest):
    queue = Queue()
    rest.lasts = 0.001
    for _ in range(50):
        queue._let_run()
        rest.now += 0.02
    rest.count = 0
    for rest.lasts in [0.00006] * 5 + [0.001] + [0.00006] * 5:
        queue._let_run()
    assert rest.count == 11


def test_it_is_soon_seen_that_others_run(rest):
    queue = Queue()
    rest.lasts = 0.00006
    for _ in range(50):
        queue._let_run()
    rest.lasts, rest.count = 0.001, 0
    for _ in range(50):
        queue._let_run()
    assert rest.count == 5
