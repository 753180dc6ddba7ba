"""The example of a job queue does what it says, on PostgreSQL."""

from __future__ import annotations

from contextlib import closing

import pytest
from shops import Promises
from shops import check_what_it_prints
from sqlalchemy import create_engine
from sqlalchemy import inspect
from sqlalchemy import make_url
from stub import Task
from worked_examples import load

from sa_reaperpool import ReaperPool

job_queue = load("job_queue")


class TestOnPostgreSQL(Promises):
    @pytest.fixture
    def shop(self, postgres_url, driver):
        url = make_url(postgres_url).set(drivername=f"postgresql+{driver}")
        engine = job_queue.make_engine(url)
        with job_queue.tables(engine):
            yield job_queue.Shop(engine)
        engine.dispose()

    def test_workers_pass_over_what_others_have(self, shop):
        shop.place_order(pay=int)
        shop.place_order(pay=int)
        queue = shop.queue
        with queue.pool.with_connection() as connection:
            with closing(connection.cursor()) as cursor:
                one = queue.take(cursor)
                others = []
                assert Task(queue.work, others.append).result()
                assert not Task(queue.work, others.append).result()
            connection.rollback()
        assert [one[1], *others] == [1, 2]
        assert queue.waiting() == 1


def test_it_is_the_reservation_that_does_it(postgres_url):
    """Or else the tests above would show nothing."""
    engine = create_engine(postgres_url, poolclass=ReaperPool)
    with job_queue.tables(engine):
        shop = job_queue.Shop(engine)
        with pytest.raises(SystemExit, match="^Not as promised: the job is"):
            job_queue.commit(shop)
        with pytest.raises(SystemExit, match="^Not as promised: both or n"):
            job_queue.roll_back(shop)
        assert engine.pool.checkedout() == 0
    engine.dispose()


def test_what_it_prints(postgres_url):
    check_what_it_prints(postgres_url)
    engine = create_engine(postgres_url)
    assert job_queue.JOBS not in inspect(engine).get_table_names()
    engine.dispose()
