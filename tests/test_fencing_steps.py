"""What another thread does in the midst of a handle's methods.

At each instruction, not at each line only: threads are switched between
these.
"""

from __future__ import annotations

import sys

import pytest
from sqlalchemy import create_engine
from sqlalchemy import text
from stub import Driver
from stub import Task

from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import ReaperPool
from sa_reaperpool import handle as handles
from sa_reaperpool.adapter.handles import Handle
from sa_reaperpool.handle import Noting
from sa_reaperpool.lease import Lease

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 12),
    reason="Python 3.12 traces all of a process from then on, 3.13 not all",
)

VERBS = {
    "cursor": Noting.cursor,
    "commit": Noting.commit,
    "rollback": Noting.rollback,
}

HELPERS = [
    Lease.touch,
    Lease.begin_work,
    Lease.watch,
    Lease.end_work,
    Lease.taken_out,
    Handle.dbapi_connection.fget,
]


class AtStep:
    """Has a thread of its own do something, at an instruction of some code.

    :param functions: whose instructions count.

    :param number: how many of them are done before.

    :param work: what is done.

    """

    def __init__(self, functions, number, work):
        self._codes = {function.__code__ for function in functions}
        self._left = number
        self._work = work
        self.done = False

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._entered)
        return self

    def __exit__(self, *exc_info):
        sys.settrace(self._before)

    def _entered(self, frame, event, argument):
        if self.done:
            return None
        if frame.f_code in self._codes:
            frame.f_trace_opcodes = True
            return self._trace
        return None

    def _trace(self, frame, event, argument):
        if event == "opcode":
            self._step()
        return self._trace

    def _step(self):
        if not self.done and self._left == 0:
            self.done = True
            sys.settrace(None)
            Task(self._work).result()
            sys.settrace(self._entered)
        self._left -= 1


def at_each_step(functions, scene):
    """Play a scene, given where to have something done, for each step.

    :return: how many there were.

    """
    for number in range(1000):
        steps = scene(lambda work: AtStep(functions, number, work))
        if not steps.done:
            return number
    raise AssertionError("it does not end")


@pytest.mark.parametrize("verb", VERBS)
def test_what_was_taken_back_is_not_used_by_its_old_handle(verb):
    """The entry may have another connection by then, which is lent anew."""

    def scene(at_step):
        driver = Driver()
        pool = ReaperPool(
            driver.connect, pool_size=1, max_overflow=0, reaping_frequency=None
        )
        handle = pool.connect()
        others = []

        def take_back():
            pool.disconnect()
            others.append(pool.connect())

        with at_step(take_back) as steps:
            try:
                getattr(handle, verb)()
            except ConnectionReclaimed:
                pass
        if steps.done:
            [other] = others
            assert other.dbapi_connection.number == 2
            assert other.dbapi_connection.calls == []
            other.close()
        handle.close()
        return steps

    steps = [VERBS[verb], handles._connection_of, *HELPERS]
    assert at_each_step(steps, scene) > 30


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_detached_meanwhile_works_on(verb):
    """Once the handle has begun to use it."""

    def scene(at_step):
        driver = Driver()
        pool = ReaperPool(driver.connect, reaping_frequency=None)
        handle = pool.connect()
        connection = handle.dbapi_connection
        with at_step(handle.detach) as steps:
            getattr(handle, verb)()
        assert connection.calls == [verb]
        return steps

    # what these begin with is that they look for the lease
    assert at_each_step(HELPERS, scene) > 15


@pytest.mark.parametrize("way", ["asked", "closed"])
def test_whether_it_is_valid_is_told_without_an_error(way, tmp_path):
    def scene(at_step):
        engine = create_engine(
            f"sqlite:///{tmp_path}/a.db",
            poolclass=ReaperPool,
            reaping_frequency=None,
        )
        connection = engine.connect()
        connection.execute(text("SELECT 1"))
        with at_step(engine.pool.disconnect) as steps:
            if way == "asked":
                assert connection.connection.is_valid in (True, False)
            else:
                connection.close()
        connection.close()
        engine.dispose()
        return steps

    assert at_each_step([Handle.is_valid.fget], scene) > 5
