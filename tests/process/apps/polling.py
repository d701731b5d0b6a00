"""An application in which much polls: a schedule in a database, results, a cache."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time

import redis
from celery import Celery, chord
from celery.beat import PersistentScheduler
from opentelemetry import trace
from sqlalchemy import create_engine, text

app = Celery(
    "polling", broker=os.environ["SHOP_BROKER"], backend=os.environ["SHOP_BACKEND"]
)
app.conf.broker_connection_retry_on_startup = True
app.conf.beat_schedule = {"tick": {"task": "polling.ask", "schedule": 0.5}}
app.conf.beat_max_loop_interval = 0.1
engine = create_engine("sqlite://")
tracer = trace.get_tracer("polling")


class DatabaseScheduler(PersistentScheduler):
    """Looks into its database at each tick, as those of Django and SQLAlchemy do."""

    def tick(self, *arguments, **named):
        query()
        return super().tick(*arguments, **named)


def query():
    with engine.connect() as connection:
        connection.execute(text("select 1"))


def client():
    return redis.Redis.from_url(os.environ["SHOP_BROKER"])


@app.task(name="polling.ask")
def ask():
    client().get("of-the-task")


@app.task(name="polling.total")
def total(numbers):
    return sum(numbers)


@app.task(name="polling.one")
def one():
    return 1


def poll_result(seconds=2.0):
    """Ask for a result that is not there."""
    result, end = app.AsyncResult("nobody"), time.monotonic() + seconds
    while time.monotonic() < end:
        result.ready()


def poll_everything(seconds=2.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        query()
        client().get("key")
        sqlite3.connect(":memory:").cursor().execute("select 2")
        time.sleep(0.05)


def poll_in_a_thread():
    thread = threading.Thread(target=poll_everything)
    thread.start()
    thread.join()


def publish_a_chord():
    chord([one.s(), one.s(), one.s()])(total.s()).get(timeout=20)


def spans_of_its_own(count=5000):
    for _ in range(count):
        tracer.start_span("look").end()


def call_another(url):
    import requests

    requests.get(url, timeout=5)


def statements():
    with tracer.start_as_current_span("work"):
        query()
        sqlite3.connect(":memory:").cursor().execute("select 2")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
