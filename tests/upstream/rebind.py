"""A plugin for pytest that puts another pool in QueuePool's place.

It is named on the command line of SQLAlchemy's test suite, and so loaded
before that imports anything.  ``REAPERPOOL_UPSTREAM_POOL`` names the pool as
``module:class``, ``REAPERPOOL_UPSTREAM_REPORT`` the file for the outcomes.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from pathlib import Path

import pytest
import sqlalchemy.pool

_module, _, _name = os.environ["REAPERPOOL_UPSTREAM_POOL"].partition(":")
POOL = getattr(importlib.import_module(_module), _name)

# Both names are public, and dialects look theirs up in the second when an
# engine is made.  The one in sqlalchemy.pool.impl stays: it is the base of
# the new class, and of the pool for asyncio.
sqlalchemy.QueuePool = sqlalchemy.pool.QueuePool = POOL

_outcomes: dict[str, str] = {}
_timed: list[str] = []
_ids: dict[str, str] = {}


def _stock_name(node_id: str) -> str:
    """The test's name in a run with QueuePool: parameters show classes."""

    return re.sub(rf"(?<=[\[-]){_name}(?=[-\]])", "QueuePool", node_id)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        assert item.module.pool.QueuePool is POOL
        name = _stock_name(item.nodeid)
        _ids[name] = item.nodeid
        if item.get_closest_marker("timing_intensive"):
            _timed.append(name)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name = _stock_name(report.nodeid)
    # A test has passed when its setup and teardown have, too.
    worst = _outcomes.get(name, "passed")
    if "failed" in (worst, report.outcome):
        _outcomes[name] = "failed"
    elif "skipped" in (worst, report.outcome):
        _outcomes[name] = "skipped"
    else:
        _outcomes[name] = "passed"


def pytest_sessionfinish() -> None:
    report = Path(os.environ["REAPERPOOL_UPSTREAM_REPORT"])
    found = {"outcomes": _outcomes, "timed": _timed, "ids": _ids}
    report.write_text(json.dumps(found))
