# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of Celery, kombu and billiard, here and nowhere else.

Each function has a test in ``tests/unit/compat/test_celery_private.py`` that fails when upstream
changes what it depends on. Verified with Celery 5.3 to 5.7, billiard 4.1 to 4.3.
"""

from __future__ import annotations

import os
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from celery._state import _get_active_apps
from celery.app.task import Context

from otel_celery_launcher.errors import report_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextvars import ContextVar

    from opentelemetry.context import Context as TraceContext


def _marked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function of ours that replaces Celery's.

    A wrapper made with ``functools.wraps`` has the mark, too, and still calls it.
    """
    function._is_of_otel_celery = True  # type: ignore[attr-defined]
    return function


def _is_marked(function: Any) -> bool:
    return getattr(function, "_is_of_otel_celery", False) is True


def _add_consumer_step(app: Any, step: type) -> None:
    """Add a step to the worker's consumer, instead of an earlier one of its name."""
    steps = app.steps["consumer"]
    name = step.name  # type: ignore[attr-defined]
    steps -= {each for each in steps if getattr(each, "name", None) == name}
    steps.add(step)


def wrap_task_sender(around: Callable[..., Any]) -> Callable[[], None]:
    """Call ``around(app, send, producer, name, message, **options)`` for each publish.

    Every way of publishing ends in the function that ``AMQP._create_task_sender`` makes,
    once for each application (celery ``app/amqp.py``). Applications that have published
    already get a new one. Does not import Celery's module. Returns a function that
    undoes the change.
    """
    import wrapt  # not for `otel-celery inspect`

    originals: list[Any] = []  # the class, and its method
    is_wanted = [True]

    def wrap(module: Any) -> None:
        if not is_wanted:
            return
        create = module.AMQP._create_task_sender

        def create_task_sender(amqp: Any) -> Callable[..., Any]:
            return partial(around, amqp.app, create(amqp))

        originals[:] = [module.AMQP, create]
        module.AMQP._create_task_sender = create_task_sender
        _forget_task_senders(around)

    def unwrap() -> None:
        is_wanted.clear()
        if originals:
            originals[0]._create_task_sender = originals[1]
            _forget_task_senders(around)

    wrapt.register_post_import_hook(wrap, "celery.app.amqp")
    return unwrap


def _forget_task_senders(around: Callable[..., Any]) -> None:
    """Make each application recreate its sender; a custom sender stays."""
    for app in list(_get_active_apps()):
        kept = getattr(app.__dict__.get("amqp"), "__dict__", {})
        sender = kept.get("send_task_message")
        is_wrapped = isinstance(sender, partial) and sender.func == around
        name = getattr(sender, "__qualname__", "")
        if is_wrapped or name.startswith("AMQP._create_task_sender."):
            del kept["send_task_message"]


def registered_tasks(app: Any) -> Any:
    """Return the tasks that an application has by now, without finalizing it."""
    return app._tasks


def keep_out_of_headers(*names: str) -> None:
    """Keep headers of ours out of ``self.request.headers``.

    ``Context`` puts everything that it has no attribute for among the custom headers (celery
    ``app/task.py``, ``_get_custom_headers``): a task without any has None there.
    """
    for name in names:
        setattr(Context, name, None)


def call_at_start(examine: Callable[[Any], object]) -> None:
    """Call ``examine(app)`` instead of making a worker or a beat of an application.

    The application is an argument, or an attribute of the class (celery
    ``worker/worker.py``, ``beat.py``).
    """
    import wrapt  # not for `otel-celery inspect`

    def wrap_worker(module: Any) -> None:
        def make(worker: Any, app: Any = None, *_: Any, **__: Any) -> None:
            examine(app or worker.app)

        module.WorkController.__init__ = make

    def wrap_beat(module: Any) -> None:
        def make(service: Any, app: Any, *_: Any, **__: Any) -> None:
            del service
            examine(app)

        module.Service.__init__ = make

    wrapt.register_post_import_hook(wrap_worker, "celery.worker.worker")
    wrapt.register_post_import_hook(wrap_beat, "celery.beat")


def watch_decode_errors(
    app: Any, on_error: Callable[[Any, Any, BaseException], None]
) -> None:
    """Call ``on_error(consumer, message, exc)`` for messages a worker cannot decode.

    Celery has no signal for them (``worker/consumer/consumer.py``). A step changes only
    the consumer object, so an application may still replace the names in Celery's
    module.
    """
    from celery.bootsteps import StartStopStep

    class OtelCeleryDecodeErrors(StartStopStep):  # type: ignore[misc]
        name = "otel_celery.decode_errors"

        def __init__(self, parent: Any, **named: Any) -> None:
            super().__init__(parent, **named)
            decode_error = parent.on_decode_error

            def on_decode_error(message: Any, exc: BaseException) -> None:
                decode_error(message, exc)
                on_error(parent, message, exc)

            parent.on_decode_error = on_decode_error

    _add_consumer_step(app, OtelCeleryDecodeErrors)


def fail_requests_inside(context_of: Callable[[object], TraceContext | None]) -> None:
    """Handle the failure of a killed run inside its context: errbacks, retries, signals.

    The worker's main process handles it (celery ``worker/request.py``). A run that
    ended normally needs no handling there, and ``context_of`` returns None.
    """
    from celery.worker.request import Request
    from opentelemetry.context import attach, detach

    def inside(handle: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(handle)
        def handle_inside(request: Any, *arguments: Any, **named: Any) -> Any:
            context = context_of(request.id)
            if context is None:
                return handle(request, *arguments, **named)
            token = attach(context)
            try:
                return handle(request, *arguments, **named)
            finally:
                detach(token)

        return _marked(handle_inside)

    for name in ("on_failure", "on_timeout"):
        handle = getattr(Request, name)
        if not _is_marked(handle):
            setattr(Request, name, inside(handle))


def watch_skipped_runs(app: Any, on_skipped: Callable[[Any, object], None]) -> None:
    """Call ``on_skipped(task, headers)`` for deliveries that Celery does not run again.

    With ``worker_deduplicate_successful_tasks``, a task's tracer returns neither result
    nor run time if the task had succeeded before (celery ``app/trace.py``); there is no
    signal. Affects only tracers that exist at the time of the call.
    """

    def watched(task: Any, run: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(run)
        def trace_task(uuid: Any, args: Any, kwargs: Any, request: Any = None) -> Any:
            outcome = run(uuid, args, kwargs, request)
            # By identity: a result is the application's, and so is its ``__eq__``.
            is_skipped = (
                outcome[0] is None and outcome[1] is None and outcome[2] is None
            )
            if is_skipped and request:
                delivery = request.get("delivery_info") or {}
                if delivery.get("redelivered"):
                    on_skipped(task, request)
            return outcome

        return _marked(trace_task)

    for task in app.tasks.values():
        if task.__trace__ is not None and not _is_marked(task.__trace__):
            task.__trace__ = watched(task, task.__trace__)


def watch_skipped_runs_of_main(
    app: Any, on_skipped: Callable[[Any, object], None]
) -> None:
    """Watch the tracers that the consumer makes, for pools that run tasks in main."""
    from celery.bootsteps import StartStopStep

    class OtelCelerySkippedRuns(StartStopStep):  # type: ignore[misc]
        name = "otel_celery.skipped_runs"
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: Any) -> None:
            watch_skipped_runs(parent.app, on_skipped)

    _add_consumer_step(app, OtelCelerySkippedRuns)


def watch_schedule_entries(
    current: ContextVar[str], on_publish: Callable[[Any], None] = lambda _: None
) -> None:
    """Keep the name of the schedule's entry that beat publishes, while it does.

    Args:
        current: The name.
        on_publish: Called with the entry before.

    Every scheduler sends an entry by ``Scheduler.apply_async`` (celery ``beat.py``).
    """
    from celery.beat import Scheduler

    apply_async = Scheduler.apply_async
    if _is_marked(apply_async):
        return  # of a beat in this process already

    @wraps(apply_async)
    def apply_entry(self: Any, entry: Any, *arguments: Any, **named: Any) -> Any:
        token = current.set(str(entry.name))
        on_publish(entry)
        try:
            return apply_async(self, entry, *arguments, **named)
        finally:
            current.reset(token)

    Scheduler.apply_async = _marked(apply_entry)


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


def add_inspect_method(name: str) -> None:
    """Let ``app.control.inspect()`` ask what ``celery inspect`` can ask.

    Each of Celery's own inspect commands has a method (celery ``app/control.py``).
    """
    from celery.app.control import Inspect

    def ask(inspect: Any) -> Any:
        return inspect._request(name)

    setattr(Inspect, name, ask)


def pool_slot() -> int:
    """Return the slot of this pool child: a recycled child keeps its predecessor's."""
    from billiard.process import current_process

    index = getattr(current_process(), "index", None)
    return index if isinstance(index, int) else os.getpid()


def call_while_idle(seconds: float, call: Callable[[], bool]) -> None:
    """Call something again and again while this pool child has no task.

    billiard's pool child waits in a function that it keeps in ``wait_for_job`` and reads
    once, after its initializer; with Celery's queues that is a read that blocks (billiard
    ``pool.py``, ``Worker._make_recv_method``).

    Args:
        seconds: Between two calls.
        call: The function. Once it returns False, the child waits as before; if it does
            so at once, the next task is not delayed.
    """
    from billiard.process import current_process

    worker: Any = getattr(current_process(), "_target", None)
    wait_for_job = getattr(worker, "wait_for_job", None)
    reader = getattr(getattr(worker, "inq", None), "_reader", None)
    if not callable(wait_for_job) or reader is None:
        return

    def wait() -> Any:
        try:
            while call() and not reader.poll(seconds):
                pass
        except (OSError, EOFError):  # the next read finds it, too
            pass
        except Exception:  # noqa: BLE001 - the boundary: no task runs here
            report_failure("some spans wait for the next task")
        return wait_for_job()

    worker.wait_for_job = wait


def add_timer(
    app: Any,
    what: str,
    seconds: float,
    call: Callable[[], None],
    at_stop: Callable[[], None] = lambda: None,
) -> None:
    """Call something at an interval of seconds in a worker's main process.

    A step of the consumer: Celery 5.3 clears the consumer's timer at each lost
    connection, and starts the steps anew after it.

    Args:
        app: The worker's application.
        what: Names the step; of two with one name Celery keeps one.
        seconds: Between two calls.
        call: What is called.
        at_stop: Called once the worker stops, before it waits for its pool.
    """
    from celery.bootsteps import RUN, StartStopStep

    class OtelCeleryTimer(StartStopStep):  # type: ignore[misc]
        name = f"otel_celery.{what}"
        entry: Any = None

        def start(self, parent: Any) -> None:
            self.entry = parent.timer.call_repeatedly(seconds, call)

        def stop(self, parent: Any) -> None:
            if self.entry is not None:
                self.entry.cancel()
            if parent.blueprint.state != RUN:  # where the connection is lost, it is
                at_stop()

    _add_consumer_step(app, OtelCeleryTimer)
