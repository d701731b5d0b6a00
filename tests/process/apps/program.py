"""A Python program that is not Celery's: what it does is its first argument."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time

from opentelemetry import trace

tracer = trace.get_tracer("program")  # before anybody could have set up anything


def span(name):
    with tracer.start_as_current_span(name):
        pass


def in_child():
    span("child")


def fork_a_server():
    """As gunicorn: the first process has no spans, its children serve and are killed."""
    span("before")
    children = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            for _ in range(20):
                span("child")
            print("served", flush=True)
            time.sleep(60)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)


def supervises():
    """As honcho, supervisord, watchfiles, dagster-celery: its child does the work."""
    sys.exit(subprocess.call(sys.argv[2:]))


def manages():
    """As a management command that ends in Celery's own command line."""
    from celery.bin.celery import main

    sys.argv[1:2] = []
    main()


def works():
    """As Airflow: a program that configures its application, and runs its worker."""
    from shop import app

    app.conf.broker_url = os.environ["REAL_BROKER"]
    app.worker_main(["worker", "-l", "INFO", "-c", "1"])


def talks():
    span("work")
    sys.stdout.write(sys.stdin.read().upper())
    sys.exit(7)


def waits():
    span("work")
    print(os.getpid(), flush=True)
    time.sleep(60)


def multiprocess(how):
    span("before")
    process = multiprocessing.get_context(how).Process(target=in_child)
    process.start()
    process.join()
    span("after")


def executes():
    span("before")
    os.execv(sys.executable, [sys.executable, __file__, "last"])


def reloads():
    subprocess.run([sys.executable, __file__, "last"], check=True)


def others():
    code = (
        "import os, sys; print([n for n in sys.modules if 'opentelemetry' in n],"
        " os.environ.get('PYTHONPATH'), [n for n in os.environ if n[:5] == '_OTEL'])"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def outlived():
    if os.fork():
        os._exit(0)
    time.sleep(1)
    span("daemon")
    time.sleep(3)


def sets_up():
    from otel_celery_launcher import setup

    setup()
    setup(role="web")
    span("work")


WHAT = {
    "supervises": supervises,
    "manages": manages,
    "works": works,
    "talks": talks,
    "waits": waits,
    "fork": lambda: multiprocess("fork"),
    "spawn": lambda: multiprocess("spawn"),
    "executes": executes,
    "last": lambda: span("last"),
    "reloads": reloads,
    "others": others,
    "serves": fork_a_server,
    "outlived": outlived,
    "sets up": sets_up,
}

if __name__ == "__main__":
    WHAT[sys.argv[1]]()
