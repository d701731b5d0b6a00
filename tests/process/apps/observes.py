"""An application that writes down what it sees: a line of JSON for each thing."""

from __future__ import annotations

import sys

MODULES = sorted(sys.modules)  # before anything of its own is imported

# ruff: noqa: E402, BLE001
import copy
import gc
import json
import logging
import os
import pickle

import celery.app.trace
from celery import Celery, bootsteps, signals


def write(what: str, value: object) -> None:
    with open(os.environ["OBSERVED"], "a") as file:
        file.write(json.dumps([what, value], default=repr) + "\n")


def loggers() -> dict[str, object]:
    """Return the logging tree: level, handlers, whether records go up, and are dropped."""
    known = {"root": logging.root, **logging.root.manager.loggerDict}
    return {
        name: [
            logger.level,
            [type(each).__name__ for each in logger.handlers],
            logger.propagate,
            logger.disabled,
        ]
        for name, logger in sorted(known.items())
        if isinstance(logger, logging.Logger)
    }


write("modules at import", MODULES)
write("garbage collection", [gc.isenabled(), gc.get_threshold(), gc.get_debug()])
write("logging hands records on", logging.Logger.callHandlers.__module__)
write("loggers at import", loggers())

# As sentry-sdk and celery-aio-pool do.
build_tracer = celery.app.trace.build_tracer


def build_own_tracer(name, task, *arguments, **named):
    if name.startswith("observes."):
        write("own build_tracer", name)
    return build_tracer(name, task, *arguments, **named)


celery.app.trace.build_tracer = build_own_tracer

app = Celery(
    "observes", broker=os.environ["SHOP_BROKER"], backend=os.environ["SHOP_BACKEND"]
)
app.conf.worker_hijack_root_logger = os.environ.get("SHOP_HIJACK") != "0"
app.conf.broker_connection_retry_on_startup = True
if app.conf.worker_hijack_root_logger is False:
    app.conf.worker_redirect_stdouts = False

own_log = logging.getLogger("observes.own")


class BrokenError(Exception):
    """Has no text."""

    exc = "not what billiard has there"

    def __str__(self):
        raise AttributeError("no detail")


@app.task(bind=True)
def looks(self, *_, **__):
    request = self.request
    for what, call in (
        ("pickle", pickle.dumps),
        ("deepcopy", copy.deepcopy),
        ("json", lambda each: json.dumps(vars(each))),
    ):
        try:
            call(request)
            write(what, "works")
        except Exception as exc:
            write(what, repr(exc))
    write("request", vars(request))
    write("repr", sorted(eval(repr(request).removeprefix("<Context: ")[:-1])))
    write("headers", request.headers)
    write("loggers in a task", loggers())
    own_log.warning("a line of the application")
    logging.getLogger("celery.task").warning("a line of a task")


@app.task(bind=True, max_retries=1)
def fails(self, how):
    if how == "broken":
        raise BrokenError
    if how == "retry":
        raise self.retry(exc=BrokenError(), countdown=0)
    raise ValueError(how)


@app.task
def publishes():
    """A publish that fails: the application gets its own exception."""

    def refuse(*_, **__):
        raise BrokenError

    with app.producer_pool.acquire(block=True) as producer:
        producer.publish = refuse
        try:
            looks.apply_async(producer=producer, retry=False)
        except BaseException as exc:
            write("failed publish", type(exc).__name__)
        finally:
            del producer.publish


@signals.task_failure.connect
@signals.task_retry.connect
def failure(sender=None, einfo=None, **_):
    write("failure", [sender.name, type(einfo.exception).__name__])


class Step(bootsteps.ConsumerStep):
    """What an application's own step finds when it starts."""

    def start(self, parent):
        write("modules of the consumer", type(parent).__module__)


app.steps["consumer"].add(Step)
