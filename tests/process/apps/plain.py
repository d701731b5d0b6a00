"""An application whose image has nothing of OpenTelemetry."""

from __future__ import annotations

import os
import signal
import sys

from celery import Celery

if os.environ.get("SHOP_NO_EXECUTABLE"):
    sys.executable = "/no/such/python"

app = Celery(
    "plain", broker=os.environ["SHOP_BROKER"], backend=os.environ["SHOP_BROKER"]
)
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_proc_alive_timeout = 20.0
app.conf.beat_schedule = {"tick": {"task": "plain.noop", "schedule": 0.5}}
app.conf.beat_schedule_filename = os.environ.get("SHOP_SCHEDULE", "beat-schedule")

# What the application's process must never import.
APART = ("grpc", "google.protobuf", "opentelemetry.exporter", "opentelemetry.proto")


def imported_apart():
    return sorted(
        name for name in sys.modules if name in APART or name.startswith(APART)
    )


IN_MAIN = imported_apart()


@app.task
def noop():
    return 0


@app.task
def modules():
    return [IN_MAIN, imported_apart(), sys.argv, sys.path[0], os.environ["PYTHONPATH"]]


@app.task
def releases():
    from importlib.metadata import version

    return [version("opentelemetry-api"), version("opentelemetry-sdk")]


@app.task
def dies():
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":  # python plain.py celery worker …, as manage.py has it
    app.start(sys.argv[2:])
