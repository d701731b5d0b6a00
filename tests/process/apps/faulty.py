"""The application under faults: an execution tells Redis when its span has ended."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress

import redis
from celery import signals
from opentelemetry import trace
from shop import app

tracer = trace.get_tracer("faulty")
client = redis.Redis.from_url(os.environ["SHOP_BROKER"])
executions = {}

app.conf.task_reject_on_worker_lost = True


@app.task(bind=True, name="faulty.work")
def work(self, inner):
    executions[self.request.id] = execution = uuid.uuid4().hex
    trace.get_current_span().set_attribute("execution", execution)
    for _ in range(inner):
        with tracer.start_as_current_span("inner"):
            pass


@signals.task_postrun.connect(weak=False)
def tell(task_id=None, **_):
    execution = executions.pop(task_id, None)
    if execution:
        with suppress(redis.ConnectionError):  # then nobody expects it
            client.rpush("ended", execution)
