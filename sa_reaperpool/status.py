"""A page with the state of pools, to mount in one's own application.

It is made of the same snapshots as the report, reads only, and has no
script: it asks anew by itself, as its head says.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import html
import json
import os
from time import monotonic
from time import time
from typing import Any
from typing import Awaitable
from typing import Callable
from typing import Iterable
from typing import Iterator
from typing import NamedTuple
from typing import Sequence
from urllib.parse import parse_qs

from . import tables
from .exporters.sources import Source
from .exporters.sources import Sources
from .report import heading
from .snapshot import Snapshot
from .snapshot import take
from .tables import Column
from .tables import Table

_SECONDS = 5
"""Between two refreshes."""

_STYLE = """
:root { color-scheme: light dark }
body { font: 14px/1.4 system-ui, sans-serif; margin: 1rem auto;
  max-width: 80rem; padding: 0 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.1rem } h2 { font-size: 1rem; margin: 1.5rem 0 .3rem }
p { margin: .2rem 0 } .small { opacity: .75 } .error { color: #c62828 }
table { border-collapse: collapse; width: 100%; margin: .6rem 0 }
th, td { text-align: left; padding: .2rem .6rem; vertical-align: top;
  border-bottom: 1px solid #8884 }
th { font-weight: 600; opacity: .75 }
td.number, th.number { text-align: right; white-space: nowrap }
td.line { font-family: ui-monospace, monospace; font-size: .9em }
td.state { white-space: nowrap }
td.state::before { content: "\\25CF"; margin-right: .4em; color: #888 }
.in-use td.state::before { color: #ef6c00 }
.reserved td.state::before { color: #8e24aa }
.kept td.state::before { color: #1e88e5 }
.idle td.state::before { color: #2e7d32 }
@media (max-width: 40rem) {
  thead { display: none }
  tr { display: block; border-bottom: 1px solid #8888; padding: .3rem 0 }
  td, td.number { display: block; border: 0; padding: .05rem 0;
    text-align: left; white-space: normal }
  td.state, td.number { display: inline-block; margin-right: .8rem }
  td:empty { display: none }
  td[data-title]:not(.state)::before { content: attr(data-title) " ";
    opacity: .75 }
}
"""

_STYLE_HASH = base64.b64encode(
    hashlib.sha256(_STYLE.encode()).digest()
).decode()

_HEADERS = [
    ("Cache-Control", "no-store"),
    (
        "Content-Security-Policy",
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
]

Call = Callable[..., Any]


class _Response(NamedTuple):
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


class status_app:
    """A WSGI and ASGI application that shows pools, for people and programs.

    With Flask, and with Starlette or FastAPI::

        app.wsgi_app = DispatcherMiddleware(
            app.wsgi_app, {"/pools": status_app(engine)}
        )
        app.mount("/pools", status_app(engine))

    Whether it serves WSGI or ASGI shows in how it is called.  It gives HTML
    that refreshes itself, and JSON under ``?format=json``.  Whoever sees
    it sees names of threads, labels and lines of the program, so that it
    belongs behind whatever guards other such pages; there is no SQL and no
    password in it.

    :param sources: engines and pools, which are referred to weakly; without
     any, all pools of the process.

    :raises sqlalchemy.exc.ArgumentError: one is neither a ReaperPool nor an
     engine with one.

    """

    def __init__(self, *sources: Source):
        self._sources = Sources(sources, False)

    def __call__(self, *args: Any) -> Any:
        if len(args) == 2:
            return self._respond(*args)
        if len(args) == 1:
            # ASGI as it was, by which servers call what is no coroutine
            return functools.partial(self._serve, *args)
        return self._serve(*args)

    def _respond(
        self, environ: dict[str, Any], start_response: Call
    ) -> Iterable[bytes]:
        method = environ.get("REQUEST_METHOD", "GET")
        response = self._answer(method, environ.get("QUERY_STRING", ""))
        start_response(
            f"{response.status} {response.reason}", response.headers
        )
        return [] if method == "HEAD" else [response.body]

    async def _serve(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            # a web socket: refused
            await send({"type": "websocket.close", "code": 1000})
            return
        query = scope.get("query_string", b"").decode("latin-1")
        response = self._answer(scope["method"], query)
        headers = [
            (name.lower().encode(), value.encode())
            for name, value in response.headers
        ]
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": headers,
            }
        )
        body = b"" if scope["method"] == "HEAD" else response.body
        await send({"type": "http.response.body", "body": body})

    def _answer(self, method: str, query: str) -> _Response:
        if method not in ("GET", "HEAD"):
            return _response(
                "text/plain",
                "This page is only to be read.\n",
                (405, "Method Not Allowed"),
                ("Allow", "GET, HEAD"),
            )
        snapshots = list(self._snapshots())
        if parse_qs(query).get("format") == ["json"]:
            return _response("application/json", to_json(snapshots))
        return _response("text/html", to_html(snapshots))

    def _snapshots(self) -> Iterator[Snapshot]:
        for pool, name in self._sources.pools():
            snapshot = take(pool, monotonic())
            if not (snapshot.over and self._sources.all):
                yield dataclasses.replace(snapshot, name=name)


def _response(
    kind: str,
    text: str,
    status: tuple[int, str] = (200, "OK"),
    *headers: tuple[str, str],
) -> _Response:
    body = text.encode("utf-8", "backslashreplace")
    return _Response(
        *status,
        [
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            *_HEADERS,
            *headers,
        ],
        body,
    )


async def _live(
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """The beginning and the end of a server that serves nothing else."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


# JSON


def to_json(snapshots: Iterable[Snapshot]) -> str:
    """For programs: the fields of :class:`.Snapshot`."""
    return json.dumps(
        {
            "process": os.getpid(),
            "at": time(),
            "pools": [dataclasses.asdict(each) for each in snapshots],
        }
    )


# HTML


def to_html(snapshots: Sequence[Snapshot]) -> str:
    """For people."""
    pools = "".join(_pool(each) for each in snapshots)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="refresh" content="{_SECONDS}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Connection pools</title><style>{_STYLE}</style></head>"
        f"<body><h1>{_text(heading(len(snapshots)))}</h1>{pools}"
        "</body></html>\n"
    )


def _pool(snapshot: Snapshot) -> str:
    lines = [
        f"<section><h2>{_text(tables.counts(snapshot))}</h2>",
        _paragraph("small", tables.counters(snapshot)),
        _paragraph("error", tables.connect_error(snapshot)),
    ]
    for table in tables.tables(snapshot):
        lines.append(_paragraph("", table.title))
        lines.append(_table(table))
        lines.append(_paragraph("small", table.more))
    return "".join(lines) + "</section>"


def _paragraph(kind: str, words: str | None) -> str:
    return f'<p class="{kind}">{_text(words)}</p>' if words else ""


def _table(table: Table) -> str:
    columns = table.columns
    if not columns:
        return ""
    head = "".join(
        f'<th class="{_kind(each)}">{_text(each.title)}</th>'
        for each in columns
    )
    rows = [
        f'<tr class="{_state(columns[0], cells[0])}">'
        + "".join(map(_cell, columns, cells))
        + "</tr>"
        for cells in zip(*(each.cells for each in columns))
    ]
    return (
        f"<table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(column: Column, cell: str) -> str:
    return (
        f'<td class="{_kind(column)}" data-title="{_text(column.title)}">'
        f"{_text(cell)}</td>"
    )


def _state(column: Column, cell: str) -> str:
    return cell.replace(" ", "-") if column.title == "state" else "other"


def _kind(column: Column) -> str:
    if column.number:
        return "number"
    return column.title if column.title in ("state", "line") else "text"


def _text(words: str) -> str:
    return html.escape(words, quote=True)
