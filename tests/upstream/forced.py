"""A plugin for pytest that has SQLAlchemy's tests use a pool of our choice.

Every engine that the tests make, and that would have a QueuePool by default,
gets the pool that ``REAPERPOOL_UPSTREAM_POOL`` names as ``module:class``.
``REAPERPOOL_UPSTREAM_OPTIONS`` holds options for it, as JSON, and
``REAPERPOOL_UPSTREAM_REPORT`` names the file for the outcomes.  Engines for
``:memory:``, for asyncio, and those whose test chose a pool, keep theirs.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.dialects
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.engine import CreateEnginePlugin
from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool
from sqlalchemy.pool import QueuePool

_module, _, _name = os.environ["REAPERPOOL_UPSTREAM_POOL"].partition(":")
POOL = getattr(importlib.import_module(_module), _name)
OPTIONS = json.loads(os.environ["REAPERPOOL_UPSTREAM_OPTIONS"])

# worst last; an error is a test whose setup or teardown has failed
_RANKS = ("passed", "skipped", "error", "failed")

_outcomes: dict[str, str] = {}
_errors: dict[str, str] = {}
_checkouts = {"of this pool": 0, "of any": 0}


class ForcedPool(CreateEnginePlugin):
    """Puts the pool where SQLAlchemy would have put a QueuePool."""

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        super().__init__(url, kwargs)
        self._forced = (
            not kwargs.get("_is_async")
            and not kwargs.keys() & {"pool", "poolclass"}
            and url.get_dialect().get_pool_class(url) is QueuePool
        )
        if not self._forced:
            return
        # The testing framework makes these 0 by private names, unless a
        # test gave them, so that connections which are never returned are
        # noticed.  A ReaperPool does not know those names.
        if not kwargs.keys() & {"pool_timeout", "max_overflow"}:
            kwargs.update(pool_timeout=0, max_overflow=0)
        kwargs.update(OPTIONS, poolclass=POOL)

    def update_url(self, url: URL) -> URL:
        return url

    def engine_created(self, engine: Engine) -> None:
        if self._forced:
            assert type(engine.pool) is POOL
            event.listen(engine.pool, "checkout", _counter("of this pool"))


def _counter(name: str) -> Any:
    def count(*_: object) -> None:
        _checkouts[name] += 1

    return count


event.listen(Pool, "checkout", _counter("of any"))
sqlalchemy.dialects.plugins.register("forced", __name__, "ForcedPool")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionstart() -> Iterator[None]:
    # not earlier, as SQLAlchemy's conftest.py must be the first to load this
    from sqlalchemy.testing import config
    from sqlalchemy.testing import provision

    @provision.update_db_opts.for_db("*")
    def force(url: URL, options: dict[str, Any], _: object) -> None:
        options["plugins"] = ["forced"]

    yield
    for given in config.Config.all_configs():
        assert type(given.db.pool) is POOL, given.db.pool


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:
    report = yield
    outcome = report.outcome
    if outcome == "failed":
        _errors[item.nodeid] = call.excinfo.exconly()[:500]
        if report.when != "call":
            outcome = "error"
    before = _outcomes.get(item.nodeid, "passed")
    _outcomes[item.nodeid] = max(before, outcome, key=_RANKS.index)
    return report


def pytest_sessionfinish() -> None:
    report = Path(os.environ["REAPERPOOL_UPSTREAM_REPORT"])
    found = {
        "outcomes": _outcomes,
        "errors": _errors,
        "checkouts": _checkouts,
    }
    report.write_text(json.dumps(found))
