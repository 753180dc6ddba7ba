"""ReaperPool beside its peers: all figures in one table, and two pictures.

::

    pip install -e ".[bench]"
    python -m benchmarks --quick
    python -m benchmarks --table table.rst --pictures docs/pictures

Each room measures one thing, of all pools in the same run and in turns, so
that whatever else the machine does meets all of them; most figures are ratios
to QueuePool, which carry over to other machines as times do not.
"""

from __future__ import annotations

import sys
from types import ModuleType

from . import rows as rows  # for rooms to come

# A room is a module with ``run(settings) -> list[Row]``; what --list says of
# it is the first line of its docstring.
ROOMS: dict[str, ModuleType] = {}


if __name__ == "__main__":
    sys.exit("not yet")
