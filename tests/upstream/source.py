"""Get SQLAlchemy's tests: download, keep for later runs, unpack."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import sqlalchemy

# What any of the tests need beside the installed package: the test suite's
# own configuration, and the plugin that its conftest.py loads by path.
_COMMON = (
    "pyproject.toml",
    "setup.cfg",
    "test/__init__.py",
    "test/conftest.py",
    "test/requirements.py",
    "lib/sqlalchemy/testing/plugin/",
)
POOL_TESTS = ("test/engine/__init__.py", "test/engine/test_pool.py")
ORM_TESTS = ("test/orm/",)
ALL_TESTS = ("test/",)


class Unavailable(Exception):
    """The source distribution is neither kept here nor to be had."""


def unpack(folder: Path, tests: tuple[str, ...] = POOL_TESTS) -> None:
    """Lay what is needed of SQLAlchemy's source into this folder.

    :param folder: exists.
    :param tests: what the names of the tests' files start with.
    :raises Unavailable: there is no source distribution.
    """

    with tarfile.open(_archive()) as archive:
        for member in archive:
            name = member.name.partition("/")[2]
            # only files, and only at names known beforehand
            if not member.isfile() or ".." in name:
                continue
            if not name.startswith(_COMMON + tests):
                continue
            content = archive.extractfile(member)
            assert content is not None
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())


def _archive() -> Path:
    """The source distribution of the installed version."""

    name = f"sqlalchemy-{sqlalchemy.__version__}.tar.gz"
    kept = _cache()
    if kept is not None and (kept / name).exists():
        return kept / name
    with tempfile.TemporaryDirectory(dir=kept) as folder:
        _download(Path(folder))
        [found] = Path(folder).glob("*.tar.gz")
        if kept is None:
            kept = Path(tempfile.mkdtemp())
        # in one step, as another run may be doing the same
        return found.replace(kept / name)


def _download(folder: Path) -> None:
    # pip is the one that knows the machine's package index, proxy and
    # certificates.  It reads a source distribution's metadata before it
    # hands the file over, and brings what that takes by itself.
    command = [sys.executable, "-m", "pip", "download", "--no-deps"]
    command += ["--no-binary", "sqlalchemy", "--dest", str(folder)]
    command += ["--disable-pip-version-check", "--quiet", "--no-input"]
    command += ["--retries", "1", "--timeout", "30"]
    try:
        done = subprocess.run(
            [*command, f"sqlalchemy=={sqlalchemy.__version__}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable("pip has not ended after 300 s") from None
    if done.returncode:
        lines = done.stdout.strip().splitlines() or ["no message"]
        raise Unavailable(lines[-1])


def _cache() -> Path | None:
    """A folder of this user's to keep downloads in, if there can be one."""

    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(home, "sa-reaperpool")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    # others could lay tests there that would then run as this user
    own = folder.stat().st_uid == os.geteuid()
    return folder if own and os.access(folder, os.W_OK) else None
