"""The turns to make entries, and places among the idle ones."""

from __future__ import annotations

import pytest
from queues import Queue
from queues import waiters
from stub import Task
from stub import until


@pytest.fixture
def queue():
    """Room for four, of which one may be made at a time."""
    return Queue(limit=4, max_making=1)


def made(queue):
    entry = queue.get_nowait()
    queue.made(entry)
    return entry


def exchanging(queue, entry):
    before = queue.waiting()
    task = Task(queue.exchange, entry)
    until(lambda: queue.waiting() == before + 1)
    return task


def test_no_more_than_may_be_made_at_once(queue):
    first = queue.get_nowait()
    assert queue.making() == 1
    assert queue.get_nowait() is None
    queue.made(first)
    assert queue.making() == 0
    assert queue.get_nowait() is not None


def test_who_waits_for_a_turn_gets_what_comes_back(queue):
    out = made(queue)
    making = queue.get_nowait()
    served = []
    tasks = waiters(queue, 2, served)
    queue.put(out)
    assert tasks[0].result() is out
    queue.made(making)
    new = tasks[1].result()
    assert new not in (out, making)
    assert [place for place, _ in served] == [0, 1]
    assert queue.making() == 1


@pytest.mark.parametrize("end", ["made", "put", "discard", "garbage"])
def test_the_end_of_a_making_is_the_next_ones_turn(queue, end):
    making = [queue.get_nowait()]
    [task] = waiters(queue, 1, [])
    if end == "garbage":
        making.clear()
    else:
        getattr(queue, end)(making.pop())
    assert task.result() is not None


def test_what_has_to_be_made_anew_needs_a_turn(queue):
    hollow, whole = made(queue), made(queue)
    making = queue.get_nowait()
    queue.put(hollow, made=False)
    queue.put(whole)
    # in its place one that is made
    assert queue.get_nowait() is whole
    assert queue.get_nowait() is None
    queue.made(making)
    assert queue.get_nowait() is hollow
    assert queue.making() == 1


def test_an_exchange_waits_as_first(queue):
    dead, out = made(queue), made(queue)
    making = queue.get_nowait()
    [other] = waiters(queue, 1, [])
    task = exchanging(queue, dead)
    assert queue.idle() == [dead]
    queue.put(out)
    assert task.result() is out
    queue.made(making)
    assert other.result() is dead
    assert queue.making() == 1


def test_an_exchange_may_give_the_same(queue):
    dead, making = made(queue), queue.get_nowait()
    assert not queue.begin(dead)
    task = exchanging(queue, dead)
    queue.made(making)
    assert task.result() is dead
    assert queue.making() == 1
    assert queue.begin(dead)


@pytest.mark.parametrize("end", ["time", "close"])
def test_an_exchange_in_vain(queue, end):
    dead, making = made(queue), queue.get_nowait()
    if end == "time":
        assert queue.exchange(dead, 0.001) is None
        assert queue.idle() == [dead]
    else:
        task = exchanging(queue, dead)
        queue.close()
        assert task.result() is None
        assert queue.surplus == [dead]
    del making


def test_who_has_an_entry_has_the_next_turn(queue):
    own, making = made(queue), queue.get_nowait()
    [other] = waiters(queue, 1, [])
    task = Task(queue.wait_to_begin, own)
    until(lambda: queue.waiting() == 2)
    queue.made(making)
    assert task.result()
    assert queue.waiting() == 1
    queue.made(own)
    other.result()


@pytest.mark.parametrize("end", ["time", "close"])
def test_a_turn_that_does_not_come(queue, end):
    own, making = made(queue), queue.get_nowait()
    if end == "time":
        assert not queue.wait_to_begin(own, 0.001)
    else:
        task = Task(queue.wait_to_begin, own)
        until(lambda: queue.waiting() == 1)
        queue.close()
        assert not task.result()
    assert queue.waiting() == 0
    del making


def test_a_new_limit_lets_more_in(queue):
    making = queue.get_nowait()
    tasks = waiters(queue, 3, [])
    queue.allow_making(3)
    queue.settle()
    until(lambda: queue.waiting() == 1)
    queue.allow_making(None)
    queue.settle()
    for task in tasks:
        task.result()
    del making


def test_a_reserved_one_waits_for_its_turn_later(queue):
    making = queue.get_nowait()
    reserved = queue.reserve()
    assert queue.making() == 1
    assert not queue.begin(reserved)
    queue.made(making)
    assert queue.begin(reserved)


# places


@pytest.mark.parametrize("use_lifo", [False, True])
def test_a_claimed_one_gets_its_place_back(use_lifo):
    queue = Queue(limit=4, use_lifo=use_lifo)
    entries = [made(queue) for _ in range(4)]
    for entry in entries:
        queue.put(entry)
    for entry in (entries[1], entries[3], entries[0]):
        assert queue.claim(entry)
        turn = queue.turn(entry)
        queue.put(entry, back=True)
        assert queue.turn(entry) != turn
        assert queue.idle() == entries
    # a use gives a new one
    assert queue.claim(entries[2])
    queue.put(entries[2])
    assert queue.idle() == [entries[0], entries[1], entries[3], entries[2]]


def test_a_claimed_one_goes_to_who_waits():
    queue = Queue(limit=1)
    entry = made(queue)
    queue.put(entry)
    queue.claim(entry)
    [task] = waiters(queue, 1, [])
    queue.put(entry, back=True)
    assert task.result() is entry


def test_one_too_many_is_the_last_returned():
    queue = Queue(limit=3, maxsize=2)
    entries = [made(queue) for _ in range(3)]
    queue.put(entries[0])
    queue.claim(entries[0])
    queue.put(entries[1])
    queue.put(entries[2])
    queue.put(entries[0], back=True)
    assert queue.idle() == entries[:2]
    assert queue.surplus == [entries[2]]
