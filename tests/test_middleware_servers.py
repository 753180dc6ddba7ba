"""ReleaseConnections with real frameworks, servers and requests."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine
from sqlalchemy import text
from stub import PATIENCE
from stub import until
from web import asgi_server
from web import get
from web import get_many
from web import hang_up
from web import required
from web import wsgi_server

from sa_reaperpool import ReaperPool
from sa_reaperpool import ReleaseConnections
from sa_reaperpool import with_connection

CLIENTS = 8
EACH = 15


@pytest.fixture
def engine(tmp_path, request):
    engine = create_engine(
        f"sqlite:///{tmp_path}/file.db",
        poolclass=ReaperPool,
        pool_size=getattr(request, "param", 3),
        max_overflow=0,
        pool_timeout=PATIENCE,
    )
    yield engine
    engine.dispose()


def one(pool):
    """Use the reserved connection, and do not give it back."""
    cursor = pool.connection().cursor()
    cursor.execute("SELECT 1")
    (row,) = cursor.fetchall()
    cursor.close()
    return str(row[0])


def nothing_is_held(pool):
    until(lambda: pool.checkedout() == 0)
    assert pool.stats().in_use == 0
    assert pool.stats().closed == {}
    assert pool.stats().opened <= pool.size()


# Flask


@pytest.fixture
def flask_app(engine):
    (flask, _) = required("flask", "werkzeug")
    app = flask.Flask("tests")

    @app.get("/one")
    def view():
        return one(engine.pool)

    @app.get("/engine")
    def view_of_engine():
        with with_connection(engine) as connection:
            one(engine.pool)
            return str(connection.execute(text("SELECT 1")).scalar_one())

    @app.get("/fails")
    def fails():
        one(engine.pool)
        raise KeyError("in the view")

    @app.get("/stream")
    def stream():
        def parts():
            for _ in range(10000):
                yield one(engine.pool) * 1000

        return flask.Response(parts())

    @app.get("/file")
    def file():
        one(engine.pool)
        return flask.send_file(__file__)

    @app.get("/late")
    def late():
        @flask.after_this_request
        def after(response):
            response.call_on_close(lambda: one(engine.pool))
            return response

        return "1"

    @app.teardown_request
    def at_teardown(error):
        one(engine.pool)

    return app


def test_flask(flask_app, engine):
    flask_app.wsgi_app = ReleaseConnections(flask_app.wsgi_app)
    paths = ["/one", "/engine", "/fails", "/late"]
    with wsgi_server(flask_app) as port:
        answers = get_many(port, paths, CLIENTS, EACH)
        nothing_is_held(engine.pool)
        with open(__file__, "rb") as file:
            assert get(port, "/file") == (200, file.read())
        hang_up(port, "/stream")
        nothing_is_held(engine.pool)
    good = [answers[path, 200, b"1"] for path in paths if path != "/fails"]
    failed = {status for path, status, _ in answers if path == "/fails"}
    assert sum(good) == CLIENTS * EACH * 3 // 4
    assert failed == {500}


def test_flask_without_it(flask_app, engine):
    """So that the test above is one."""
    with wsgi_server(flask_app) as port:
        get(port, "/one")
        # the thread of the request has ended, and its end is noticed
        until(lambda: engine.pool.stats().closed.get("reaped") == 1)


# FastAPI


@pytest.fixture
def fast_app(engine):
    required("fastapi", "uvicorn")
    from fast_app import make

    return make(engine)


def fast(*paths):
    """What FastAPI answers: the good ones, by path."""
    return {(path, 200, b"1") for path in paths}


@pytest.mark.parametrize("how", ["added", "around"])
def test_fastapi(fast_app, engine, how):
    app = fast_app
    if how == "added":
        app.add_middleware(ReleaseConnections)
    else:
        app = ReleaseConnections(app)
    paths = ["/sync", "/engine", "/kept", "/background", "/fails", "/refuses"]
    with asgi_server(app) as port:
        answers = get_many(port, paths, CLIENTS, EACH)
        nothing_is_held(engine.pool)
        hang_up(port, "/stream")
        nothing_is_held(engine.pool)
        # and the threads live on
        assert any(thread.is_alive() for thread in fast_app.state.threads)
    assert fast(*paths[:4]) | {
        ("/fails", 500, b"Internal Server Error"),
        ("/refuses", 404, b'{"detail":"Not Found"}'),
    } == set(answers)
    assert answers.total() == CLIENTS * EACH


@pytest.mark.parametrize("engine", [9], indirect=True)
def test_fastapi_in_the_loops_thread(fast_app, engine):
    """With connections enough: to wait for one would block the loop."""
    with asgi_server(ReleaseConnections(fast_app)) as port:
        paths = ["/sync", "/async", "/block"]
        assert set(get_many(port, paths, 3, EACH)) == fast(*paths)
        nothing_is_held(engine.pool)


def test_fastapi_without_it(fast_app, engine):
    """So that the tests above are some."""
    with asgi_server(fast_app) as port:
        get(port, "/sync")
        assert engine.pool.checkedout() == 1
