"""The same as tasks of Celery's, with folders for a broker."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from celery import Celery
from celery.signals import worker_ready
from celery.signals import worker_shutdown
from forked_app import answer
from forked_app import backends
from forked_app import busy
from waiting import eventually

folder = os.environ["FORKED_FOLDER"]
app = Celery(
    "forked_tasks",
    broker="filesystem://",
    backend=f"file://{folder}/results",
)
app.conf.update(
    broker_transport_options={
        "data_folder_in": f"{folder}/queue",
        "data_folder_out": f"{folder}/queue",
        "control_folder": f"{folder}/control",
        "polling_interval": 0.05,
    },
    broker_connection_retry_on_startup=True,
)


@app.task(name="answer")
def answer_task(number):
    if number <= 2:
        # or one process might do all there is
        Path(folder, "met", str(os.getpid())).touch()
        eventually(lambda: len(os.listdir(f"{folder}/met")) == 2)
    return answer(number)


@worker_ready.connect
def ready(**_):
    print(f"the parent's: {json.dumps(backends())}", file=sys.stderr)


@worker_shutdown.connect
def finish(**_):
    busy.finish()
    print("finished", file=sys.stderr)
