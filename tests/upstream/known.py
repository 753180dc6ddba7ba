"""Where the ORM's tests rightly come out otherwise than with QueuePool.

Each table is for a value of the option ``reservation``; it has the node ids
of tests, ``*`` standing for any text, and why their outcome is right.
"""

from __future__ import annotations

EXPLICIT: dict[str, str] = {}

THREAD: dict[str, str] = {}

KNOWN = {"explicit": EXPLICIT, "thread": THREAD}
