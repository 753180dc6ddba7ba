"""python -m benchmarks.steps: counts, which are the same on any machine."""

from __future__ import annotations

import subprocess
import sys

import pytest
from benches import ROOT
from sqlalchemy.pool import QueuePool

from benchmarks import steps
from benchmarks.in_turn import InTurnPool
from sa_reaperpool import ReaperPool

in_this_process = pytest.mark.skipif(
    sys.version_info >= (3, 12),
    reason="Python 3.12 traces all of a process from then on, 3.13 not all",
)


@pytest.fixture(autouse=True)
def tracer():
    """Whoever traces the tests goes on with it."""
    before = sys.gettrace()
    yield
    sys.settrace(before)


@in_this_process
def test_the_usual_checkout_takes_fewer_steps_than_queuepools():
    ours, stock = (
        steps.count(steps.checkout, poolclass)
        for poolclass in (ReaperPool, QueuePool)
    )
    assert ours.number < stock.number
    assert ours.calls < 0.25 * stock.calls


@in_this_process
def test_both_threads_are_counted():
    """Who waits and who serves it, each in its own functions."""
    found = steps.count(steps.wait, ReaperPool)
    functions = {function for _, function in found.steps}
    assert {"close", "rearrange", "_hand_on"} <= functions
    assert {"check_out", "get", "sleep", "leave"} <= functions
    assert found.number == found.steps.total()
    assert found.number > 2 * steps.count(steps.checkout, ReaperPool).number


@in_this_process
def test_a_peer_waits_as_well():
    found = steps.count(steps.wait, InTurnPool)
    functions = {function for _, function in found.steps}
    assert {"enter", "leave"} <= functions


@pytest.mark.skipif(
    sys.version_info >= (3, 13),
    reason="from Python 3.13 on not all instructions are traced",
)
def test_runs():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.steps", "--functions"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for scene in steps.SCENES:
        assert f"\n{scene.__doc__}\n" in done.stdout
    assert done.stdout.count("QueuePool in turn") == len(steps.SCENES)
    assert "connect  adapter/short.py" in done.stdout
