"""SQLAlchemy's own tests of QueuePool pass with ReaperPool in its place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import missing
from upstream.source import Unavailable
from upstream.source import unpack
from upstream.suite import Outcomes
from upstream.suite import Run
from upstream.suite import regressions

pytestmark = pytest.mark.upstream

STOCK = "sqlalchemy.pool.impl:QueuePool"
OURS = "sa_reaperpool:ReaperPool"
BROKEN = "broken:LosesReturned"
# Two that take no time: where a pool loses what is returned, others of the
# suite wait out their whole time limits.
FEW = (
    "test/engine/test_pool.py::QueuePoolTest::test_fifo",
    "test/engine/test_pool.py::QueuePoolTest::test_lifo",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sqlalchemy")
    try:
        unpack(folder)
    except Unavailable as error:
        missing(f"no source distribution of SQLAlchemy: {error}")
    return folder


@pytest.fixture(scope="module")
def runs(source: Path) -> Iterator[tuple[Run, Run]]:
    """Both at once, as they sleep most of the time."""

    both = (Run(source, STOCK), Run(source, OURS))
    yield both
    for run in both:
        run.end()


@pytest.fixture(scope="module")
def stock(runs: tuple[Run, Run]) -> Outcomes:
    return runs[0].outcomes()


def test_the_whole_suite_runs(stock: Outcomes) -> None:
    assert len(stock.with_("passed")) > 100


def test_what_passes_with_queuepool_passes(
    source: Path, runs: tuple[Run, Run], stock: Outcomes
) -> None:
    ours = runs[1].outcomes()
    assert ours.of.keys() == stock.of.keys()
    lost = regressions(source, OURS, stock, ours)
    assert not lost, f"{sorted(lost)}\n{ours.output[-8000:]}"


def test_a_broken_pool_is_noticed(source: Path, stock: Outcomes) -> None:
    assert stock.with_("passed").issuperset(FEW)
    broken = Run(source, BROKEN, FEW).outcomes()
    assert regressions(source, BROKEN, stock, broken) == set(FEW)


def test_second_chance_is_for_timing_alone(source: Path) -> None:
    """A test that passes at last is forgiven if timing may have been it."""

    name = FEW[0]
    names = {name: name}
    stock = Outcomes({name: "passed"}, frozenset(), names, "")
    failed = Outcomes({name: "failed"}, frozenset(), names, "")
    assert regressions(source, OURS, stock, failed) == {name}
    timed = Outcomes({name: "failed"}, frozenset(names), names, "")
    assert regressions(source, OURS, stock, timed) == set()
    assert regressions(source, BROKEN, stock, timed) == {name}


def test_no_package_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason for the skip is pip's own."""

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(Unavailable, match="No matching distribution"):
        unpack(tmp_path)
