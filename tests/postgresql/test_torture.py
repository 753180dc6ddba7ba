"""A short run of the torture bench, as it is run by hand for longer."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from benches import ROOT
from conftest import missing
from servers import postgresql

pytestmark = pytest.mark.slow

SECONDS = 12
# the package as installed, before the checkout's
START = (
    "import sys; sys.path.append(sys.argv.pop(1));"
    "from benchmarks.torture.__main__ import main; sys.exit(main())"
)


def test_all_zeros() -> None:
    if not any(True for _ in postgresql.program_folders()):
        missing("no PostgreSQL to kill")
    options = ["--pool", "reaper", "--seconds", str(SECONDS)]
    if seed := os.environ.get("REAPERPOOL_TEST_SEED"):
        options += ["--seed", seed]
    done = subprocess.run(
        [sys.executable, "-c", START, str(ROOT), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout
    assert counted(done.stdout, "transfers committed") > 0
    for what in (
        "committed and lost",
        "committed twice",
        "committed unasked",
        "accounts torn",
        "connections over the limit",
        "slots missing",
        "double holders",
        "threads and children hung",
    ):
        assert counted(done.stdout, what) == 0, done.stdout
    # each fault once, at least, however slow the machine is
    for fault in "kill terminate cut hold die fork fork-idle".split():
        assert re.search(rf" {fault} [1-9]", done.stdout), done.stdout


def counted(output: str, what: str) -> int:
    found = re.search(rf"^ *{what} +(\d+)$", output, re.MULTILINE)
    assert found, output
    return int(found[1])
