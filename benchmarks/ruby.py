"""The pools of Ruby, in a process that takes its turns with ours.

Debian has what it needs: ``apt-get install ruby-activerecord
ruby-connection-pool ruby-pg``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any
from typing import Callable

from sqlalchemy import make_url

from .rows import Skip

SCRIPT = Path(__file__).with_name("peers.rb")


class Ruby:
    """A context manager around the process.

    :param url: of PostgreSQL; None for connections of nothing.

    :raises Skip: on entry: there is no Ruby, or none of the gems.

    .. attribute:: names

        of the pools that it has.

    .. attribute:: missing

        why it lacks the others, by their names.

    """

    def __init__(self, url: str | None):
        self._url = ""
        if url is not None:
            address = make_url(url).set(drivername="postgresql")
            self._url = address.render_as_string(hide_password=False)
        self._process: Any = None
        self.names: list[str] = []
        self.missing: dict[str, str] = {}

    def __enter__(self) -> Ruby:
        program = shutil.which("ruby")
        if program is None:
            raise Skip("ruby is not installed")
        self._process = subprocess.Popen(
            [program, "-W0", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # it ends when its input does, and by no Ctrl-C before
            start_new_session=True,
            text=True,
        )
        try:
            hello = json.loads(self._ask(self._url))
        except BaseException:
            self._close()
            raise
        self.names = hello["names"]
        self.missing = hello["missing"]
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def batch(self, name: str) -> Callable[[int], float]:
        """Use this pool so many times; Ruby's own clock has the seconds."""
        return lambda count: float(self._ask(f"{count} {name}"))

    def _ask(self, line: str) -> str:
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise Skip("ruby has ended")
        return str(answer)

    def _close(self) -> None:
        # its error output says why it ended, if it did
        with self._process:
            try:
                self._process.stdin.close()
                self._process.wait(5)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
