"""What a time-out says of its reason."""

from __future__ import annotations

import pytest
from stub import Driver
from stub import Gate
from stub import Task

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ReaperPool


@pytest.fixture
def pool():
    return ReaperPool(Driver().connect, 2, 0, timeout=0)


def test_a_thread_that_waits_for_itself(pool):
    handles = [pool.connect(), pool.connect()]
    with pytest.raises(CheckoutTimeout) as caught:
        pool.connect()
    verdict = caught.value.verdict
    assert verdict in str(caught.value)
    assert "this thread itself holds 2 of 2" in verdict
    assert "deadlock" in verdict
    assert verdict.count(__file__) == len(handles)


def test_a_thread_that_holds_one_while_another_has_the_rest(pool):
    gate = Gate()

    def hold():
        with_it = pool.connect()
        gate()
        with_it.close()

    other = Task(hold)
    gate.wait()
    handle = pool.connect()
    with pytest.raises(CheckoutTimeout) as caught:
        pool.connect()
    gate.open()
    other.result()
    handle.close()
    assert "this thread itself holds 1 of 2" in caught.value.verdict
    assert "deadlock" not in caught.value.verdict


def test_a_thread_that_holds_none(pool):
    handles = [pool.connect(), pool.connect()]

    def ask():
        with pytest.raises(CheckoutTimeout) as caught:
            pool.connect()
        return caught.value

    error = Task(ask).result()
    assert error.verdict is None and "Nested" not in str(error)
    assert len(handles) == 2
