"""The example of a web application does what it says."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import text
from stub import until
from web import asgi_server
from web import required
from worked_examples import load
from worked_examples import run


@pytest.fixture
def example():
    required("fastapi", "uvicorn")
    return load("web_application")


@pytest.fixture
def engine(example, tmp_path):
    engine = example.make_engine(tmp_path)
    yield engine
    engine.dispose()


def rows(engine):
    """How many visits were counted, and how many were written down."""
    with engine.connect() as connection:
        return tuple(
            connection.scalar(text(f"SELECT {count}"))
            for count in ("sum(number) FROM visits", "count(*) FROM journal")
        )


def test_commit_is_of_both(example, engine):
    with asgi_server(example.make_application(engine)) as port:
        assert example.ask(port, "POST", "garden") == (200, 1)
        assert example.ask(port, "GET", "garden") == (200, 1)
    assert rows(engine) == (1, 1)


def test_rollback_is_of_both(example, engine):
    with asgi_server(example.make_application(engine)) as port:
        answer = example.ask(port, "POST", "attic")
        assert answer == (403, {"detail": "nobody goes there"})
        assert example.ask(port, "GET", "attic") == (200, 0)
    assert rows(engine) == (0, 0)


@pytest.mark.parametrize("page", ["garden", "attic"])
def test_nothing_is_held_after_a_request(example, engine, page):
    with asgi_server(example.make_application(engine)) as port:
        for method in ("POST", "GET"):
            example.ask(port, method, page)
            until(lambda: engine.pool.checkedout() == 0)


def test_says_if_something_is_held(example, engine, monkeypatch):
    make = example.make_application
    monkeypatch.setattr(
        example, "make_application", lambda engine: make(engine, False)
    )

    def ask_often(port, requests, at_a_time):
        # each to be served by the same thread, or there are too few
        for request in requests:
            example.ask(port, *request)
        monkeypatch.setattr(example, "PATIENCE", 0.1)

    monkeypatch.setattr(example, "ask_often", ask_often)
    with pytest.raises(SystemExit, match="^Not as promised: nothing is held"):
        example.with_it(engine, each=1)


def test_what_it_prints():
    required("fastapi", "uvicorn")
    ended = run("web_application")
    assert ended.stderr == ""
    assert ended.returncode == 0
    told = ended.stdout.splitlines()
    assert re.fullmatch(
        r"1. 120 requests, 12 at a time, on [123] connections: "
        "80 answered, 40 refused",
        told[0],
    )
    assert told[1:4] == [
        "   Connections still held: 0",
        "   Visits counted: 40, written down: 40",
        "2. Without ReleaseConnections, after one request more:",
    ]
    assert re.fullmatch(
        r"   Connections still held: 1, by '.*', "
        r"from web_application.py:\d+ in number",
        told[4],
    )
    assert told[5] == "3. The server stops, and its threads end"
    log, last = told[6:]
    assert re.search("the log: .* took back .*web_application.py:", log)
    assert last == "   Connections still held: 0"
