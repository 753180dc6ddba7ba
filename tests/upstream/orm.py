"""SQLAlchemy's tests of its ORM, with a pool of choice in QueuePool's place.

By hand, in the root of the checkout, with the SQLAlchemy that is installed::

    python -m tests.upstream.orm --pool queue --to queue.json
    python -m tests.upstream.orm --pool reaper --to reaper.json
    python -m tests.upstream.orm --compare queue.json reaper.json

    python -m tests.upstream.orm --reservation thread --to thread.json
    python -m tests.upstream.orm --compare queue.json thread.json

Each run works in a temporary folder of its own, on an SQLite file, and takes
six to ten minutes.  SQLAlchemy skips its tests of savepoints and independent
connections there; with ``--postgresql`` they run, on a server started for it.

What is run is the whole of ``test/orm``; files, folders or node ids may be
named instead, as ``test/orm/test_bind.py`` or ``test/ext``, and further
arguments of pytest's after ``--``.  The comparison prints what came out
otherwise.  Its exit status is 1 if it finds a difference that known.py does
not explain.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy.engine import make_url

from .database import new_database
from .known import KNOWN
from .process import Process
from .source import ALL_TESTS
from .source import unpack

POOLS = {
    "queue": "sqlalchemy.pool:QueuePool",
    "reaper": "sa_reaperpool:ReaperPool",
}
WHOLE = ("test/orm",)
# SQLAlchemy puts it into the working folder, with the driver in its name.
SQLITE = "sqlite:///file.db"
TIMEOUT = 3600


@dataclasses.dataclass(frozen=True)
class Found:
    """What became of each test in a run, and how the run was made."""

    sqlalchemy: str
    python: str
    pool: str
    options: dict[str, Any]
    database: str
    files: list[str]
    seconds: float
    #: by node id: passed, skipped, failed, or error (in setup or teardown)
    outcomes: dict[str, str]
    #: by node id, what those that did not pass have raised
    errors: dict[str, str]
    #: of engines that were given this pool, and of all in the tests
    checkouts: dict[str, int]

    @property
    def tests(self) -> tuple[object, ...]:
        """What was run: two runs of the same can be compared."""
        return self.sqlalchemy, self.database, self.files

    @property
    def used_the_pool(self) -> bool:
        # a few tests use databases in memory, and pools of their own
        of_any = max(self.checkouts["of any"], 1)
        return self.checkouts["of this pool"] > 0.9 * of_any

    @property
    def reservation(self) -> str:
        return str(self.options.get("reservation", "explicit"))

    def summary(self) -> str:
        counts = Counter(self.outcomes.values())
        outcomes = ", ".join(f"{n} {what}" for what, n in counts.items())
        checkouts = ", ".join(f"{n} {of}" for of, n in self.checkouts.items())
        options = "".join(f", {k}={v}" for k, v in self.options.items())
        return (
            f"SQLAlchemy {self.sqlalchemy}, Python {self.python}, "
            f"{self.database}, {self.pool}{options}, {' '.join(self.files)}\n"
            f"  {outcomes}\n"
            f"  checkouts: {checkouts}; {self.seconds:.0f} s"
        )


class WrongPool(Exception):
    """The tests ran, but not with the pool that they were to run with."""


class OrmRun:
    """A run of SQLAlchemy's tests, under way.

    :param source: a folder where they are unpacked, for this run alone.
    :param pool: the pool to use for QueuePool, as ``module:class``.
    :param options: for ``create_engine()``, where it makes such a pool.
    :param files: what to run: pytest's arguments.
    :param url: of a database that is there for these tests alone.
    """

    def __init__(
        self,
        source: Path,
        pool: str,
        options: Mapping[str, Any] | None = None,
        files: tuple[str, ...] = WHOLE,
        url: str = SQLITE,
    ) -> None:
        self._pool = pool
        self._options = dict(options or {})
        self._files = list(files)
        self._started = time.monotonic()
        self._database = make_url(url).get_backend_name()
        # A run is not to end at its 250th failure.
        arguments = ["--dburi", url, "--maxfail=0", *files]
        self._process = Process(
            source,
            "forced",
            arguments,
            {
                "REAPERPOOL_UPSTREAM_POOL": pool,
                "REAPERPOOL_UPSTREAM_OPTIONS": json.dumps(self._options),
            },
            TIMEOUT,
        )

    def found(self) -> Found:
        """Wait for the end of the run.

        :raises WrongPool: its connections came from elsewhere.
        :raises AssertionError: not all tests ran.
        """

        report, output = self._process.wait()
        found = Found(
            sqlalchemy.__version__,
            platform.python_version(),
            self._pool,
            self._options,
            self._database,
            self._files,
            time.monotonic() - self._started,
            **report,
        )
        if not found.used_the_pool:
            raise WrongPool(f"{found.summary()}\n{output[-2000:]}")
        return found

    def end(self) -> None:
        self._process.end()


@dataclasses.dataclass(frozen=True)
class Difference:
    """A test that came out otherwise, and why that is right, if known."""

    test: str
    before: str
    after: str
    error: str
    reason: str | None


def differences(
    before: Found, after: Found, known: Mapping[str, str] | None = None
) -> list[Difference]:
    """Compare two runs of the same tests.

    :param known: reasons by node id, as in known.py; by default, those for
     the option ``reservation`` of the second run.
    """

    if known is None:
        known = KNOWN[after.reservation]
    found = []
    for test in sorted(before.outcomes.keys() | after.outcomes.keys()):
        was = before.outcomes.get(test, "not run")
        now = after.outcomes.get(test, "not run")
        if was != now:
            error = after.errors.get(test) or before.errors.get(test, "")
            reason = reason_for(test, known)
            found.append(Difference(test, was, now, error, reason))
    return found


def reason_for(test: str, known: Mapping[str, str]) -> str | None:
    for pattern, reason in known.items():
        if _matches(pattern, test):
            return reason
    return None


def stale(before: Found, after: Found, known: Mapping[str, str]) -> list[str]:
    """The patterns for which tests ran, but came out the same."""

    differ = {d.test for d in differences(before, after, known)}
    ran = {test for test, was in before.outcomes.items() if was != "skipped"}
    return [
        pattern
        for pattern in known
        if any(_matches(pattern, test) for test in ran)
        and not any(_matches(pattern, test) for test in differ)
    ]


def _matches(pattern: str, test: str) -> bool:
    # not fnmatch: node ids have brackets
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(".*".join(parts), test) is not None


def run(
    pool: str,
    options: Mapping[str, Any],
    files: tuple[str, ...],
    url: str,
    to: Path,
) -> None:
    with tempfile.TemporaryDirectory(prefix="reaperpool-orm-") as folder:
        unpack(Path(folder), ALL_TESTS)
        under_way = OrmRun(Path(folder), pool, options, files, url)
        try:
            found = under_way.found()
        finally:
            under_way.end()
    to.write_text(json.dumps(dataclasses.asdict(found), indent=1))
    print(found.summary())
    for test, error in found.errors.items():
        print(f"{found.outcomes[test]}: {test}\n    {_line(error)}")
    print(f"outcomes are in {to}")


def compare(before: Found, after: Found) -> int:
    print(f"before: {before.summary()}\nafter: {after.summary()}")
    if before.tests != after.tests:
        print("these are not runs of the same tests")
        return 1
    unknown = 0
    for difference in differences(before, after):
        print(f"{difference.test}: {difference.before}, {difference.after}")
        print(f"    {_line(difference.error)}")
        if difference.reason is None:
            unknown += 1
        else:
            print(f"    right, because: {difference.reason}")
    for pattern in stale(before, after, KNOWN[after.reservation]):
        print(f"no difference any more, though known.py has {pattern}")
    print(f"{unknown} unexplained differences")
    return 1 if unknown else 0


def _line(error: str) -> str:
    return " ".join(error.split())[:200]


def _read(path: Path) -> Found:
    return Found(**json.loads(path.read_text()))


def main() -> int:
    summary, _, rest = str(__doc__).partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m tests.upstream.orm",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pool", choices=POOLS, default="reaper")
    parser.add_argument(
        "--reservation", choices=KNOWN, default="explicit", help="its option"
    )
    parser.add_argument(
        "--postgresql",
        action="store_true",
        help="on a server that is started for this run, not on SQLite",
    )
    parser.add_argument("--to", type=Path, help="the file for the outcomes")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER")
    )
    parser.add_argument("files", nargs="*", help="default: test/orm")
    given = parser.parse_args()
    if given.compare:
        before, after = map(_read, given.compare)
        return compare(before, after)
    options = {}
    if given.reservation != "explicit":
        if given.pool != "reaper":
            parser.error(f"--reservation is not for --pool {given.pool}")
        options["reservation"] = given.reservation
    name = f"orm-{sqlalchemy.__version__}-{given.pool}-{given.reservation}"
    to = given.to or Path(tempfile.gettempdir(), f"{name}.json")
    files = tuple(given.files) or WHOLE
    if given.postgresql:
        # by this name only where this module is a program
        from tests.servers import PostgreSQL

        with (
            PostgreSQL() as server,
            new_database(server.url("psycopg2")) as url,
        ):
            run(POOLS[given.pool], options, files, url, to)
    else:
        run(POOLS[given.pool], options, files, SQLITE, to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
