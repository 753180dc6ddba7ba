"""The example of a pool without a database does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import sa_reaperpool

EXAMPLE = Path(__file__).parents[1] / "examples" / "generic_client_pool.py"


def test_what_it_prints():
    # the package that is tested, wherever it is
    folder = Path(sa_reaperpool.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, EXAMPLE],
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stderr == ""
    assert run.returncode == 0
    printed = run.stdout
    told = [line for line in printed.splitlines() if line[:2] != "  "]
    assert told[0].startswith("1. Too early: ReaperPool 'counters' has noth")
    assert told[1] == "2. Told how to connect; open so far: 0"
    assert re.fullmatch(
        "3. 12 threads counted to 240 with [123] clients", told[2]
    )
    assert (
        told[3] == "4. As one global object: 3 visits; in a block, one client"
    )
    assert told[4] == "5. A thread died with a client in its hands"
    assert re.search("the log: .* took back .* Held by 'careless'", printed)
    assert f"{EXAMPLE}:" in printed
    assert "who kept it gets an error" in printed
    assert told[5] == (
        "6. All grew too old and were closed; the next is a new one"
    )
    closed = re.fullmatch(
        r"7. Closed: (\d) of the (\d) clients said goodbye to the server",
        told[6],
    )
    assert closed[1] == closed[2]
    assert len(told) == 7
