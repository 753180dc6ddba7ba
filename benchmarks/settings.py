"""What the rooms of ``python -m benchmarks`` are given to work with."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from .rows import Skip


class Settings:
    """How long to measure, and on which PostgreSQL.

    A context manager: what was started for the benches ends with it.

    :param url: of a PostgreSQL to use; its server is not touched.  Without
     it one is started, with the tests' launcher, when a room first asks.

    :param quick: few rounds, to see that it works.

    .. attribute:: pictures

        SVG documents by their names, which rooms put there.

    .. attribute:: suites

        pyperf's suites of all timings, by what they were measured on.

    """

    def __init__(self, url: str | None = None, quick: bool = False):
        self.quick = quick
        self.pictures: dict[str, str] = {}
        self.suites: dict[str, Any] = {}
        self._given = url
        self._started: Any = None
        self._missing = ""
        self._stack = ExitStack()

    def rounds(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    @property
    def url(self) -> str:
        """Of PostgreSQL, through psycopg2.

        :raises Skip: there is none.

        """
        if self._given is not None:
            url = make_url(self._given).set(drivername="postgresql+psycopg2")
            return url.render_as_string(hide_password=False)
        return str(self._server().url("psycopg2"))

    @property
    def dsn(self) -> str:
        """The same, as libpq takes it."""
        url = make_url(self.url).set(drivername="postgresql")
        return url.render_as_string(hide_password=False)

    @property
    def server_pid(self) -> int | None:
        """The server's main process, if it is the benches' own."""
        return None if self._given else int(self._server().pid)

    def say(self, text: str) -> None:
        """Tell, beside the results, what goes on."""
        print(text, file=sys.stderr, flush=True)

    def keep(self, suite: Any, where: str) -> None:
        """Add a worker's timings, for pyperf's own commands."""
        if where in self.suites:
            self.suites[where].add_runs(suite)
        else:
            self.suites[where] = suite

    def end_with(self, resource: Any) -> Any:
        """Enter this context manager now, and leave it at the end."""
        return self._stack.enter_context(resource)

    def __enter__(self) -> Settings:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _server(self) -> Any:
        if self._missing:
            raise Skip(self._missing)
        if self._started is None:
            # whose libraries ask Kerberos at each connect
            os.environ.setdefault("PGGSSENCMODE", "disable")
            # the launcher is that of the tests
            sys.path.append(str(Path(__file__).parents[1] / "tests"))
            from servers import PostgreSQL
            from servers import ServerError

            try:
                self._started = self.end_with(PostgreSQL())
            except ServerError as error:
                self._missing = f"no PostgreSQL: {error}"
                raise Skip(self._missing) from None
        return self._started
