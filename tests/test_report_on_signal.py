"""A signal writes the report, at any moment of the main thread's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from stub import PATIENCE
from stub import Driver
from stub import Gate
from stub import HookedLock
from stub import Task
from stub import execute
from stub import until

import sa_reaperpool
from sa_reaperpool import ReaperPool
from sa_reaperpool import fork
from sa_reaperpool import report_on_signal

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1"
)


class Written:
    """What the handler writes to a file."""

    def __init__(self, path):
        self._path = path
        self.file = open(path, "wb")

    def text(self):
        """What was written since."""
        with open(self._path, "r+b") as file:
            text = file.read().decode()
            file.truncate(0)
        self.file.seek(0)
        return text


@pytest.fixture
def written(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    written = Written(tmp_path / "report")
    report_on_signal(signal.SIGUSR1, written.file)
    yield written
    signal.signal(signal.SIGUSR1, before)
    written.file.close()


@pytest.fixture
def pool():
    return a_pool()


def a_pool(**options):
    options = {
        "pool_size": 1,
        "max_overflow": 0,
        "timeout": PATIENCE,
        "reaping_frequency": None,
        "logging_name": "shop",
        **options,
    }
    return ReaperPool(Driver().connect, **options)


def ask():
    signal.raise_signal(signal.SIGUSR1)


def process_numbers(text):
    return [
        line.split("process ")[1].split(":")[0]
        for line in text.splitlines()
        if ", process " in line
    ]


def test_writes_the_report_of_all_pools(written, pool):
    ask()
    handle = pool.connect()
    assert "\n\nPool 'shop': 0 of 1 in use" in written.text()
    ask()
    text = written.text()
    assert "\n\nPool 'shop': 1 of 1 in use" in text
    assert text.startswith("20") and text.endswith("\n")
    handle.close()


def test_in_the_midst_of_each_critical_section(written, pool):
    """The main thread holds the pool's lock, and goes on well after it."""
    pool.queue._lock = lock = HookedLock()
    for when in ("begin", "end"):
        # nothing is idle
        lock.hooks[when] = ask
        handle = pool.connect()
        assert "Pool 'shop'" in written.text()
        assert pool.stats().in_use == 1
        handle.close()
        lock.hooks[when] = ask
        assert pool.flush() == 1
        assert "Pool 'shop'" in written.text()
    stats = pool.stats()
    assert (stats.idle, stats.in_use, stats.opening) == (0, 0, 0)


def test_between_any_two_lines(written, pool):
    """Of a checkout, a use, a return, and the pool's own statistics."""
    folder = os.path.dirname(sa_reaperpool.__file__)
    asking = []
    asked = [0]

    def trace(frame, event, arg):
        inside = frame.f_code.co_filename.startswith(folder)
        return trace_line if inside and not asking else None

    def trace_line(frame, event, arg):
        if event == "line" and not asking:
            asking.append(True)
            asked[0] += 1
            ask()
            asking.clear()
        return trace_line

    sys.settrace(trace)
    try:
        for _ in range(2):
            handle = pool.connect()
            execute(handle)
            handle.rollback()
            handle.close()
            pool.stats()
    finally:
        sys.settrace(None)
    text = written.text()
    assert asked[0] > 100
    assert len(process_numbers(text)) == asked[0]
    assert "No report" not in text
    stats = pool.stats()
    assert (stats.checkouts, stats.opened, stats.idle) == (2, 1, 1)


def test_while_another_thread_holds_every_lock(written, pool):
    """It waits for none of them."""
    handle = pool.connect()
    gate = Gate()
    locks = [
        pool.queue._lock,
        pool._tally._lock,
        pool._refill_lock,
        pool._configuring,
        fork._lock,
    ]

    def hold():
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            gate()

    holding = Task(hold)
    gate.wait()
    ask()
    assert "Pool 'shop': 1 of 1 in use" in written.text()
    assert holding.is_alive()
    gate.open()
    holding.result()
    handle.close()


def test_while_the_main_thread_waits_for_a_connection(written, pool):
    handle = Task(pool.connect).result()
    texts = []

    def watch():
        until(lambda: pool.queue.waiting())
        os.kill(os.getpid(), signal.SIGUSR1)
        until(lambda: os.stat(written.file.fileno()).st_size)
        until(lambda: texts.append(written.text()) or "line\n" in texts[-1])
        handle.close()

    watcher = Task(watch)
    pool.connect().close()
    watcher.result()
    text = "".join(texts)
    assert "; 1 thread waits, longest " in text
    assert "  MainThread  " in text
    assert " in test_while_the_main_thread_waits_for_a_connection" in text


def test_its_own_failure_is_not_the_programs(written, pool, monkeypatch):
    monkeypatch.setattr(fork, "pools", lambda: [object()])
    ask()
    assert written.text() == "No report of the pools: AttributeError\n"


def test_nobody_reads(pool):
    before = signal.getsignal(signal.SIGUSR1)
    reads, writes = os.pipe()
    try:
        with open(writes, "wb") as file:
            report_on_signal(signal.SIGUSR1, file)
            os.close(reads)
            ask()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_former_handler(written):
    heard = []
    former = signal.getsignal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, lambda *given: heard.append(given[0]))
    report_on_signal(signal.SIGUSR1, written.file, chain=True)
    ask()
    assert heard == [signal.SIGUSR1] and "process" in written.text()
    report_on_signal(signal.SIGUSR1, written.file)
    ask()
    assert len(heard) == 1 and "process" in written.text()
    for ignored in (signal.SIG_IGN, signal.SIG_DFL):
        signal.signal(signal.SIGUSR1, ignored)
        report_on_signal(signal.SIGUSR1, written.file, chain=True)
        ask()
        assert "process" in written.text()
    signal.signal(signal.SIGUSR1, former)


def test_not_from_another_thread(written):
    with pytest.raises(ValueError):
        Task(report_on_signal, signal.SIGUSR1, written.file).result()


PROGRAM = """
import os, signal, sys
import sa_reaperpool
sa_reaperpool.report_on_signal(signal.SIGUSR1)
pool = sa_reaperpool.ReaperPool(object, reset_on_return=None)
held = pool.connect()
if os.fork():
    os.wait()
    os.kill(os.getpid(), signal.SIGUSR1)
else:
    os.kill(os.getpid(), signal.SIGUSR1)
    os._exit(0)
"""


def test_to_the_standard_error_of_a_program_and_its_child():
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    assert "Pool 'pool-1': 0 of 15 in use" in run.stderr
    assert "Pool 'pool-1': 1 of 15 in use" in run.stderr
    assert len(set(process_numbers(run.stderr))) == 2


def test_a_write_that_is_cut_short(written, pool, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda to, data: real(to, data[:7]))
    ask()
    monkeypatch.undo()
    assert written.text().endswith(" checkouts; 0 opened\n")
