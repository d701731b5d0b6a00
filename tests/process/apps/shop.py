"""A Celery application without a word about tracing."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from sqlite3 import connect  # early, as applications do

from celery import Celery, signals
from opentelemetry import baggage, trace

if os.environ.get("SHOP_NO_EXECUTABLE"):
    sys.executable = "/no/such/python"

if os.environ.get("SHOP_PATHS"):
    sys.path.append(pathlib.Path("/srv"))

tracer = trace.get_tracer("shop")  # at import, before any fork

app = Celery(
    "shop",
    broker=os.environ["SHOP_BROKER"],
    backend=os.environ.get("SHOP_BACKEND", "cache+memory://"),
)
app.conf.task_acks_late = os.environ.get("SHOP_ACKS_LATE") == "1"
app.conf.worker_hijack_root_logger = os.environ.get("SHOP_HIJACK") != "0"
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_proc_alive_timeout = 4.0
app.conf.worker_pool_restarts = os.environ.get("SHOP_POOL_RESTARTS") == "1"
if "SHOP_POOL" in os.environ:
    app.conf.worker_pool = os.environ["SHOP_POOL"]
if "SHOP_START_METHOD" in os.environ:
    app.conf.worker_pool_start_method = os.environ["SHOP_START_METHOD"]
app.conf.beat_schedule = {
    "tick": {"task": "shop.noop", "schedule": 0.5},
}
app.conf.beat_schedule_filename = os.environ.get("SHOP_SCHEDULE", "beat-schedule")


@app.task
def noop(number=0):
    return number


@app.task
def baggage_of(key):
    return baggage.get_baggage(key)


@app.task
def takes(payload=None, _otel=None):
    return baggage.get_baggage("tenant_id")


@app.task
def inner(count):
    for index in range(count):
        with tracer.start_as_current_span(f"step {index}"):
            pass


@app.task(bind=True, max_retries=3)
def flaky(self, until):
    if self.request.retries < until:
        # Not at once: Celery publishes a retry before it stores the state RETRY, which
        # would overwrite the SUCCESS of a second child that is quicker.
        raise self.retry(countdown=0.2, exc=ValueError("not yet"))
    return self.request.retries


@app.task
def fail():
    raise RuntimeError("on purpose")


@app.task
def publish_noop():
    noop.delay()


@app.task
def big(megabytes):
    return len(b"x" * (megabytes << 20))


@app.task
def named(name):
    """Make a span of that name."""
    with trace.get_tracer("shop").start_as_current_span(name):
        pass


@app.task
def nap(seconds):
    time.sleep(seconds)


@app.task
def child_process():
    return subprocess.run(["true"], check=True).returncode


@app.task
def forks():
    pid = os.fork()
    if pid == 0:
        with tracer.start_as_current_span("in a fork"):
            pass
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def in_a_process():
    with tracer.start_as_current_span("in a process"):
        pass


@app.task
def multiprocesses():
    import multiprocessing

    # Celery's children are daemons, which may not have children of their own.
    multiprocessing.current_process()._config["daemon"] = False
    process = multiprocessing.get_context("fork").Process(target=in_a_process)
    process.start()
    process.join(10)
    return process.exitcode


def doubled(number):
    return number * 2


@app.task
def spawns():
    """A process that the standard library spawns is the application's own."""
    import multiprocessing

    multiprocessing.current_process()._config["daemon"] = False
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply_async(doubled, (21,)).get(timeout=30)


@app.task
def soft_limits(rounds):
    """Raise a soft limit at random bytecodes of a span loop; count the swallowed."""
    import random

    from billiard.exceptions import SoftTimeLimitExceeded

    def limit(number, frame):
        # CPython discards what a weak reference's callback raises, under plain Celery,
        # too: there the limit comes a moment later.
        while frame is not None:
            if frame.f_code.co_filename.endswith("weakref.py"):
                signal.setitimer(signal.ITIMER_REAL, 0.0005)
                return
            frame = frame.f_back
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGUSR1, limit)
    alarm = signal.signal(signal.SIGALRM, limit)
    swallowed = 0

    def spin():
        """Make spans until the limit; a function, since 3.13 leaves a loop's own jump
        out of a try around it."""
        end = time.monotonic() + 1
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.005))
        while time.monotonic() < end:
            with tracer.start_as_current_span("loop"):
                pass

    for _ in range(rounds):
        try:
            spin()
            swallowed += 1
        except SoftTimeLimitExceeded:
            pass
    signal.signal(signal.SIGUSR1, before)
    signal.signal(signal.SIGALRM, alarm)
    return swallowed


@signals.worker_ready.connect
def greet(**_):
    if os.environ.get("SHOP_GREETS"):
        noop.delay()


@app.task
def query():
    with connect(":memory:") as connection:
        return connection.cursor().execute("select 42").fetchone()[0]


@app.task
def seeded():
    import random

    random.seed(42)
    with tracer.start_as_current_span("seeded"):
        pass


@app.task
def beside_a_busy_thread(count):
    """Make spans while another thread keeps the interpreter; return the seconds."""
    import threading

    done = threading.Event()

    def spin():
        while not done.is_set():
            sum(range(1000))

    thread = threading.Thread(target=spin)
    thread.start()
    start = time.monotonic()
    inner(count)
    took = time.monotonic() - start
    done.set()
    thread.join()
    return took


@app.task
def unencodable():
    for value in ("lone \ud800 surrogate", 2**80, "fine"):
        with tracer.start_as_current_span("step") as span:
            span.set_attribute("value", value)


@app.task
def flushes():
    """An application that flushes, and shuts down, in the middle of a task."""
    with tracer.start_as_current_span("flushed"):
        pass
    provider = trace.get_tracer_provider()
    flushed = provider.force_flush(5000)
    at = time.time()
    provider.shutdown()
    return flushed, at


@app.task
def exhausts():
    """Run out of descriptors, and go on making spans."""
    opened = []
    try:
        while True:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for _ in range(50):
            with tracer.start_as_current_span("without descriptors"):
                pass
    for descriptor in opened:
        os.close(descriptor)
    return len(opened)
