"""What the example of a job queue promises, on whatever database."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from worked_examples import load
from worked_examples import run


class Fault(Exception):
    pass


def fail(*args):
    raise Fault


def jobs(shop):
    """The subjects of those that wait, and how often each was tried."""
    job = load("job_queue").Job
    with Session(shop.engine) as session:
        rows = session.execute(select(job.subject, job.attempts))
        return [tuple(row) for row in rows]


class Promises:
    """Tests; a fixture ``shop`` is the subclass's."""

    def test_commit_is_of_both(self, shop):
        shop.place_order(pay=int)
        assert shop.orders() == (1, 0)
        assert jobs(shop) == [(1, 0)]

    def test_rollback_is_of_both(self, shop):
        with pytest.raises(Fault):
            shop.place_order(pay=fail)
        assert shop.orders() == (0, 0)
        assert jobs(shop) == []

    def test_one_connection_is_enough(self, shop):
        held = []
        shop.place_order(pay=lambda: held.append(shop.engine.pool.leases()))
        (leases,) = held
        assert len(leases) == 1
        assert shop.engine.pool.checkedout() == 0

    def test_a_job_and_its_end_are_committed_together(self, shop):
        shop.place_order(pay=int)
        assert shop.queue.work(shop.confirm)
        assert shop.orders() == (1, 1)
        assert jobs(shop) == []
        assert not shop.queue.work(shop.confirm)

    # a join's commit that is undone with work that was done is no surprise
    @pytest.mark.filterwarnings("error")
    def test_a_job_that_fails_is_undone_and_stays(self, shop):
        """Though what it did had been committed."""
        shop.place_order(pay=int)
        committed = []

        def confirm(number):
            shop.confirm(number)
            committed.append(number)
            fail()

        assert shop.queue.work(confirm)
        assert committed == [1]
        assert shop.orders() == (1, 0)
        assert jobs(shop) == [(1, 1)]
        assert shop.queue.work(shop.confirm)
        assert shop.orders() == (1, 1)
        assert jobs(shop) == []


def check_what_it_prints(*arguments):
    ended = run("job_queue", *arguments)
    assert ended.stderr == ""
    assert ended.returncode == 0
    told = ended.stdout.splitlines()
    log = told.pop(4)
    assert told[:5] == [
        "1. An order and its job, in 1 connection; "
        "before the commit others see 0 jobs",
        "   Committed, both; in the tables: orders 1, jobs 1",
        "2. Another is declined, and rolled back, both; "
        "in the tables: orders 1, jobs 1",
        "3. A worker takes the job, and dies with it",
        "   The job can be taken again",
    ]
    assert re.search("the log: .* took back .* Held by 'another'", log)
    assert "job_queue.py:" in log
    assert told[5] == "4. 6 customers, 3 workers, all at a time:"
    assert re.fullmatch(
        r"   49 orders, 12 more declined; \d+ jobs failed once, "
        "after they had committed",
        told[6],
    )
    assert told[7:] == [
        "   Orders confirmed exactly once: 49; connections still held: 0"
    ]
