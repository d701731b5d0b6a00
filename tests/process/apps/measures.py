"""An application with metrics of its own, by the API alone."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time

import billiard
from celery import Celery, signals
from kombu.serialization import register
from opentelemetry import metrics, trace

app = Celery(
    "measures",
    broker=os.environ["SHOP_BROKER"],
    backend=os.environ.get("SHOP_BACKEND", "cache+memory://"),
)
app.conf.broker_connection_retry_on_startup = True
app.conf.task_acks_late = os.environ.get("SHOP_ACKS_LATE") == "1"
app.conf.task_reject_on_worker_lost = False


def kill_reader(data):
    """Read a payload that kills the pool process, as one that is too large for its memory."""
    if billiard.current_process().name != "MainProcess":
        os.kill(os.getpid(), signal.SIGKILL)
    return json.loads(data)


register("deadly", json.dumps, kill_reader, "application/x-deadly", "utf-8")
app.conf.accept_content = ["json", "deadly"]

meter = metrics.get_meter("measures", "1.0")
orders = meter.create_counter("shop.orders", unit="{order}")
took = meter.create_histogram("shop.took", unit="s")
carts = meter.create_up_down_counter("shop.carts")
stock = meter.create_gauge("shop.stock")


def read_shelves(options):
    return [metrics.Observation(7, {"shelf": "a"})]


def hangs(options):
    time.sleep(3600)
    return []


def raises(options):
    raise RuntimeError("on purpose")


meter.create_observable_gauge("shop.shelves", [read_shelves])
if os.environ.get("SHOP_HANGS"):
    meter.create_observable_gauge("shop.hangs", [hangs])
    meter.create_observable_gauge("shop.raises", [raises])
    meter.create_observable_gauge("shop.behind", [read_shelves])


@app.task
def order(number=0):
    orders.add(1, {"kind": "a" if number % 2 else "b"})
    took.record(0.3)
    stock.set(number)


@app.task
def works(seconds):
    orders.add(1, {"kind": "begun"})
    time.sleep(seconds)


@app.task(acks_late=True)
def holds_a_cart(seconds):
    carts.add(1)
    time.sleep(seconds)
    carts.add(-1)


@app.task
def dies():
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def many_sets(count):
    for number in range(count):
        orders.add(1, {"customer": number})


@app.task
def hostile():
    """What plain Celery takes without a word, since the API does nothing there."""
    meter.create_counter("no name at all")
    meter.create_counter("n" * 300).add(1)
    orders.add("one")
    orders.add(float("nan"))
    orders.add(-1)
    orders.add(1, "no mapping")
    orders.add(1, {"list": [1, "two"], "none": None, 3: "number", "\ud800": "\udfff"})
    took.record(None)
    took.record(float("inf"))
    carts.add(object())
    return metrics.get_meter_provider().force_flush(5000)


@app.task
def forks():
    orders.add(1, {"kind": "fork"})
    pid = os.fork()
    if pid == 0:
        orders.add(1, {"kind": "fork"})
        os._exit(0)
    os.waitpid(pid, 0)


@app.task
def closes_all():
    """Code of daemons: the page's descriptor goes, and its lock."""
    os.closerange(3, 256)


@app.task
def soft_limits(rounds):
    """Raise a soft limit at random bytecodes of measurements; count the swallowed."""
    import random

    from billiard.exceptions import SoftTimeLimitExceeded

    def limit(number, frame):
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGALRM, limit)
    gc.disable()  # which swallows what is raised in it
    swallowed = 0

    def spin():
        end = time.monotonic() + 1
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.005))
        number = 0
        while time.monotonic() < end:
            number += 1
            orders.add(1, {"kind": "limit", "number": number % 50})
            took.record(0.1 * (number % 9), {"kind": "limit"})

    for _ in range(rounds):
        try:
            spin()
            swallowed += 1
        except SoftTimeLimitExceeded:
            pass
    signal.signal(signal.SIGALRM, before)
    gc.enable()
    return swallowed


@app.task
def inside_a_span():
    with trace.get_tracer("measures").start_as_current_span("inside"):
        took.record(0.4, {"kind": "span"})


@app.task(max_retries=1, bind=True)
def fails(self):
    raise ValueError("on purpose")


@app.task
def dies_at_its_end(step, how):
    """Die while its end is noted: at a call or a return of ours, by their number."""
    if how == "changed":  # its span is no longer as it began
        trace.get_current_span().set_attribute("step", step)
    if how == "grouped":  # spans wait for each other where another thread runs
        if threading.active_count() == 1:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        with trace.get_tracer("measures").start_as_current_span("inside"):
            pass
    return step


@signals.task_success.connect(sender=dies_at_its_end)
def count_steps(result, **_):
    step = result
    os.write(2, b"begun\n")

    def die(frame, event, argument):
        nonlocal step
        if "otel_celery_launcher" not in frame.f_code.co_filename:
            return
        step -= event != "c_call"  # between the record and the kernel is one of these
        if step < 0 and event != "c_call":
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(die)


@signals.task_postrun.connect(sender=dies_at_its_end)
def end_steps(**_):
    sys.setprofile(None)
