"""SQLAlchemy's own tests of the ORM come out as with QueuePool.

A choice of files, those that use connections in the most ways; the whole is
run by hand, see upstream/orm.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Iterator

import pytest
from conftest import missing
from upstream import orm
from upstream.database import new_database
from upstream.source import ORM_TESTS
from upstream.source import Unavailable
from upstream.source import unpack

pytestmark = pytest.mark.upstream

STOCK = orm.POOLS["queue"]
OURS = orm.POOLS["reaper"]
FILES = (
    "test/orm/test_bind.py",
    "test/orm/test_session.py",
    "test/orm/test_transaction.py",
)
# a quarter of these, SQLAlchemy skips on SQLite
ON_POSTGRESQL = ("test/orm/test_transaction.py",)
# It closes a session whose result is half read, and reads on.
LOST = (
    "test/orm/test_session.py",
    "-k",
    "test_unbuffered_result_session_is_closed",
)
# One session must not see what another has not yet committed.
SHARED = (*ON_POSTGRESQL, "-k", "test_transactions_isolated")

Start = Callable[..., orm.OrmRun]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a run in a folder of its own."""

    runs = []

    def started(*arguments: object) -> orm.OrmRun:
        folder = tmp_path_factory.mktemp("sqlalchemy")
        try:
            unpack(folder, ORM_TESTS)
        except Unavailable as error:
            missing(f"no source distribution of SQLAlchemy: {error}")
        runs.append(orm.OrmRun(folder, *arguments))
        return runs[-1]

    yield started
    for run in runs:
        run.end()


@pytest.fixture(scope="module")
def sqlite(start: Start) -> tuple[orm.Found, orm.Found]:
    both = start(STOCK, None, FILES), start(OURS, None, FILES)
    return both[0].found(), both[1].found()


@pytest.fixture(scope="module")
def postgresql(
    start: Start, postgres_url: str
) -> Iterator[tuple[orm.Found, orm.Found]]:
    with new_database(postgres_url) as one, new_database(postgres_url) as two:
        both = (
            start(STOCK, None, ON_POSTGRESQL, one),
            start(OURS, None, ON_POSTGRESQL, two),
        )
        yield both[0].found(), both[1].found()


def test_on_sqlite(sqlite: tuple[orm.Found, orm.Found]) -> None:
    stock, ours = sqlite
    assert list(stock.outcomes.values()).count("passed") > 350
    for found in sqlite:
        assert found.checkouts["of this pool"] > 1500
    assert not orm.differences(stock, ours)


def test_on_postgresql(postgresql: tuple[orm.Found, orm.Found]) -> None:
    stock, ours = postgresql
    assert list(stock.outcomes.values()).count("passed") > 200
    assert "skipped" not in stock.outcomes.values()
    assert not orm.differences(stock, ours)


def test_a_pool_that_loses_connections_is_noticed(
    start: Start, sqlite: tuple[orm.Found, orm.Found]
) -> None:
    stock = sqlite[0]
    broken = start("broken:LosesReturned", None, LOST).found()
    assert ("passed", "failed") in changes(stock, broken)


def test_a_pool_that_lends_twice_is_noticed(
    start: Start,
    postgres_url: str,
    postgresql: tuple[orm.Found, orm.Found],
) -> None:
    """On PostgreSQL alone."""

    stock = postgresql[0]
    with new_database(postgres_url) as url:
        broken = start("broken:HandsOutTwice", None, SHARED, url).found()
    assert changes(stock, broken) == [("passed", "failed")]


def changes(stock: orm.Found, few: orm.Found) -> list[tuple[str, str]]:
    """From what to what those differ that the second run consists of."""

    outcomes = {test: stock.outcomes[test] for test in few.outcomes}
    stock = dataclasses.replace(stock, outcomes=outcomes)
    found = orm.differences(stock, few)
    return [(difference.before, difference.after) for difference in found]


def test_another_pool_breaks_the_run(start: Start) -> None:
    """A run whose engines have another pool than they should ends."""

    with pytest.raises(
        AssertionError, match=r"assert type\(engine.pool\) is POOL"
    ):
        start("broken:Impostor", None, LOST).found()


@pytest.mark.parametrize(
    "ours, others, used", [(0, 0, False), (2, 98, False), (98, 2, True)]
)
def test_checkouts_of_another_pool(ours: int, others: int, used: bool) -> None:
    checkouts = {"of this pool": ours, "of any": ours + others}
    found = dataclasses.replace(given(), checkouts=checkouts)
    assert found.used_the_pool is used


def test_options_reach_the_pool(start: Start) -> None:
    with pytest.raises(AssertionError, match="'checkout_manners'"):
        start(OURS, {"checkout_manners": "good"}, LOST).found()


def given(**outcomes: str) -> orm.Found:
    return orm.Found(
        "2.1", "3", OURS, {}, "sqlite", [], 1.0, outcomes, {"c": "Oh"}, {}
    )


def test_differences() -> None:
    before = given(a="passed", b="passed", c="passed", d="skipped")
    after = given(a="passed", b="skipped", c="failed", e="passed")
    known = {"[bd]": "not a pattern", "d": "gone"}
    assert [
        dataclasses.astuple(difference)
        for difference in orm.differences(before, after, known)
    ] == [
        ("b", "passed", "skipped", "", None),
        ("c", "passed", "failed", "Oh", None),
        ("d", "skipped", "not run", "", "gone"),
        ("e", "not run", "passed", "", None),
    ]


def test_reasons() -> None:
    known = {"test/x.py::*::test_a[[]1]": "no", "test/x.py::*[1]*": "right"}
    assert orm.reason_for("test/x.py::A::test_a[1]", known) == "right"
    assert orm.reason_for("test/x.py::A::test_a1", known) is None
    assert orm.reason_for("a/test/x.py::A::test_a[1]", known) is None


def test_stale_reasons() -> None:
    """A reason is not kept for longer than there is a difference."""

    before = given(a="passed", b="passed", c="skipped")
    after = given(a="failed", b="passed", c="skipped")
    known = {name: f"reason {name}" for name in "abcd"}
    assert orm.stale(before, after, known) == ["b"]


def test_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    same, other = given(a="passed"), given(a="failed")
    assert orm.compare(same, same) == 0
    assert orm.compare(same, other) == 1
    assert orm.compare(same, dataclasses.replace(same, files=["x"])) == 1
    assert "not runs of the same tests" in capsys.readouterr().out
