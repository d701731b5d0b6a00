"""Tasks whose traces are looked at: every kind of publish and of ending."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time

from celery import Celery, chain, chord, group
from celery.exceptions import Ignore, Reject
from opentelemetry import baggage, context, trace
from shop import app, noop

tracer = trace.get_tracer("traces")
nowhere = Celery(broker="redis://127.0.0.1:9/0", set_as_current=False)
nowhere.conf.broker_transport_options = {
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0,
    "interval_max": 0,
}


def count_objects():
    trace.get_tracer_provider().force_flush(60_000)  # what waits for its export
    gc.collect()
    return len(gc.get_objects())


@app.task(name="traces.publish_badly")
def publish_badly(kind, times):
    """Publish what cannot be published; return errors, objects that stayed, context."""
    before = trace.get_current_span()

    def publish():
        try:
            if kind == "serialisation":
                noop.apply_async((object(),))
            else:
                nowhere.send_task("nobody.knows", retry=False)
        except Exception as exc:  # noqa: BLE001 - its name is the result
            return type(exc).__name__
        return "none"

    errors = {publish() for _ in range(10)}
    objects = count_objects()
    errors |= {publish() for _ in range(times - 10)}
    stayed = count_objects() - objects
    return sorted(errors), stayed, trace.get_current_span() is before


@app.task(name="traces.slow_publish")
def slow_publish():
    """Send a task nobody here knows."""
    app.send_task("nobody.knows", queue="elsewhere")


@app.task(name="traces.add")
def add(x=0, y=0):
    return x + y


@app.task(name="traces.total")
def total(numbers):
    return sum(numbers)


@app.task(name="traces.fail")
def fail():
    raise ValueError("on purpose")


@app.task(name="traces.note")
def note(task_id):
    return "noted"


@app.task(name="traces.replaced", bind=True)
def replaced(self):
    raise self.replace(add.s(1, 1))


@app.task(name="traces.canvas")
def canvas(kind):
    """Publish a canvas from inside a task."""
    made = {
        "chain": chain(add.s(1, 1), add.s(2), add.s(3)),
        "group": group(add.s(1, 1), add.s(2, 2)),
        "chord": chord([add.s(1, 1), add.s(2, 2)], total.s()),
        "nested": chain(add.s(1, 1), group(add.s(2), add.s(3)), total.s()),
        "errback": fail.s().on_error(note.s()),
        "replace": replaced.s(),
    }
    made[kind].apply_async()


@app.task(name="traces.eager")
def eager():
    with tracer.start_as_current_span("around"):
        add.apply((1, 1))


@app.task(name="traces.leaks")
def leaks():
    """Leave a span and baggage current for ever."""
    context.attach(trace.set_span_in_context(tracer.start_span("leaked")))
    context.attach(baggage.set_baggage("leak", "yes"))


@app.task(name="traces.context")
def current_context():
    """Return the span above and the baggage."""
    return f"{trace.get_current_span().get_span_context().trace_id:032x}", dict(
        baggage.get_all()
    )


@app.task(name="traces.hangs")
def hangs(seconds=60):
    """Make an inner span, tell the test, and stay."""
    with tracer.start_as_current_span("inner"):
        pass
    app.backend.client.rpush("hangs", os.getpid())
    time.sleep(seconds)


@app.task(name="traces.limited", time_limit=1)
def limited():
    hangs()


@app.task(name="traces.exits")
def exits():
    """A task that ends its process."""
    with tracer.start_as_current_span("inner"):
        pass
    sys.exit(3)


@app.task(name="traces.again", acks_late=True, reject_on_worker_lost=True, bind=True)
def again(self):
    """Killed at its first run, delivered again."""
    with tracer.start_as_current_span("inner"):
        pass
    if app.backend.client.incr("runs") == 1:
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="traces.asks_redis")
def asks_redis():
    app.backend.client.get("what a task asks")


@app.task(name="traces.rejects", acks_late=True)
def rejects():
    raise Reject("no", requeue=False)


@app.task(name="traces.ignores")
def ignores():
    raise Ignore


@app.task(name="traces.expects", throws=(KeyError,))
def expects():
    raise KeyError("expected")


@app.task(name="traces.secret", bind=True, max_retries=1)
def secret(self, canary, key=None):
    """Let a secret into everything a task can say."""
    error = ValueError(f"{canary}\n  {canary}\n  File {canary}")
    if self.request.retries == 0:
        raise self.retry(countdown=0, exc=error)
    try:
        with tracer.start_as_current_span("inner"):
            raise error
    except ValueError as exc:
        try:
            noop.apply_async(({canary: object()},))
        except Exception:  # noqa: BLE001 - its span is what counts
            raise RuntimeError(canary) from exc
    return canary
