"""The example of a job queue does what it says, on an SQLite file."""

from __future__ import annotations

import pytest
from shops import Promises
from shops import check_what_it_prints
from sqlalchemy import inspect
from worked_examples import load

job_queue = load("job_queue")


class TestOnSQLite(Promises):
    @pytest.fixture
    def shop(self, tmp_path):
        engine = job_queue.make_engine(f"sqlite:///{tmp_path}/shop.db")
        with job_queue.tables(engine):
            yield job_queue.Shop(engine)
        engine.dispose()


def test_what_it_prints():
    check_what_it_prints()


def test_leaves_nothing_in_a_given_database(tmp_path):
    url = f"sqlite:///{tmp_path}/shop.db"
    with job_queue.database([url]) as engine:
        with job_queue.tables(engine):
            assert len(inspect(engine).get_table_names()) == 2
        assert inspect(engine).get_table_names() == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql+psycopg2://me:s3cret@127.0.0.1:1/x", "Cannot reach it: "),
        ("nosuch://me:s3cret@host/x", "Cannot use that as an address: "),
        ("postgresql://me:s3cret@host:port/x", "Cannot use that as an addr"),
        ("s3cret", "Cannot use that as an address: "),
        ("postgresql+psycopg2://me:p@s3cret@127.0.0.1:1/x", "Cannot use that"),
        ("sqlite://", "Name a database; of SQLite a file"),
    ],
)
def test_unusable_address(url, message):
    with pytest.raises(SystemExit) as ended:
        with job_queue.database([url]):
            raise AssertionError("not reached")
    # what is printed, with an exit status of 1
    assert ended.value.code.startswith(message)
    assert "s3cret" not in ended.value.code
