"""The status page: for people, for programs, and for reading only."""

from __future__ import annotations

import asyncio
import html
import json
import subprocess
import threading

import pytest
from pages import Answer
from pages import Page
from pages import of_wsgi
from sqlalchemy import create_engine
from sqlalchemy.exc import ArgumentError
from stub import PATIENCE
from stub import Driver
from stub import Task
from stub import until
from web import required

from sa_reaperpool import ReaperPool
from sa_reaperpool import label
from sa_reaperpool import status_app

HOSTILE = "<script>document.title='hit'</script>\"'&\x1b\u202e\n<b>"


def a_pool(name="shop", **options):
    options = {"reaping_frequency": None, "timeout": None, **options}
    return ReaperPool(Driver().connect, logging_name=name, **options)


def of_asgi(app, query="", method="GET", old=False):
    scope = {
        "type": "http",
        "method": method,
        "query_string": query.encode(),
        "path": "/",
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    async def run():
        if old:
            await app(scope)(receive, send)
        else:
            await app(scope, receive, send)

    asyncio.run(asyncio.wait_for(run(), PATIENCE))
    start, body = sent
    assert start["type"] == "http.response.start"
    headers = [
        (name.decode(), value.decode()) for name, value in start["headers"]
    ]
    return Answer(start["status"], headers, body["body"])


def of_old_asgi(app, query="", method="GET"):
    return of_asgi(app, query, method, old=True)


@pytest.fixture(params=[of_wsgi, of_asgi, of_old_asgi])
def ask(request):
    return request.param


def test_for_people(ask):
    pool = a_pool()
    with label("GET /orders"):
        handle = pool.connect()
    answer = ask(status_app(pool))
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert int(answer.headers["content-length"]) == len(answer.body)
    page = Page(answer.text)
    assert ("meta", {"http-equiv": "refresh", "content": "5"}) in page.elements
    assert "Pool 'shop': 1 of 15 in use, 0 idle; nobody waits" in page.words
    assert page.rows[0][0] == "state" and page.rows[1][0] == "in use"
    assert "MainThread" in page.rows[1] and "GET /orders" in page.rows[1]
    assert page.rows[1][-1].startswith(f"{__file__}:")
    handle.close()


def test_for_programs(ask):
    pool = a_pool(pool_size=1, max_overflow=0)
    with label(HOSTILE):
        handle = pool.connect()
    task = Task(pool.connect)
    until(lambda: pool.queue.waiting())
    answer = ask(status_app(pool), "format=json")
    assert answer.headers["content-type"].startswith("application/json")
    [found] = json.loads(answer.text)["pools"]
    assert found["name"] == "shop"
    assert found["stats"]["in_use"] == found["stats"]["waiting"] == 1
    assert found["stats"]["closed"] == {}
    [held] = found["connections"]
    assert held["state"] == "in use" and held["lease"]["label"] == HOSTILE
    assert held["lease"]["holders"] == [{"name": "MainThread", "alive": True}]
    assert found["waiting"][0]["thread"] == task.name
    handle.close()
    task.result().close()


def test_hostile_names_are_words(ask):
    pool = a_pool(HOSTILE, pool_size=1, max_overflow=0)

    def use():
        with label(HOSTILE):
            return pool.connect()

    handle = Task(use).result()
    task = Task(use)
    task.name = HOSTILE
    until(lambda: pool.queue.waiting())
    answer = ask(status_app(pool))
    page = Page(answer.text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "b", "img"}
    # as one_line() has them, and cut short
    shown = [cell for row in page.rows for cell in row if "<script>" in cell]
    assert len(shown) == 3
    assert "\x1b" not in answer.text and "\u202e" not in answer.text
    assert all(
        not name.startswith("on")
        for _, attributes in page.elements
        for name in attributes
    )
    handle.close()
    task.result().close()


def test_nothing_is_loaded_or_kept(ask):
    headers = ask(status_app(a_pool())).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_only_to_be_read(ask, method):
    answer = ask(status_app(a_pool()), "", method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


def test_head(ask):
    answer = ask(status_app(a_pool()), "", "HEAD")
    assert answer.status == 200 and answer.body == b""
    assert int(answer.headers["content-length"]) > 500


def test_changes_nothing(ask):
    pool = a_pool()
    handle = pool.connect()
    before = pool.stats(), pool.leases()[0].where
    for query in ("", "format=json", "format=xml", "reap=1&x=%00%ff"):
        assert ask(status_app(pool), query).status == 200
    assert (pool.stats(), pool.leases()[0].where) == before
    handle.close()


def test_an_engines_present_pool(tmp_path):
    engine = create_engine(
        f"sqlite:///{tmp_path}/file.db", poolclass=ReaperPool
    )
    app = status_app(engine)
    engine.connect().close()
    assert "1 opened" in of_wsgi(app).text
    engine.dispose()
    answer = of_wsgi(app).text
    assert "0 opened" in answer and f"{tmp_path}/file.db" in answer


def test_all_pools_of_the_process():
    pools = [a_pool("page-1"), a_pool("page-2")]
    text = of_wsgi(status_app()).text
    assert "page-1" in text and "page-2" in text
    pools[0].connect().close()
    pools[0].dispose()
    assert "page-1" not in of_wsgi(status_app()).text
    # unless it is asked for
    assert "page-1" in of_wsgi(status_app(pools[0])).text


def test_refuses_another_pool():
    with pytest.raises(ArgumentError):
        status_app(create_engine("sqlite://"))


def test_by_itself_on_an_asgi_server():
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message["type"])

    app = status_app(a_pool())
    asyncio.run(app({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    asyncio.run(app({"type": "websocket"}, receive, send))
    assert sent[2:] == ["websocket.close"]


def test_mounted_in_fastapi():
    [fastapi] = required("fastapi")
    app = fastapi.FastAPI()
    pool = a_pool("mounted")
    app.mount("/", status_app(pool))
    assert "mounted" in of_asgi(app).text


# in a browser

FRAME = """<iframe id=page width={width} height=900 style="border: 0"
srcdoc="{page}"></iframe><script>onload = () => document.title =
document.getElementById("page").contentDocument.documentElement.scrollWidth
+ " " + document.getElementById("page").contentDocument.title</script>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_fits_the_window(tmp_path, width, chromium):
    """Three pools, fifty connections, who waits, and names that make it
    hard."""
    pools = [
        a_pool(f"{HOSTILE}{n}", pool_size=size, max_overflow=0)
        for n, size in enumerate((20, 20, 10))
    ]

    def use(pool, number):
        threading.current_thread().name = f"{HOSTILE}{'y' * 60}{number}"
        with label("x" * 38 + f" {number}"):
            return pool.connect()

    handles = [
        Task(lambda pool=pool, number=number: use(pool, number)).result()
        for pool in pools
        for number in range(pool.size())
    ]
    tasks = [
        Task(lambda pool=pool, number=number: use(pool, number))
        for pool in pools
        for number in range(3)
    ]
    until(lambda: sum(pool.queue.waiting() for pool in pools) == 9)
    text = of_wsgi(status_app(*pools)).text
    # with two headings each
    assert text.count("<tr") == 50 + 9 + 6
    page = tmp_path / "page.html"
    page.write_text(FRAME.format(width=width, page=html.escape(text)))
    run = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}/profile",
            "--window-size=1400,900",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    title = run.stdout.partition("<title>")[2].partition("</title>")[0]
    needed, _, named = title.partition(" ")
    assert int(needed) <= width and named == "Connection pools"
    for handle in handles:
        handle.close()
    for task in tasks:
        task.result().close()
