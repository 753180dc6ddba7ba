"""The example of a pool without a database does what it says."""

from __future__ import annotations

import re

from worked_examples import FOLDER
from worked_examples import run

NAME = "generic_client_pool"


def test_what_it_prints():
    ended = run(NAME)
    assert ended.stderr == ""
    assert ended.returncode == 0
    printed = ended.stdout
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
    assert f"{FOLDER / NAME}.py:" in printed
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
