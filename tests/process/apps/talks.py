"""An application that logs: by Celery's logger, its own, a late one, and print."""

from __future__ import annotations

import gc
import logging
import logging.config
import os
import signal
import time

from celery import Celery, signals
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_task_logger
from opentelemetry._logs import LogRecord, get_logger

app = Celery(
    "talks", broker=os.environ["SHOP_BROKER"], backend=os.environ["SHOP_BACKEND"]
)
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_hijack_root_logger = os.environ.get("SHOP_HIJACK") != "0"
app.conf.result_extended = True

of_task = get_task_logger(__name__)
of_module = logging.getLogger("talks.module")
events = get_logger("talks.events")

CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s %(message)s"}},
    "handlers": {"err": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"level": "INFO", "handlers": ["err"]},
}
if os.environ.get("SHOP_LOGGING") == "dictConfig":
    logging.config.dictConfig(CONFIG)
if os.environ.get("SHOP_LOGGING") == "setup_logging":

    @signals.setup_logging.connect
    def set_up(**_):
        logging.config.dictConfig(CONFIG)


if os.environ.get("SHOP_LOGURU"):
    from loguru import logger as of_loguru

    class PropagateHandler(logging.Handler):
        def emit(self, record):
            logging.getLogger(record.name).handle(record)

    if os.environ["SHOP_LOGURU"] == "propagates":
        of_loguru.remove()
        of_loguru.add(PropagateHandler(), format="{message}")


@app.task
def emits(number):
    events.emit(LogRecord(timestamp=time.time_ns(), body={"number": number}))
    if os.environ.get("SHOP_LOGURU"):
        of_loguru.info("by loguru")


@app.task
def talk(number):
    of_task.info("task %d", number)
    of_module.info("module %d", number)
    logging.getLogger(f"talks.late{number % 3}").warning("late %d", number)
    print(f"printed {number}")


@app.task
def dies(number):
    of_module.warning("last words %d", number)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def floods(count, padding=""):
    for number in range(count):
        of_module.info("line %d%s", number, padding)


@app.task
def fails(secret):
    of_module.error("it is %s", secret, extra={"note": "mine"})
    raise ValueError(secret)


@app.task
def returns(secret, keyword=None):
    return secret


class Raises:
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


@app.task
def hostile():
    of_module.info("%s", Raises())
    of_module.info("%d", "no number")
    of_module.info("extra", extra={"thing": Raises(), "huge": 2**80, "n": None})
    of_module.info("x" * 10_000_000, extra={"y": "z" * 10_000_000})
    try:
        raise type("Mute", (Exception,), {"__str__": Raises.__str__})  # noqa: TRY301
    except Exception:  # noqa: BLE001
        of_module.exception("mute")
    of_module.info({"event": "like structlog", "user": 7})
    of_module.info("the end")


@app.task(soft_time_limit=None)
def soft_limits(times):
    """Return how many limits have ended a loop of log lines."""
    quiet = logging.getLogger("talks.quiet")
    quiet.propagate = False
    quiet.addHandler(logging.NullHandler())

    # Python's own code swallows what is raised while it makes a record of these.
    logging.logMultiprocessing = logging.logAsyncioTasks = False

    def limit(number, frame):
        raise SoftTimeLimitExceeded

    ended = 0
    gc.disable()  # which swallows what is raised in it
    before = signal.signal(signal.SIGALRM, limit)
    for number in range(times):
        try:  # at once: on a busy machine the limit may come before the next line
            signal.setitimer(signal.ITIMER_REAL, 0.0005 + number * 0.00001)
            while True:
                quiet.warning("again %s", number)
        except SoftTimeLimitExceeded:
            ended += 1
    signal.signal(signal.SIGALRM, before)
    gc.enable()
    return ended
