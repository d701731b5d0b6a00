# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Names and attributes of the spans of tasks, all of them known at the start.

By default they are those of the contrib Celery instrumentation, so that dashboards stay
as they are. On request, today's messaging conventions
(https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/) replace them or
are added. Attributes specific to Celery are under ``celery.*``.

Runs wherever a task is published or run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import baggage, trace

from otel_celery_launcher import __version__
from otel_celery_launcher.ipc.span_frames import encode_shared
from otel_celery_launcher.tasks.destination import (
    broker_of,
    destination_name,
    without_delay,
)
from otel_celery_launcher.tasks.errors import text_of
from otel_celery_launcher.tasks.labels import ATTRIBUTE as LABEL
from otel_celery_launcher.tasks.labels import Labels

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from otel_celery_launcher.settings.tasks import TaskSettings
    from otel_celery_launcher.tasks.destination import Destination

# The version of the conventions that ``messaging`` stands for.
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

# Types of values that go as they are; a message may hold any other.
_PLAIN = frozenset({str, int, float, bool})

# Attributes of a request and their names on the span.
_COPIED = (
    ("compression", "celery.compression"),
    ("eta", "celery.eta"),
    ("expires", "celery.expires"),
    ("id", "messaging.message.id"),
    ("origin", "celery.origin"),
    ("reply_to", "celery.reply_to"),
    ("retries", "celery.retries"),
)
_COPIED_OLDER = (("correlation_id", "messaging.conversation_id"),)
_COPIED_MESSAGING = (("correlation_id", "messaging.message.conversation_id"),)

# How most messages express that there are no time limits.
_NO_LIMITS: tuple[Any, ...] = ([None, None], (None, None), [0, 0], (0, 0), [], ())

# Types of exchanges, in the words of the older conventions.
_DESTINATION_KINDS = {"direct": "queue", "topic": "topic"}

# Tasks of Celery's own that run another one for each of many arguments.
_MAPPERS = frozenset({"celery.chunks", "celery.map", "celery.starmap"})


class SharedAttributes(NamedTuple):
    """The attributes that a run shares with earlier runs of the task."""

    app: Any
    pid: int
    delivery: dict[str, Any] | None  # a copy: a task may change its request's
    hostname: object
    attributes: dict[str, Any]
    encoded: bytes


class PublishAttributes(NamedTuple):
    """The attributes that a publish shares with earlier ones of a task to a place."""

    app: Any
    attributes: dict[str, Any]
    encoded: bytes


# How many of these are kept: a program may publish under any name.
PUBLISHES_KEPT = 1000


class Attributes:
    """Makes names and attributes.

    Args:
        settings: What is recorded about tasks.
    """

    def __init__(self, settings: TaskSettings) -> None:
        self._settings = settings
        self._older = settings.has_older_names
        self._messaging = settings.has_messaging_names
        self._known: dict[str, SharedAttributes] = {}  # by task
        self._published: dict[tuple[str, Destination], PublishAttributes] = {}
        self._labels = Labels()
        # Whether of_fast_run and of_fast_publish give all attributes, and the names are
        # ``run/`` and ``apply_async/`` + the task's.
        self.has_fast_path = not (
            self._messaging or settings.arguments or settings.baggage or settings.labels
        )
        self._copied = (
            *_COPIED,
            *(_COPIED_OLDER if self._older else ()),
            *(_COPIED_MESSAGING if self._messaging else ()),
        )

    def tracer(self, present: trace.Tracer, provider: Any = None) -> trace.Tracer:
        """Return the tracer to use: the messaging names have a scope of their own."""
        if not self._messaging:
            return present
        return trace.get_tracer(
            "otel_celery_launcher", __version__, provider, schema_url=SCHEMA_URL
        )

    def label(self, task_name: str, args: object, kwargs: object) -> str:
        """Return what is appended to a task's name; empty for nothing."""
        path = self._settings.labels.get(task_name) if self._settings.labels else None
        return self._labels.find(path, args, kwargs) if path else ""

    def publish_name(self, name: str, destination: Destination, label: str) -> str:
        """Return the name of a publish's span; arguments as of ``of_publish``."""
        if not self._messaging:
            return f"apply_async/{name} {label}".rstrip()
        exchange, routing_key, _ = destination
        return _operation_name("publish", exchange, routing_key)

    def of_fast_publish(
        self,
        app: Any,
        name: str,
        message: Any,
        destination: Destination,
        entry: object,
    ) -> tuple[PublishAttributes, dict[str, Any]] | None:
        """Return the attributes that a publish shares with others, and its own.

        These are all if ``has_fast_path``. Arguments as of ``of_publish``.

        Returns:
            None for a message that most are not like.
        """
        task_id = message.headers.get("id")
        if type(task_id) is not str or name in _MAPPERS:
            return None
        own = {"messaging.message.id": task_id}
        if entry is not None:
            own["celery.schedule.entry"] = text_of(entry)
        known = self._published.get((name, destination))
        if known is None or known.app is not app:
            shared = self.of_publish(app, name, message, destination, None, None, "")
            del shared["messaging.message.id"]
            known = PublishAttributes(app, shared, encode_shared(shared))
            if len(self._published) >= PUBLISHES_KEPT:
                self._published.clear()
            self._published[name, destination] = known
        return known, own

    def of_publish(
        self,
        app: Any,
        name: str,
        message: Any,
        destination: Destination,
        context: Context | None,
        entry: object,
        label: str,
    ) -> dict[str, Any]:
        """Return the attributes of a publish, before anything is sent.

        Args:
            app: The publishing application.
            name: Name of the task.
            message: Celery's message: headers, properties, body.
            destination: Where it goes, by ``publish_destination``.
            context: The context of the publish; None for the current one.
            entry: Name of beat's schedule entry that is published, if it is one.
            label: The label that is appended to the task's name.
        """
        broker = broker_of(app)
        exchange, routing_key, kind = destination
        attributes = _of_message(name, message, broker.system)
        if entry is not None:
            attributes["celery.schedule.entry"] = text_of(entry)
        if label:
            attributes[LABEL] = label
        if exchange:
            attributes["celery.exchange"] = exchange
        self._add_destination(attributes, exchange, routing_key)
        if self._older and kind in _DESTINATION_KINDS:
            attributes["messaging.destination_kind"] = _DESTINATION_KINDS[kind]
        if self._settings.arguments:
            self._add_arguments(attributes, name, message.headers)
        if self._messaging:
            self._add_operation(attributes, broker, "publish", "send", routing_key)
            _add_publisher(attributes, message)
        self._add_baggage(attributes, context)
        return attributes

    def run_name(self, task: Any, request: Any) -> str:
        """Return the name of a run's span."""
        if not self._messaging:
            return f"run/{task.name} {self._label_of(task, request)}".rstrip()
        return _operation_name("process", *_delivered(task.app, request.delivery_info))

    def of_fast_run(
        self, task: Any, fields: Mapping[str, Any], durations: Mapping[str, float]
    ) -> tuple[SharedAttributes, dict[str, Any]]:
        """Return the attributes that a run shares with others, and its own.

        These are all if ``has_fast_path``; ``of_run`` adds those of further settings.

        Args:
            task: The task.
            fields: Fields of the message; the class of a request has the defaults.
            durations: How long it waited: ``waits.waits``.
        """
        get = fields.get
        shared = self._shared_of(task, get("delivery_info"), get("hostname"))
        attributes: dict[str, Any] = {}
        for key, name in self._copied:
            value = get(key)
            if value is None:
                continue
            if type(value) not in _PLAIN:
                attributes[name] = text_of(value)
            elif value:
                attributes[name] = value
        limits = get("timelimit")
        if isinstance(limits, (list, tuple)) and limits not in _NO_LIMITS:
            attributes["celery.timelimit"] = tuple(
                "" if each is None else text_of(each) for each in limits
            )
        if task.name in _MAPPERS:
            _add_mapped_task(attributes, fields.get("kwargs"))
        attributes.update(durations)
        return shared, attributes

    def of_run(
        self,
        task: Any,
        request: Any,
        context: Context | None,
        durations: Mapping[str, float],
    ) -> dict[str, Any]:
        """Return the attributes of a run, before the task begins."""
        fields = request.__dict__
        shared, own = self.of_fast_run(task, fields, durations)
        attributes = {**shared.attributes, **own}
        if label := self._label_of(task, request):
            attributes[LABEL] = label
        if self._settings.arguments:
            self._add_arguments(attributes, task.name, fields)
        if self._messaging:
            broker = broker_of(task.app)
            _, routing_key = _delivered(task.app, fields.get("delivery_info"))
            self._add_operation(attributes, broker, "process", "process", routing_key)
            properties = fields.get("properties")
            tag = properties.get("delivery_tag") if type(properties) is dict else None
            if broker.system == "rabbitmq" and isinstance(tag, int):
                attributes["messaging.rabbitmq.message.delivery_tag"] = tag
        self._add_baggage(attributes, context)
        return attributes

    def _label_of(self, task: Any, request: Any) -> str:
        return self.label(task.name, request.args, request.kwargs)

    def _shared_of(
        self, task: Any, delivery: object, hostname: object
    ) -> SharedAttributes:
        """Return what most runs of a task in this process share."""
        pid = os.getpid()
        known = self._known.get(task.name)
        if known is not None:
            app, its_pid, its_delivery, its_hostname, _, _ = known
            if (
                app is task.app
                and its_pid == pid
                and its_delivery == delivery
                and its_hostname == hostname
            ):
                return known
        attributes = {
            "celery.action": "run",
            "celery.task_name": task.name,
            "messaging.system": broker_of(task.app).system,
            "process.pid": pid,
        }
        if hostname:
            attributes["celery.hostname"] = text_of(hostname)
            if self._messaging:
                attributes["messaging.client.id"] = text_of(hostname)
        if type(delivery) is dict and delivery:
            attributes["celery.delivery_info"] = text_of(delivery)
            self._add_destination(attributes, *_delivered(task.app, delivery))
            if delivery.get("redelivered"):
                attributes["celery.redelivered"] = True
        known = SharedAttributes(
            task.app,
            pid,
            dict(delivery) if type(delivery) is dict else None,
            hostname,
            attributes,
            encode_shared(attributes),
        )
        self._known[task.name] = known
        return known

    def of_discarded(
        self, what: str, app: Any, name: str, request: Any, context: Context
    ) -> dict[str, Any]:
        """Return the attributes of a task that never runs.

        Args:
            what: What became of it: ``revoked``, ``expired`` …
            app: The worker's application.
            name: Name of the task.
            request: Its request, as far as there is one.
            context: What its message carries.
        """
        broker = broker_of(app)
        attributes = {
            "celery.action": what,
            "celery.task_name": name,
            "messaging.system": broker.system,
        }
        if request.id is not None:
            attributes["messaging.message.id"] = text_of(request.id)
        if self._messaging:
            self._add_operation(attributes, broker, what, "process", "")
        self._add_baggage(attributes, context)
        return attributes

    def _add_baggage(self, attributes: dict[str, Any], context: Context | None) -> None:
        """Add the entries of the baggage that are asked for."""
        for name in self._settings.baggage:
            value = baggage.get_baggage(name, context)
            if value is not None:
                attributes[name] = text_of(value)

    def _add_destination(
        self, attributes: dict[str, Any], exchange: str, routing_key: str
    ) -> None:
        if not routing_key:
            return
        if self._older:
            attributes["messaging.destination"] = routing_key
        attributes["messaging.destination.name"] = destination_name(
            exchange, routing_key
        )

    def _add_arguments(
        self, attributes: dict[str, Any], name: str, fields: Mapping[str, Any]
    ) -> None:
        """Add what Celery shows of the arguments, where that is allowed."""
        limit = self._settings.arguments.get(name)
        if not limit:
            return
        for key, attribute in (
            ("argsrepr", "celery.args"),
            ("kwargsrepr", "celery.kwargs"),
        ):
            representation = fields.get(key)
            if representation is not None and (text := text_of(representation)):
                attributes[attribute] = text[:limit]

    @staticmethod
    def _add_operation(
        attributes: dict[str, Any], broker: Any, name: str, kind: str, routing_key: str
    ) -> None:
        attributes["messaging.operation.name"] = name
        attributes["messaging.operation.type"] = kind
        if broker.address:
            attributes["server.address"] = broker.address
            if broker.port:
                attributes["server.port"] = broker.port
        if broker.system == "rabbitmq" and routing_key:
            attributes["messaging.rabbitmq.destination.routing_key"] = routing_key


def _of_message(name: str, message: Any, system: str) -> dict[str, Any]:
    """Return the attributes that a message alone tells."""
    attributes = {
        "celery.action": "apply_async",
        "celery.task_name": name,
        "messaging.system": system,
    }
    task_id = message.headers.get("id")
    if task_id is None and isinstance(message.body, Mapping):  # protocol 1
        task_id = message.body.get("id")
    if task_id is not None:
        attributes["messaging.message.id"] = text_of(task_id)
    if name in _MAPPERS and type(message.body) is tuple:
        _add_mapped_task(attributes, message.body[1])
    return attributes


def _add_publisher(attributes: dict[str, Any], message: Any) -> None:
    """Add what today's conventions want of a publish: its client, its conversation."""
    for key, value in (
        ("messaging.client.id", message.headers.get("origin")),
        (
            "messaging.message.conversation_id",
            message.properties.get("correlation_id"),
        ),
    ):
        if value:
            attributes[key] = text_of(value)


def _add_mapped_task(attributes: dict[str, Any], kwargs: object) -> None:
    """Add which task ``celery.map`` and the like run; nothing of its arguments."""
    signature = kwargs.get("task") if isinstance(kwargs, Mapping) else None
    if isinstance(signature, Mapping) and isinstance(signature.get("task"), str):
        attributes["celery.mapped_task"] = signature["task"]


def _delivered(app: Any, delivery: object) -> tuple[str, str]:
    """Return exchange and routing key of a delivery; a message may hold anything."""
    if type(delivery) is not dict:
        return "", ""
    exchange, routing_key = (
        "" if each is None else text_of(each)
        for each in (delivery.get("exchange"), delivery.get("routing_key"))
    )
    return without_delay(app, exchange, routing_key)


def _operation_name(operation: str, exchange: str, routing_key: str) -> str:
    destination = destination_name(exchange, routing_key)
    return f"{operation} {destination}" if destination else operation
