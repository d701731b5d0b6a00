# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of Celery's worker and billiard's pool: what their state is.

See ``compat/__init__.py``; the tests are in ``tests/unit/compat/test_celery_worker.py``.
Verified with Celery 5.3 to 5.7, billiard 4.1 to 4.3. For the worker's main process.
"""

from __future__ import annotations

import json
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_celery_launcher.compat.celery_private import _is_marked, _marked

if TYPE_CHECKING:
    from collections.abc import Callable

# Exit status of a pool process that has run as many tasks as it may (billiard
# ``pool.py``, EX_RECYCLE).
RECYCLED = 0x9B


class WorkerState(NamedTuple):
    """A worker at a moment.

    Attributes:
        active: Tasks that run.
        reserved: Tasks that wait for a process, and have no ETA that is to come.
        scheduled: Tasks whose ETA is to come.
        pool_limit: Tasks that can run at once.
        prefetch_limit: Messages that it takes before it acknowledges one; 0 for no limit.
    """

    active: int
    reserved: int
    scheduled: int
    pool_limit: int
    prefetch_limit: int


class EndedChild(NamedTuple):
    """A pool process that has ended.

    Attributes:
        pid: Of the process.
        slot: Of the pool.
        status: The exit status as ``multiprocessing`` has it.
        is_controlled: Whether Celery has ended it because the pool was to shrink.
        requests: Those of tasks that it had accepted and has given no result for.
    """

    pid: int
    slot: int
    status: int
    is_controlled: bool
    requests: tuple[Any, ...]


def state_of(consumer: Any) -> WorkerState:
    """Return the state of a worker, by its consumer."""
    from celery.worker import state

    active, reserved = len(state.active_requests), len(state.reserved_requests)
    scheduled = len(_scheduled(consumer))
    qos = getattr(consumer, "qos", None)
    return WorkerState(
        active,
        max(0, reserved - active - scheduled),
        scheduled,
        _limit_of(consumer.pool),
        int(getattr(qos, "value", 0) or 0),
    )


def _scheduled(consumer: Any) -> list[Any]:
    """Return requests that wait in the consumer's timer (celery ``worker/control.py``)."""
    from celery.worker.request import Request

    found = []
    for waiting in list(consumer.timer.schedule.queue):
        arguments = getattr(getattr(waiting, "entry", None), "args", None) or ()
        if arguments and isinstance(arguments[0], Request):
            found.append(arguments[0])
    return found


def _limit_of(pool: Any) -> int:
    """Return how many tasks a pool can run at once: that of a prefork pool changes."""
    processes = getattr(getattr(pool, "_pool", None), "_processes", None)
    limit = processes if isinstance(processes, int) else getattr(pool, "limit", None)
    return int(limit or 1)


def queue_names(app: Any) -> list[str]:
    """Return the names of the queues that a worker consumes from."""
    return [str(name) for name in app.amqp.queues.consume_from]


# Transports whose answer another process gets, too (kombu's ``driver_type``). In-memory
# queues, and Kafka's and Pub/Sub's counts, are of one process: another one would read 0.
_TRANSPORTS_WITH_DEPTH = frozenset({"amqp", "redis", "sqs", "azureservicebus"})


def describe_broker(app: Any) -> str:
    """Return what ``queues/depth.py`` needs to connect to a worker's broker, as JSON.

    It has the password. Options that JSON does not have, such as functions, are left
    out. Connects to nothing. Empty if the broker cannot be described, or cannot tell
    another process how long its queues are.
    """
    try:
        connection = app.connection_for_read()
        if connection.transport.driver_type not in _TRANSPORTS_WITH_DEPTH:
            return ""
        url = connection.as_uri(include_password=True)
        described = {
            "url": url,
            "options": _plain(connection.transport_options),
            "ssl": _plain(connection.ssl),
        }
        return json.dumps(described)
    except Exception:  # noqa: BLE001 - any transport's; the worker's own connection says it
        return ""


def _plain(value: Any) -> Any:
    """Return a value without the parts that JSON does not have."""
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _plain(each) for key, each in value.items()}
        # Such as the keep-alive options of a socket, whose keys are numbers.
        return {"pairs": [[_plain(key), _plain(each)] for key, each in value.items()]}
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return None
    return value


def watch_children(consumer: Any, on_exit: Callable[[EndedChild], None]) -> None:
    """Call ``on_exit`` for each pool process that has ended, before its successor starts.

    Args:
        consumer: Of the worker. Its pool may be any.
        on_exit: Gets the process.
    """
    from celery.worker import state

    pool: Any = getattr(consumer.pool, "_pool", None)
    if not hasattr(pool, "_join_exited_workers") or _is_marked(
        pool.process_flush_queues
    ):
        return
    # Called for each process that has ended: by ``_join_exited_workers``, and once more by
    # what Celery's pool does when one is down (celery ``concurrency/asynpool.py``).
    flush = pool.process_flush_queues

    def process_flush_queues(worker: Any) -> Any:
        # It reads the results that the process has still written.
        flushed = flush(worker)
        if not getattr(worker, "_otel_celery_ended", False):
            worker._otel_celery_ended = True
            on_exit(
                EndedChild(
                    worker.pid,
                    int(getattr(worker, "index", None) or 0),
                    worker.exitcode or 0,
                    bool(getattr(worker, "_controlled_termination", False)),
                    tuple(
                        each
                        for each in list(state.active_requests)
                        if each.worker_pid == worker.pid
                    ),
                )
            )
        return flushed

    pool.process_flush_queues = _marked(process_flush_queues)


def watch_hard_limits(on_limit: Callable[[int], None]) -> None:
    """Call ``on_limit(pid)`` when a process is ended by a task's hard time limit."""
    from celery.worker.request import Request

    handle = Request.on_timeout
    if getattr(handle, "_watches_limits", False):
        return

    @wraps(handle)
    def on_timeout(request: Any, soft: bool, timeout: Any) -> Any:
        if not soft:
            result = getattr(request, "_apply_result", None)
            job = result() if callable(result) else None
            for pid in job.worker_pids() if job is not None else ():
                on_limit(pid)
        return handle(request, soft, timeout)

    on_timeout._watches_limits = True  # type: ignore[attr-defined]
    Request.on_timeout = on_timeout


def add_connection_watch(app: Any, on_change: Callable[[Any, bool], None]) -> None:
    """Call ``on_change(consumer, is_connected)`` when a worker gets or loses its broker."""
    from celery.bootsteps import StartStopStep

    from otel_celery_launcher.compat.celery_private import _add_consumer_step

    class OtelCeleryConnection(StartStopStep):  # type: ignore[misc]
        name = "otel_celery.connection"
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: Any) -> None:
            on_change(parent, True)

        def stop(self, parent: Any) -> None:
            on_change(parent, False)

    _add_consumer_step(app, OtelCeleryConnection)


def watch_ticks(on_tick: Callable[[], None]) -> None:
    """Call ``on_tick`` each time beat has looked at its schedule."""
    from celery.beat import Scheduler

    tick = Scheduler.tick
    if _is_marked(tick):
        return

    @wraps(tick)
    def tick_and_say(scheduler: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return tick(scheduler, *arguments, **named)
        finally:
            on_tick()

    Scheduler.tick = _marked(tick_and_say)
