# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Asks a broker once how many messages and consumers its queues have, and ends.

A program that the exporter process runs, on the application's import path: kombu's and
its drivers' versions are the application's. It imports neither Celery nor the
application. A broker that hangs hangs only this, and whoever runs it ends it.

Reads JSON from standard input, writes JSON to standard output: ``counts``, a list of queue
name (empty for what the broker does not tell apart), state and count; or an ``error``.

kombu's passive declaration is right where the length of a Redis list is not: it adds up
the lists of all priorities. On RabbitMQ it is the broker's own count, on SQS
``ApproximateNumberOfMessages``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

# How long the broker may take for a connection or an answer.
SECONDS = 2.0

# What a passive declaration raises for a queue that is not there: an empty one (Redis).
_NOT_FOUND = 404


def main() -> None:
    """Answer the question on standard input: the counts, or an error's type and kind."""
    question = json.load(sys.stdin)
    try:
        answer: Any = {"counts": ask(question)}
    except Exception as exc:  # noqa: BLE001 - any transport's
        # Its text may have the URL, with a password.
        is_away = isinstance(exc, OSError) or "Operational" in type(exc).__name__
        answer = {"error": type(exc).__name__, "is_away": is_away}
    json.dump(answer, sys.stdout)


def ask(question: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Return what the broker says.

    Args:
        question: ``url``, ``options`` and ``ssl`` of the transport, names of ``queues``.

    Raises:
        Exception: Any of kombu and its drivers: the broker is away, or hangs.
    """
    from kombu import Connection

    with Connection(
        question["url"],
        ssl=question.get("ssl") or False,
        connect_timeout=SECONDS,
        transport_options=_options(question),
    ) as connection:
        connection.ensure_connection(max_retries=1, timeout=SECONDS)
        answers: list[tuple[str, str, int]] = []
        for name in question["queues"]:
            found = _declared(connection, name)
            if found is None:
                answers.append((name, "ready", 0))
                continue
            messages, consumers = found
            answers.append((name, "ready", messages))
            if connection.transport.driver_type == "amqp":
                answers.append((name, "consumers", consumers))
        return answers + _unacked(connection)


def _options(question: dict[str, Any]) -> dict[str, Any]:
    """Return the transport's options, with time limits that each transport knows."""
    options: dict[str, Any] = _restored(question.get("options") or {})
    if str(question["url"]).startswith(("redis", "rediss", "sentinel")):
        limits = {"socket_timeout": SECONDS, "socket_connect_timeout": SECONDS}
    elif str(question["url"]).startswith(("amqp", "pyamqp")):
        limits = {"read_timeout": SECONDS, "write_timeout": SECONDS}
    else:
        limits = {}
    return {**options, **limits}


def _restored(value: Any) -> Any:
    """Return a value with the keys that JSON does not have."""
    if not isinstance(value, dict):
        return value
    if set(value) == {"pairs"}:
        return {key: _restored(each) for key, each in value["pairs"]}
    return {key: _restored(each) for key, each in value.items()}


def _declared(connection: Any, name: str) -> tuple[int, int] | None:
    """Return messages and consumers of a queue; None if there is no such queue.

    Each in a channel of its own: the broker closes it for a queue that is not there.
    """
    channel = connection.channel()
    try:
        answer = channel.queue_declare(queue=name, passive=True)
    except connection.channel_errors as exc:
        if getattr(exc, "code", None) == _NOT_FOUND or "404" in str(exc):
            return None
        raise
    return int(answer.message_count), int(answer.consumer_count)


def _unacked(connection: Any) -> list[tuple[str, str, int]]:
    """Return how many messages workers have taken and not acknowledged (Redis)."""
    channel = connection.channel()
    key = getattr(channel, "unacked_key", None)
    if key is None or not hasattr(channel, "client"):
        return []
    prefix = getattr(channel, "global_keyprefix", "") or ""
    with channel.conn_or_acquire() as client:
        # The client of kombu itself puts the prefix before keys of the commands that it
        # knows, and HLEN is none of them.
        return [("", "unacked", int(client.execute_command("HLEN", f"{prefix}{key}")))]


if __name__ == "__main__":
    main()
