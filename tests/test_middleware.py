"""ReleaseConnections around a WSGI application, which a test serves."""

from __future__ import annotations

import inspect
import io
import logging
from wsgiref.util import FileWrapper
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from sqlalchemy import event
from stub import Driver

from sa_reaperpool import ReaperPool
from sa_reaperpool import ReleaseConnections


@pytest.fixture
def pool():
    return ReaperPool(Driver().connect, 2, 0, timeout=0)


def request(**more):
    environ = {**more}
    setup_testing_defaults(environ)
    return environ


def start_response(status, headers, exc_info=None):
    return lambda data: None


def open_response(app, **environ):
    """What a server has from an application before it sends anything."""
    return ReleaseConnections(app)(request(**environ), start_response)


class Body:
    """A response that notes whether its connection is still reserved."""

    def __init__(self, pool, parts=(b"one", b"two")):
        self.pool = pool
        self.parts = iter(parts)
        self.seen = []

    def __iter__(self):
        return self

    def __next__(self):
        self.seen.append(self.pool.active_connection())
        part = next(self.parts)
        if isinstance(part, BaseException):
            raise part
        return part

    def close(self):
        self.seen.append(self.pool.active_connection())


def reserving(pool, body):
    def app(environ, start_response):
        pool.connection().cursor().execute("INSERT")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body

    return app


def test_released_once_the_response_is_closed(pool):
    body = Body(pool)
    response = open_response(reserving(pool, body))
    assert b"".join(response) == b"onetwo"
    assert pool.active_connection()
    response.close()
    # its own close() still had it
    assert body.seen == [True, True, True, True]
    assert not pool.active_connection()
    assert pool.stats().in_use == 0
    assert pool.stats().idle == 1


def test_every_pool_is_released(pool):
    other = ReaperPool(Driver().connect, 1, 0)

    def app(environ, start_response):
        pool.connection(), other.connection()
        return []

    open_response(app).close()
    assert pool.stats().in_use == other.stats().in_use == 0


def test_released_when_the_application_raises(pool):
    problem = KeyError("what it raised")

    def app(environ, start_response):
        pool.connection()
        raise problem

    with pytest.raises(KeyError) as caught:
        open_response(app)
    assert caught.value is problem
    assert pool.stats().in_use == 0


def test_released_when_the_response_raises_midway(pool):
    problem = OSError("in the midst")
    response = open_response(reserving(pool, Body(pool, [b"one", problem])))
    with pytest.raises(OSError) as caught:
        list(response)
    assert caught.value is problem
    response.close()
    assert pool.stats().in_use == 0


def test_released_when_the_client_goes_away(pool):
    response = open_response(reserving(pool, Body(pool)))
    next(iter(response))
    response.close()
    assert pool.stats().in_use == 0


def test_released_when_closing_raises(pool):
    class Stubborn(Body):
        def close(self):
            raise OSError("will not close")

    response = open_response(reserving(pool, Stubborn(pool)))
    with pytest.raises(OSError, match="will not close"):
        response.close()
    assert pool.stats().in_use == 0


def test_generator_function(pool):
    ended = []

    def app(environ, start_response):
        start_response("200 OK", [])
        try:
            pool.connection()
            yield b"one"
            yield b"two"
        finally:
            ended.append(pool.active_connection())

    response = open_response(app)
    assert next(response) == b"one"
    response.close()
    assert ended == [True]
    assert pool.stats().in_use == 0


def test_second_close_releases_nothing(pool):
    """By then this thread may serve another request."""
    body = Body(pool)
    response = open_response(reserving(pool, body))
    response.close()
    pool.connection()
    response.close()
    assert pool.active_connection()
    assert len(body.seen) == 2


def test_length_is_kept_where_there_is_one(pool):
    response = open_response(reserving(pool, [b"one"]))
    assert len(response) == 1
    assert list(response) == [b"one"]
    with pytest.raises(TypeError):
        len(open_response(reserving(pool, Body(pool))))


def test_conforms_to_the_protocol(pool):
    app = validator(reserving(pool, [b"one", b"two"]))
    response = validator(ReleaseConnections(app))(
        request(QUERY_STRING=""), start_response
    )
    assert b"".join(response) == b"onetwo"
    response.close()
    assert pool.stats().in_use == 0


def test_what_was_written_past_the_response_arrives(pool):
    written = []

    def app(environ, start_response):
        pool.connection()
        start_response("200 OK", [])(b"by hand")
        return []

    ReleaseConnections(app)(
        request(), lambda status, headers: written.append
    ).close()
    assert written == [b"by hand"]
    assert pool.stats().in_use == 0


def test_servers_know_their_files(pool, tmp_path):
    """gunicorn and others send these with sendfile(), known by the class."""
    (tmp_path / "file").write_bytes(b"content")
    with open(tmp_path / "file", "rb") as file:
        body = FileWrapper(file)
        app = reserving(pool, body)
        environ = {"wsgi.file_wrapper": FileWrapper}
        assert open_response(app, **environ) is body
        # no one's connection is needed for that
        assert pool.stats().in_use == 0
        assert list(body) == [b"content"]


def test_what_is_read_like_a_file_may_need_the_connection(pool):
    class LargeObject:
        def read(self, size):
            assert pool.active_connection()
            return content.read(size)

    content = io.BytesIO(b"from the database")
    app = reserving(pool, FileWrapper(LargeObject()))
    response = open_response(app, **{"wsgi.file_wrapper": FileWrapper})
    assert list(response) == [b"from the database"]
    response.close()
    assert pool.stats().in_use == 0


def test_file_wrapper_that_is_no_class(pool):
    """uWSGI's is a function."""
    app = reserving(pool, Body(pool))
    environ = {"wsgi.file_wrapper": lambda file, size: file}
    open_response(app, **environ).close()
    assert pool.stats().in_use == 0


def test_error_while_releasing_is_logged(pool, caplog):
    other = ReaperPool(Driver().connect, 1, 0)

    @event.listens_for(pool, "checkin")
    def complain(connection, record):
        raise OSError("at the checkin")

    def app(environ, start_response):
        pool.connection(), other.connection()
        return [b"fine"]

    with caplog.at_level(logging.ERROR):
        response = open_response(app)
        assert list(response) == [b"fine"]
        response.close()
    assert "at the checkin" in caplog.text
    assert pool.stats().in_use == other.stats().in_use == 0


def test_error_while_releasing_does_not_hide_the_applications(pool):
    event.listen(pool, "checkin", lambda *args: 1 / 0)

    def app(environ, start_response):
        pool.connection()
        raise KeyError("the application's")

    with pytest.raises(KeyError, match="the application's"):
        open_response(app)


def test_servers_see_which_of_the_two_it_is():
    """uvicorn, hypercorn and others look at __call__."""

    def wsgi(environ, start_response): ...
    async def asgi(scope, receive, send): ...

    class Instance:
        async def __call__(self, scope, receive, send): ...

    class Awaited:
        def __await__(self): ...

    def seen(app):
        return inspect.iscoroutinefunction(ReleaseConnections(app).__call__)

    assert not seen(wsgi)
    assert not seen(type("WSGI", (), {"__call__": wsgi})())
    assert seen(asgi) and seen(Instance()) and seen(Instance().__call__)
    assert seen(Awaited)
    assert seen(ReleaseConnections(asgi))
    assert not seen(ReleaseConnections(wsgi))
