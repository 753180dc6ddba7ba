"""A FastAPI application that reserves and never releases by hand."""

# without `annotations` from __future__: FastAPI reads them

import threading

import fastapi
from fastapi import BackgroundTasks
from fastapi import Depends
from fastapi.responses import StreamingResponse
from sqlalchemy import text

from sa_reaperpool import with_connection


def make(engine):
    pool = engine.pool
    app = fastapi.FastAPI()
    threads = app.state.threads = set()

    def one():
        threads.add(threading.current_thread())
        cursor = pool.connection().cursor()
        cursor.execute("SELECT 1")
        (row,) = cursor.fetchall()
        cursor.close()
        return row[0]

    def dependency():
        one()

    def dependency_with_an_end():
        one()
        yield
        one()

    def dependency_that_keeps():
        with pool.with_connection() as connection:
            yield connection

    depends = [Depends(dependency), Depends(dependency_with_an_end)]

    @app.get("/sync", dependencies=depends)
    def sync():
        return one()

    @app.get("/engine")
    def of_engine():
        with with_connection(engine) as connection:
            one()
            return connection.execute(text("SELECT 1")).scalar_one()

    @app.get("/kept")
    def kept(connection=Depends(dependency_that_keeps)):
        return 1

    @app.get("/fails", dependencies=depends)
    def fails():
        one()
        raise KeyError("in the endpoint")

    @app.get("/refuses", dependencies=depends)
    def refuses():
        one()
        raise fastapi.HTTPException(404)

    @app.get("/stream")
    def stream():
        def parts():
            for _ in range(10000):
                yield str(one()) * 1000

        return StreamingResponse(parts())

    @app.get("/background")
    def background(tasks: BackgroundTasks):
        tasks.add_task(one)
        return one()

    @app.get("/async")
    async def in_the_loop():
        return one()

    @app.get("/block", dependencies=depends)
    async def block_in_the_loop():
        with pool.with_connection():
            return one()

    return app
