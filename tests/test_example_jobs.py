"""The example of a job queue does what it says, on an SQLite file."""

from __future__ import annotations

import pytest
from shops import Promises
from shops import check_what_it_prints
from sqlalchemy import create_engine
from sqlalchemy import inspect
from worked_examples import load
from worked_examples import run

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
    check_what_it_prints(url)
    engine = create_engine(url)
    assert inspect(engine).get_table_names() == []
    engine.dispose()


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
    ended = run("job_queue", url)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(message)
    assert "s3cret" not in ended.stderr
    assert "Traceback" not in ended.stderr
