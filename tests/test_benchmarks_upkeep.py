"""python -m benchmarks: what is not timed, and that the rest of it runs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from benches import ROOT

from benchmarks import footprint
from benchmarks.settings import Settings


def test_memory():
    """The bars are for one version of Python; each has some bytes more."""
    with Settings(quick=True) as settings:
        rows = footprint.memory(settings)
    judged = [row for row in rows if row.bar is not None]
    assert len(judged) == 3
    assert all(row.figure <= 1.5 * row.bar.limit for row in judged), judged


@pytest.mark.slow
def test_runs(postgres_url):
    rooms = ["reserved", "rounds", "deaths", "thousand"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--only", *rooms]
        + ["--url", postgres_url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for measured in (
        "with_connection() when reserved",
        "a round over 10,000 idle, 10 due",
        "a thread's end to its waiter's service, p99, psycopg2",
        "1,000 idle pools",
    ):
        assert measured in done.stdout
    assert "not measured" not in done.stdout
