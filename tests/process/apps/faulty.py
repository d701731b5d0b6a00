"""The application under faults: an execution tells Redis when its span has ended."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import redis
from celery import signals
from opentelemetry import trace
from shop import app

tracer = trace.get_tracer("faulty")
client = redis.Redis.from_url(os.environ["SHOP_BROKER"])
executions = {}

app.conf.task_reject_on_worker_lost = True

# The buffer of a stock Linux kernel (net.core.wmem_default; the kernel doubles what it
# is given), whatever this machine allows.
STOCK_BYTES = 212_992
for number in map(int, os.listdir("/proc/self/fd")):
    with suppress(OSError), socket.socket(fileno=os.dup(number)) as copy:
        if copy.family == socket.AF_UNIX and copy.type == socket.SOCK_SEQPACKET:
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STOCK_BYTES // 2)


@app.task(bind=True, name="faulty.work")
def work(self, inner):
    run = trace.get_current_span()
    span_id = run.get_span_context().span_id
    executions[self.request.id] = execution = f"{span_id:016x}"
    if span_id % 2:  # the others end as they began
        run.set_attribute("odd", True)
    with suppress(redis.ConnectionError):  # then nobody expects it
        client.rpush("started", execution)
    for _ in range(inner):
        with tracer.start_as_current_span("inner"):
            pass


@app.task(name="faulty.exhaust")
def exhaust():
    """Leave this child without a free descriptor until its next task but one."""
    global opened
    opened, before = [], opened
    for each in before:
        os.close(each)
    with suppress(OSError):
        while not before:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    for each in opened[-8:]:  # Celery's own: a result, a broken connection
        os.close(each)
    del opened[-8:]


opened = []


@signals.task_postrun.connect(weak=False)
def tell(task_id=None, **_):
    execution = executions.pop(task_id, None)
    if execution:
        with suppress(redis.ConnectionError):  # then nobody expects it
            client.rpush("ended", execution)
