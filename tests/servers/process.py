"""What every test server needs: a keeper, a user, a free port."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any


class ServerError(Exception):
    """A server could not be found, made or started."""


class Keeper:
    """A folder and a server in it, which outlive this process by moments.

    See ``keeper.py``, which runs as a process of its own.
    """

    def __init__(self) -> None:
        self.account = unprivileged_account()
        user, group = ("", "")
        if self.account is not None:
            user, group = map(str, self.account)
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                str(Path(__file__).with_name("keeper.py")),
                temporary_folder(self.account),
                user,
                group,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        hello = self._answer()
        self.folder = Path(hello["folder"])
        self.pid: int = hello["pid"]

    def run(self, argv: list[str], timeout: float = 120) -> str:
        """Run a program to its end in the folder and return its output."""

        done = self._ask(do="run", argv=argv, env=self._env(), timeout=timeout)
        if done["status"]:
            raise ServerError(
                f"{argv[0]} ended with {done['status']}:\n{done['output']}"
            )
        return str(done["output"])

    def start(self, argv: list[str]) -> int:
        """Start the server and return its process id."""

        return int(self._ask(do="start", argv=argv, env=self._env())["pid"])

    def poll(self) -> int | None:
        """The server's exit status, or None while it runs."""

        status: int | None = self._ask(do="poll")["status"]
        return status

    def signal(self, number: int, timeout: float = 60) -> None:
        """Send the server a signal and wait for its end."""

        self._ask(do="signal", signal=int(number), timeout=timeout)

    def write(self, name: str, text: str) -> Path:
        """Make a file in the folder, for the server's eyes only."""

        path = self.folder / name
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        descriptor = os.open(path, flags, 0o600)
        with os.fdopen(descriptor, "w") as file:
            if self.account is not None:
                os.chown(descriptor, *self.account)
            file.write(text)
        return path

    def log(self) -> str:
        path = self.folder / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """Kill the server and remove the folder; wait until it is done."""

        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _env(self) -> dict[str, str]:
        # Nothing of the caller's: PGDATA, PGPORT or LC_ALL would matter.
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            # MariaDB, as it starts, removes the temporary tables of others
            "TMPDIR": str(self.folder),
            "LC_ALL": "C",
            "TZ": "UTC",
        }

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ServerError("the server's keeper has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ServerError(answer["error"])
        return answer


# where packages put server programs, which is not on everybody's PATH
_PATH = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/libexec"]
)


def find_program(*names: str) -> str | None:
    """The path of the first of these that the machine has."""

    found = (shutil.which(name, path=_PATH) for name in names)
    return next(filter(None, found), None)


def unprivileged_account() -> tuple[int, int] | None:
    """User and group that a server runs as, when this process is root.

    PostgreSQL refuses to run as root, and initdb to run as a user without
    an entry in the password file.
    """

    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        others = [entry for entry in pwd.getpwall() if entry.pw_uid]
        if not others:
            raise ServerError("no account but root to run a server") from None
        entry = others[-1]
    return entry.pw_uid, entry.pw_gid


def temporary_folder(account: tuple[int, int] | None) -> str:
    """A folder for temporary ones that this account can enter too."""

    places = [tempfile.gettempdir()]
    if account is not None:
        places += ["/tmp", "/var/tmp"]
    for place in places:
        if account is None or open_to_all(Path(place)):
            return place
    raise ServerError(f"no temporary folder that is open to all: {places}")


def open_to_all(path: Path) -> bool:
    """Can any account read this file, or enter this folder."""

    path = path.resolve()
    try:
        if any(not p.stat().st_mode & 0o001 for p in path.parents):
            return False
        wanted = 0o005 if path.is_dir() else 0o004
        return path.stat().st_mode & wanted == wanted
    except OSError:
        return False


def free_port() -> int:
    """A port that is free now; another program may still be quicker."""

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
