# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The broker: is it reached, and do trace headers come through it unharmed."""

from __future__ import annotations

import re
import uuid
from difflib import get_close_matches
from typing import Any

from kombu import Queue
from kombu.transport import TRANSPORT_ALIASES

from otel_celery_launcher.delivery.deadline import run_with_deadline
from otel_celery_launcher.doctor.findings import FAIL, OK, Finding, without_secrets

# Connecting, then sending and receiving: each may take the time of one.
STEPS = 2

SILENT = "look at the broker: something listens there and says nothing"

# Headers that are sent and must come back.
HEADERS = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "baggage": "tenant_id=acme",
}


# Errors of transports and brokers, the most specific first: pattern, id, next step.
_ERRORS = (
    (
        r"without any password configured",
        "OC603",
        "leave the password out of broker_url: the broker has none",
    ),
    (
        r"NOPERM|ACCESS_REFUSED - access to",
        "OC608",
        "let the user of broker_url declare, write and read queues",
    ),
    (
        r"WRONGPASS|NOAUTH|invalid username|invalid password|ACCESS_REFUSED"
        r"|[Aa]uthentication",
        "OC603",
        "correct user and password in broker_url",
    ),
    (
        r"NOT_ALLOWED|vhost",
        "OC604",
        "correct the virtual host at the end of broker_url",
    ),
    (
        r"^VersionMismatch|^ImportError|^ModuleNotFoundError|requires \S*redis",
        "OC602",
        "install what the transport wants: pip install --upgrade 'celery[redis]'",
    ),
    (
        r"WRONG_VERSION_NUMBER|record layer failure|SSL|CERTIFICATE",
        "OC609",
        "make broker_url and the broker agree on TLS: rediss:// or redis://, amqps:// or amqp://",
    ),
    (
        r"OOM command|READONLY|MISCONF|LOADING|Too many connections|max number of clients",
        "OC610",
        "look at the broker: it is reached, and takes no messages",
    ),
    (
        r"[Tt]imed? ?out",
        "OC606",
        SILENT,
    ),
)


def _unreadable(broker_url: str, exc: Exception) -> Finding:
    """Return what is wrong with a URL that kombu does not take."""
    scheme = broker_url.partition("://")[0].partition("+")[0]
    near = get_close_matches(scheme, TRANSPORT_ALIASES, 1)
    if scheme.isalnum() and scheme not in TRANSPORT_ALIASES and near:
        seen = f"broker_url begins with {scheme}://, which is no transport"
        return _failure("OC601", seen, f"write {near[0]}:// instead")
    seen = f"broker_url cannot be read: {type(exc).__name__}"
    return _failure("OC601", seen, "correct broker_url, or install its transport")


def check_broker(app: Any, seconds: float) -> list[Finding]:
    """Send a message through a queue of its own and read it; leaves nothing.

    Args:
        app: The application.
        seconds: The longest time to connect, and to wait for the message.
    """
    try:
        connection = app.connection_for_write()
        url = connection.as_uri()  # without its password
    except Exception as exc:  # noqa: BLE001 - any transport's; its text may hold a password
        return [_unreadable(str(app.conf.broker_url), exc)]
    if not connection.password:
        url = url.replace("://:**@", "://")  # kombu writes one in any case
    got: dict[str, Any] = {}
    errors: list[Exception] = []

    def try_it() -> None:
        try:
            got.update(_round_trip(app, seconds))
        except Exception as exc:  # noqa: BLE001 - any transport's exceptions
            errors.append(exc)

    # Redis's transport knows no timeout: it may wait for an answer for ever.
    is_done = run_with_deadline([try_it], STEPS * seconds)
    if not (errors or is_done):
        seen = f"{url}: it does not answer within {STEPS * seconds:g} s"
        return [_failure("OC606", seen, SILENT)]
    if errors:
        why = without_secrets(f"{type(errors[0]).__name__}: {errors[0]}")
        number, next_ = _next(why)
        return [_failure(number, f"{url}: {why}", next_)]
    missing = [name for name in HEADERS if got.get(name) != HEADERS[name]]
    if missing:
        seen = f"{url} does not hand on the headers {', '.join(missing)}"
        next_ = "look for a proxy or plugin that rewrites messages"
        return [_failure("OC607", seen, next_)]
    seen = f"{url} hands on traceparent and baggage unharmed"
    return [Finding(level=OK, check="broker", seen=seen)]


def _failure(number: str, seen: str, next_: str) -> Finding:
    return Finding(level=FAIL, id=number, check="broker", seen=seen, next=next_)


def _next(why: str) -> tuple[str, str]:
    """Return the finding's id and the next step for an error of a transport.

    Verified with kombu 5.3 to 5.7 and its clients.
    """
    for pattern, number, next_ in _ERRORS:
        if re.search(pattern, why):
            return number, next_
    return "OC605", "start the broker, or correct broker_url"


def queue_name() -> str:
    """Return the name of a queue that nobody else has."""
    return f"otel-celery-doctor-{uuid.uuid4()}"


def _round_trip(app: Any, seconds: float) -> dict[str, Any]:
    """Return the headers of a message that went through the broker."""
    name = queue_name()
    got: dict[str, Any] = {}

    def take(_: object, message: Any) -> None:
        got.update(message.headers)
        message.ack()

    with app.connection_for_write(connect_timeout=seconds) as connection:
        connection.ensure_connection(max_retries=1, timeout=seconds)
        channel = connection.default_channel
        queue = Queue(
            name, routing_key=name, exclusive=True, auto_delete=True, durable=False
        )(channel)
        try:
            queue.declare()
            with connection.Producer(channel) as producer:
                producer.publish({}, routing_key=name, headers=HEADERS)
            with connection.Consumer(queue, callbacks=[take]):
                while not got:
                    connection.drain_events(timeout=seconds)
        finally:
            queue.delete()
    return got
