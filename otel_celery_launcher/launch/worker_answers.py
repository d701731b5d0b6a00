# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What running workers answer to remote control commands. Runs in the asking process."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

# Workers answer within milliseconds, so the wait ends after this silence. If none has
# answered, they are asked once more, with a longer wait; `celery inspect` waits a
# second.
SILENCE_SECONDS = 0.6
FIRST_ANSWER_SECONDS = 1.5

# Beats answer a ping since Celery 5.7, and know no other command (``celery/beat.py``).
BEAT_PREFIX = "celerybeat@"

# The last mailboxes. The name of a reply queue is made of its mailbox's address and thread
# (kombu ``common.py``, ``oid_from``). While one is kept, no other has its queue, from which
# Redis may hand an answer to the connection that asked before, where nobody reads it.
_ASKED: deque[Any] = deque(maxlen=256)

OWN_PACKAGE = "otel-celery-launcher"


def ask(
    app: Any, command: str, seconds: float, nodes: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the answer of each worker, by node name.

    Args:
        app: The application.
        command: The remote control command.
        seconds: How long to wait for the next answer.
        nodes: The workers to ask; empty for all. The wait ends when all have answered.

    Raises:
        Exception: What the transport raises where the broker is not reached.
    """
    # A connection of its own, left open: on Redis, after a wait without an answer,
    # another request or a close would take the rest of a second (kombu
    # ``transport/redis.py``, ``_brpop_start`` and ``close``).
    connection = app.connection_for_write()
    mailbox = app.control.mailbox(connection)
    _ASKED.append(mailbox)
    if nodes:
        found = mailbox.call(list(nodes), command, timeout=seconds)
    else:
        found = mailbox.multi_call(command, timeout=seconds)
    with suppress(Exception):
        mailbox.reply_queue(connection.default_channel).delete()
    return {node: answer for each in found for node, answer in each.items()}


def find_workers(app: Any, seconds: float) -> list[str]:
    """Return the names of the workers that answer a ping.

    Args:
        app: The application.
        seconds: How long to wait for the next answer, at most.

    Raises:
        Exception: As ``ask``.
    """
    alive = ask(app, "ping", min(seconds, SILENCE_SECONDS))
    alive = alive or ask(app, "ping", min(seconds, FIRST_ANSWER_SECONDS))
    return sorted(node for node in alive if not node.startswith(BEAT_PREFIX))


def status_of(answer: Any) -> dict[str, Any]:
    """Return the status of a worker that otel-celery launched; empty for any other."""
    return answer if isinstance(answer, dict) and "service_name" in answer else {}


def release_of(status: dict[str, Any]) -> str:
    """Return the release of otel-celery in a status; empty where there is none."""
    return str(status.get("versions", {}).get(OWN_PACKAGE, ""))
