"""What an SQL statement does to a transaction, as far as its text tells.

A join's provisional commit that is undone is worth a warning, unless who
undid it has written something as well, and so meant its rollback.  Hence a
statement counts as a write only if it is certain to be one: of ``SELECT
f()``, or of text that is not understood, nobody can tell, and a warning too
many is better than one too few.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

WRITES = frozenset(
    "INSERT UPDATE DELETE MERGE REPLACE TRUNCATE CREATE ALTER DROP RENAME "
    "CALL DO EXECUTE GRANT REVOKE COMMENT IMPORT LOAD REFRESH CLUSTER "
    "REINDEX NOTIFY".split()
)


class Statement(NamedTuple):
    """One statement of a text.

    ``kind`` is ``write``, ``other``, or what it does to the transaction:
    ``begin``, ``commit``, ``rollback``, ``savepoint``, ``rollback to`` or
    ``release``, the last three with the savepoint's name.
    """

    kind: str
    name: str = ""


WRITE = Statement("write")
OTHER = Statement("other")
COMMIT = Statement("commit")
READS: Sequence[Statement] = [OTHER]
"""What is found most often, always the same object."""

_FIRST_WORD = re.compile(r"\s*([A-Za-z]+)")
# words after which there is nothing more to look at
_PLAIN = frozenset("SELECT INSERT UPDATE DELETE".split())

# what may contain words that are none of the statement's
_HIDING = re.compile(
    r"--[^\n]*|/\*.*?\*/|(?<![\w$])[eE]'(?:[^'\\]|\\.|'')*'"
    r"|'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$"
    r'|"(?:[^"]|"")*"|`[^`]*`',
    re.DOTALL,
)
# the same in MySQL, where a backslash hides what is behind it
_HIDING_WITH_BACKSLASHES = re.compile(
    r"--(?=\s|\Z)[^\n]*|#[^\n]*|/\*.*?\*/|'(?:[^'\\]|\\.|'')*'"
    r'|"(?:[^"\\]|\\.|"")*"|`[^`]*`',
    re.DOTALL,
)
# statements inside of which there are statements, up to an END
_ROUTINE = re.compile(
    r"\s*CREATE(?:\s+(?:OR|REPLACE|TEMP|TEMPORARY|CONSTRAINT|AGGREGATE|"
    r"DEFINER\s*=\s*\S+))*\s+(?:TRIGGER|FUNCTION|PROCEDURE|EVENT)\b",
    re.IGNORECASE,
)
_BODY = re.compile(r'(?<![\w"`$.@])BEGIN(?![\w"`$.])', re.IGNORECASE)
_END_OF_BODY = re.compile(
    r"\s*END\b(?!\s+(?:IF|LOOP|WHILE|REPEAT|CASE|FOR)\b)", re.IGNORECASE
)
_CHANGES = re.compile(
    r'[()]\s*(?:INSERT|UPDATE|DELETE|MERGE)\s+[\w"`\[]', re.IGNORECASE
)
_COPIES_IN = re.compile(
    r'COPY\s+[\w."]+\s*(?:\([^)]*\))?\s*FROM\b', re.IGNORECASE
)
_EXPLAIN = re.compile(
    r"EXPLAIN\s*((?:\([^)]*\)|ANALY[SZ]E\b|VERBOSE\b|\s)*)", re.IGNORECASE
)
_ANALYZE = re.compile(
    r"ANALY[SZ]E\b(?!\s+(?:FALSE|OFF|0))", re.IGNORECASE
)
_WORK = "(?:\\s+(?:WORK|TRANSACTION))?"
_NAME = r'([\w$]+|"(?:[^"]|"")*"|`[^`]*`)'
_ENDS = [
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("begin", r"(?:BEGIN|START\s+TRANSACTION)\b"),
        ("savepoint", rf"SAVEPOINT\s+{_NAME}"),
        ("release", rf"RELEASE(?:\s+SAVEPOINT)?\s+{_NAME}"),
        (
            "rollback to",
            rf"(?:ROLLBACK|ABORT){_WORK}\s+TO(?:\s+SAVEPOINT)?\s+{_NAME}",
        ),
        # of another session's, prepared before
        ("other", r"(?:COMMIT|ROLLBACK)\s+PREPARED\b"),
        ("commit", r"(?:COMMIT|END|PREPARE\s+TRANSACTION)\b"),
        ("rollback", r"(?:ROLLBACK|ABORT)\b"),
    )
]


def statements(text: Any, backslashes: bool = False) -> Sequence[Statement]:
    """What a text does that is given to a cursor.

    :param text: str or bytes; whatever else it is, it tells nothing.

    :param backslashes: do they escape a quote, in any string?

    """
    if isinstance(text, (bytes, bytearray)):
        text = text.decode("utf-8", "replace")
    if not isinstance(text, str):
        return READS
    match = _FIRST_WORD.match(text)
    if match and ";" not in text:
        word = match[1].upper()
        if word in _PLAIN:
            return [WRITE] if word in WRITES else READS
    hiding = _HIDING_WITH_BACKSLASHES if backslashes else _HIDING
    text = hiding.sub(_hidden, text)
    return [_statement(part) for part in _parts(text)] or READS


def _parts(text: str) -> Iterator[str]:
    """The statements of a text, without those of a routine's body."""
    depth = 0
    for part in text.split(";"):
        if depth or _ROUTINE.match(part):
            if not depth:
                yield part
            depth += len(_BODY.findall(part))
            if depth and _END_OF_BODY.match(part):
                depth -= 1
        elif part.strip():
            yield part


def _hidden(match: re.Match[str]) -> str:
    found = match[0]
    if found[0] in '"`':
        # a name, maybe of a savepoint
        return re.sub(r"[;()\s]", "_", found)
    return " " if found[0] in "-/#" else "''"


def _statement(part: str) -> Statement:
    part = part.lstrip(" \t\r\n(")
    match = _EXPLAIN.match(part)
    if match:
        return (
            _statement(part[match.end() :])
            if _ANALYZE.search(match[1])
            else OTHER
        )
    for kind, pattern in _ENDS:
        match = pattern.match(part)
        if match:
            return Statement(kind, _folded(match[1]) if match.groups() else "")
    word = _FIRST_WORD.match(part)
    if word and word[1].upper() in WRITES:
        return WRITE
    return WRITE if _COPIES_IN.match(part) or _CHANGES.search(part) else OTHER


def _folded(name: str) -> str:
    return name.strip('"`').lower()
