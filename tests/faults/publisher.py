"""Publishes tasks as fast as they are run: python -m tests.faults.publisher BROKER COUNT."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress

import redis
from celery import Celery

# Tasks that wait in the queue at most; it is looked at once for so many publishes.
WAITING = 2000
LOOK_EACH = 100


def main() -> None:
    broker, count = sys.argv[1], int(sys.argv[2])
    app, client = Celery("publisher", broker=broker), redis.Redis.from_url(broker)
    pause = threading.Event()
    for number in range(count):
        is_sent = False
        while not is_sent:
            with suppress(Exception):  # the broker is being restarted
                while number % LOOK_EACH == 0 and client.llen("celery") > WAITING:
                    pause.wait(0.05)
                app.send_task("faulty.work", (1,), retry=False)
                is_sent = True
            pause.wait(0 if is_sent else 0.1)


if __name__ == "__main__":
    main()
