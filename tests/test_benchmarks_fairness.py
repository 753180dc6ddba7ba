"""The bench of fairness, and what the machine adds to its figures."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from time import monotonic

import pytest
from benches import ROOT
from stub import until

from benchmarks.machine import Machine

on_linux = pytest.mark.skipif(
    not os.path.exists("/proc/stat"), reason="asks /proc, which is Linux's"
)


@on_linux
def test_how_late_the_machine_is():
    """As where its host runs something else: here one is really stopped."""
    with Machine() as machine:
        sleeper = machine._sleeper.pid
        # it is there once it sleeps in select()
        until(lambda: _slept(sleeper) > 20)
        os.kill(sleeper, signal.SIGSTOP)
        stopped = monotonic()
        until(lambda: monotonic() > stopped + 0.1)
        os.kill(sleeper, signal.SIGCONT)
    assert 0.09 <= machine.late < monotonic() - stopped + 1
    assert 0 <= machine.stolen <= 1


def _slept(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        [times] = re.findall(r"^voluntary.*:\s*(\d+)", status.read(), re.M)
    return int(times)


@on_linux
def test_what_it_says():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fairness"]
        + "--threads 4 --size 2 --rounds 2 --seconds 0.3".split(),
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stderr == ""
    figures = r" +\d+ +[\d.]+ +[\d.]+ ms$"
    for pool in ("QueuePool", "ReaperPool"):
        assert re.search(f"^{pool}{figures}", done.stdout, re.M)
    rounds = re.findall(
        r"^  round (\d): [\d.]+ ms, the machine [\d.]+ ms late, "
        r"[\d.]+ % stolen; throughput [\d.]+, QueuePool's with the machine "
        r"[\d.]+ ms late, [\d.]+ % stolen$",
        done.stdout,
        re.M,
    )
    assert rounds == ["1", "2"]


@on_linux
def test_rounds_in_which_the_machine_was_too_late():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fairness", "--late", "0"]
        + "--threads 4 --size 2 --seconds 0.1 --rounds 1 --most 2".split(),
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    )
    assert "of which 0 of 2 count\n" in done.stdout
    assert done.stdout.count("  round ") == 2
    assert "checkouts/s" not in done.stdout
    assert "throughput:" not in done.stdout
