# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of Celery, kombu and billiard, here and nowhere else.

Each function has a test in ``tests/unit/test_compat.py`` that fails when upstream
changes what it leans on. Verified with Celery 5.3 to 5.7, billiard 4.1 to 4.3.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def wrap_task_sender(around: Callable[..., Any]) -> Callable[[], None]:
    """Call ``around(app, send, producer, name, message, **options)`` for each publish.

    Every way of publishing ends in the function that ``AMQP._create_task_sender`` makes,
    once for each application (celery ``app/amqp.py``). Returns the undoing.
    """
    from celery.app.amqp import AMQP

    create = AMQP._create_task_sender

    def create_task_sender(amqp: Any) -> Callable[..., Any]:
        return partial(around, amqp.app, create(amqp))

    def unwrap() -> None:
        AMQP._create_task_sender = create

    AMQP._create_task_sender = create_task_sender
    return unwrap


def watch_decode_errors(
    told: Callable[[Any, Any, BaseException], None],
) -> Callable[[], None]:
    """Call ``told(consumer, message, exc)`` for messages a worker cannot decode.

    Celery has no signal for them (``worker/consumer/consumer.py``). Returns the undoing.
    """
    from celery.worker.consumer import Consumer

    decode_error = Consumer.on_decode_error

    def on_decode_error(consumer: Any, message: Any, exc: BaseException) -> None:
        decode_error(consumer, message, exc)
        told(consumer, message, exc)

    def undo() -> None:
        Consumer.on_decode_error = decode_error

    Consumer.on_decode_error = on_decode_error
    return undo


def with_prefix(formatter: Any, prefix: str) -> Any:
    """Return one of Celery's log formatters with a prefix before each message."""
    text = formatter._fmt
    if prefix not in text:
        text = text.replace("%(message)s", f"{prefix}%(message)s", 1)
    return type(formatter)(text, use_color=formatter.use_color)


class _InheritedDescriptor:
    """Pickled into billiard's preparation data: keeps a descriptor open in the child."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        from billiard.context import get_spawning_popen

        popen = get_spawning_popen()
        if popen is not None:
            popen.duplicate_for_child(self._descriptor)
        return int, (self._descriptor,)


def set_up_spawned_children(module: str, descriptors: Sequence[int]) -> None:
    """Make billiard's spawned children run ``module`` first and inherit descriptors.

    A spawned child runs the main module named in the preparation data before it
    unpickles the application (billiard ``spawn.py``); that module sets up telemetry.
    ``multiprocessing`` of the standard library is left alone: its children are the
    application's, and run the application's main module.
    """
    from billiard import spawn

    prepare = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        data: dict[str, Any] = prepare(name)
        data.pop("init_main_from_path", None)
        data["init_main_from_name"] = module
        data["otel_celery"] = [_InheritedDescriptor(each) for each in descriptors]
        return data

    spawn.get_preparation_data = get_preparation_data


def keep_descriptors_open(descriptors: Callable[[], Sequence[int]]) -> None:
    """Make Celery's ``close_open_fds`` (``-B``, ``--detach``) spare our descriptors."""
    from celery import platforms

    close = platforms.close_open_fds

    def close_open_fds(keep: Sequence[Any] | None = None) -> None:
        close([*(keep or ()), *descriptors()])

    platforms.close_open_fds = close_open_fds


def pool_slot() -> int:
    """Return the slot of this pool child: a recycled child keeps its predecessor's."""
    from billiard.process import current_process

    index = getattr(current_process(), "index", None)
    return index if isinstance(index, int) else os.getpid()


def add_timer(app: Any, what: str, seconds: float, call: Callable[[], None]) -> None:
    """Call something every so many seconds in a worker's main process.

    A step of the consumer: Celery 5.3 clears the consumer's timer at each lost
    connection, and starts the steps anew after it.

    Args:
        app: The worker's application.
        what: Names the step; of two with one name Celery keeps one.
        seconds: Between two calls.
        call: What is called.
    """
    from celery.bootsteps import StartStopStep

    class OtelCeleryTimer(StartStopStep):  # type: ignore[misc]
        name = f"otel_celery.{what}"
        entry: Any = None

        def start(self, parent: Any) -> None:
            self.entry = parent.timer.call_repeatedly(seconds, call)

        def stop(self, parent: Any) -> None:
            if self.entry is not None:
                self.entry.cancel()

    app.steps["consumer"].add(OtelCeleryTimer)


# Modules of the pools that run tasks in the main process.
_POOLS_WITHOUT_FORK = {
    "celery.concurrency.solo",
    "celery.concurrency.thread",
    "celery.concurrency.gevent",
    "celery.concurrency.eventlet",
}


def never_forks(pool: type) -> bool:
    """Return whether a pool class, or what it derives from, runs tasks in main."""
    return any(each.__module__ in _POOLS_WITHOUT_FORK for each in pool.__mro__)
