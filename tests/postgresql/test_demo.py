from __future__ import annotations

import re
import signal
import subprocess

import pytest
from demos import COMMAND
from demos import demo
from demos import running
from sqlalchemy import create_engine
from sqlalchemy import inspect
from sqlalchemy import make_url
from sqlalchemy import text

pytestmark = pytest.mark.slow


def left(url: str) -> list[str]:
    """What a demo left in the database: tables, and connections to it."""

    engine = create_engine(url)
    with engine.connect() as connection:
        names = connection.scalars(
            text(
                "SELECT application_name FROM pg_stat_activity "
                "WHERE application_name LIKE 'reaperpool-demo%'"
            )
        ).all()
    names = [*names, *inspect(engine).get_table_names()]
    engine.dispose()
    return [name for name in names if name.startswith("reaperpool")]


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_terminated_backends(postgres_url: str, driver: str) -> None:
    url = make_url(postgres_url).set(drivername=f"postgresql+{driver}")

    ended = demo(url.render_as_string(hide_password=False), "--seconds", "4")

    assert (ended.status, ended.err) == (0, "")
    rows = ended.table()
    assert rows["ledger balances"] == ["yes", "yes"]
    for pool in ("QueuePool", "ReaperPool"):
        found = re.findall(
            r"server ends every connection \((\d)\)", ended.part(pool)
        )
        assert len(found) == 2
        assert 1 <= int(found[0]) <= 4
    # the forgotten one came back as well, when its backend was gone
    assert rows["still held at the end"][0] > "0 of 4"
    assert rows["still held at the end"][1] == "0 of 4"
    assert rows["connections reaped"] == ["0", rows["threads died"][1]]
    assert rows["failed checkouts"][1] == "0"
    # What the server closed is replaced before anyone borrows it; but one
    # that is borrowed in the moment between fails, here as anywhere.
    failed = [int(number) for number in rows["failed transfers"]]
    assert failed[1] <= failed[0]
    assert left(postgres_url) == []


def test_interrupted(postgres_url: str) -> None:
    with running(postgres_url, "--seconds", "6") as process:
        process.read_until(" dies")
        process.process.send_signal(signal.SIGINT)
        ended = process.end()

    assert (ended.status, ended.err) == (130, "")
    assert ended.table()["ledger balances"] == ["yes"]
    assert left(postgres_url) == []


@pytest.mark.parametrize("command", ["demo", "watch"])
def test_interrupted_again_and_again(postgres_url: str, command: str) -> None:
    with running(postgres_url, "--seconds", "20", command=command) as process:
        process.read_until(" dies| in use")
        ended = process.interrupt_until_it_ends()

    assert (ended.status, ended.err) == (130, "")
    assert re.search("ledger balances +yes", ended.out)
    assert left(postgres_url) == []


def test_watched(postgres_url: str) -> None:
    command = [*COMMAND, "watch", postgres_url, "--seconds", "5"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert (ended.returncode, ended.stderr) == (0, "")
    words = " ".join(ended.stdout.split())
    assert words.count("in a short break the server ends every") == 2
    # the forgotten one, as the server had ended it
    assert re.search(r"\(dead\) from teller-\d+, held .*? in forget", words)
    assert re.search(r"ledger balances +yes", ended.stdout)
    assert left(postgres_url) == []


def test_wrong_password(postgres_url: str) -> None:
    url = make_url(postgres_url).set(username="nobody", password="s3cret")

    ended = demo(url.render_as_string(hide_password=False))

    assert (ended.status, ended.out) == (2, "")
    assert "cannot reach postgresql+psycopg2://nobody:***@" in ended.err
    assert ended.err.count("\n") == 1
    assert "s3cret" not in ended.err
