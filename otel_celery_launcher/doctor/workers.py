# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The running workers: which of them otel-celery launched, and which deliver spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_celery_launcher import __version__
from otel_celery_launcher.delivery.failures import explain
from otel_celery_launcher.doctor.findings import FAIL, OK, WARN, Finding
from otel_celery_launcher.errors import MALFORMED_ERRORS
from otel_celery_launcher.launch.inspect_status import NAME
from otel_celery_launcher.launch.worker_answers import (
    ask,
    find_workers,
    release_of,
    status_of,
)
from otel_celery_launcher.settings.checks import printable, safe_repr

if TYPE_CHECKING:
    pass

NOT_DELIVERING = ("OC702", "OC703", "OC707")

TABLE_HEAD = ("worker", "service", "release", "exported", "queued", "lost")


def _findings_of_ours(ours: dict[str, dict[str, Any]]) -> list[Finding]:
    """Return a summary of the workers that answer, and what is wrong with each."""
    if not ours:
        return []
    delivering = 0
    findings: list[Finding] = []
    table: list[tuple[str, ...]] = [TABLE_HEAD]
    for node, status in ours.items():
        try:
            failures = _delivery(node, status)
            of_node = [*failures, *_release(node, status), *_producers(node, status)]
            table.append(_row(node, status))
        except MALFORMED_ERRORS:  # whoever is on the broker can answer
            failures = of_node = [_unreadable(node)]
        delivering += not failures
        findings += of_node
    first = next((each for each in findings if each.id in NOT_DELIVERING), None)
    summary = Finding(
        level=OK if first is None else WARN,
        id="" if first is None else first.id,
        check="workers",
        seen=f"{delivering} of {len(ours)} started by otel-celery deliver",
        table=tuple(table),
    )
    return [summary, *findings]


def check_workers(app: Any, seconds: float) -> list[Finding]:
    """Ask every worker that answers for its status.

    Args:
        app: The application, whose broker was reached.
        seconds: How long to wait for answers.
    """
    nodes = find_workers(app, seconds)
    if not nodes:
        return [
            Finding(level=OK, check="workers", seen="no worker runs, or none answers")
        ]
    answers = ask(app, NAME, seconds, nodes)
    ours = {node: status for node in nodes if (status := status_of(answers.get(node)))}
    findings = [
        Finding(
            level=WARN,
            id="OC701",
            check="workers",
            seen=f"{node} was not started by otel-celery",
            next="start it with otel-celery instead of celery",
        )
        for node in nodes
        if node not in ours
    ]
    of_ours = _findings_of_ours(ours)  # a summary first
    return [*of_ours[:1], *findings, *of_ours[1:]]


def _unreadable(node: str) -> Finding:
    return Finding(
        level=WARN,
        id="OC707",
        check="workers",
        seen=f"{node} answers in a form that cannot be read",
        next=f"look at what runs as {node}, and at its release of otel-celery",
    )


def _row(node: str, status: dict[str, Any]) -> tuple[str, ...]:
    return (
        node,
        printable(str(status["service_name"])),
        printable(release_of(status)),
        str(status["exported"]),
        str(status.get("queued", 0)),
        str(sum(status["dropped"].values())),
    )


def _delivery(node: str, status: dict[str, Any]) -> list[Finding]:
    """Return a failure where a worker loses spans; an earlier release says less of it."""
    service = safe_repr(status["service_name"])
    where = f" to {safe_repr(status['endpoint'])}" if status.get("endpoint") else ""
    seen = f"{node}, service {service}, exported {status['exported']}{where}"
    dropped = {key: value for key, value in status["dropped"].items() if value}
    if dropped:
        seen += ", lost " + ", ".join(f"{n} {why}" for why, n in dropped.items())
    queued, error = status.get("queued", 0), status["last_error"]
    if queued:
        seen += f", queued {queued}"
    is_failing = status.get("is_failing", bool(error) and not status["exported"])
    if not (dropped or is_failing):
        return []
    failure = explain(error)
    return [
        Finding(
            level=FAIL,
            id="OC702" if is_failing else "OC703",
            check="workers",
            seen=f"{seen}; {'now' if is_failing else 'last error'}: {failure.reason}",
            next=f"for {node}: {failure.advice}"
            if is_failing
            else f"look at the log of {node}",
        )
    ]


def _release(node: str, status: dict[str, Any]) -> list[Finding]:
    """Return a warning where a worker has another release than the one here."""
    release = release_of(status)
    if release == __version__:
        return []
    return [
        Finding(
            level=WARN,
            id="OC706",
            check="workers",
            seen=f"{node} runs otel-celery {release or '?'}, here is {__version__}",
            next=f"restart {node} with the release that is here",
        )
    ]


def _producers(node: str, status: dict[str, Any]) -> list[Finding]:
    """Return a warning where messages come without a trace context."""
    received = status.get("received_messages") or {}
    without = received.get("without_context")
    if not without:
        return []
    producers = ", ".join(
        f"{safe_repr(name)} ({count})" for name, count in received["from"].items()
    )
    seen = (
        f"{node}: {without} of the last {received['messages']} messages had no trace"
        f" context that it reads; from {producers}"
    )
    number, next_ = (
        "OC704",
        "start what publishes them by otel-celery too: docs/migrate.md",
    )
    unread = received.get("unread", {})
    if unread:
        kinds = ", ".join(
            f"{safe_repr(name)} ({count})" for name, count in unread.items()
        )
        number, seen = "OC705", f"{seen}; they have one for {kinds}"
        next_ = (
            f"add {','.join(unread)} to OTEL_PROPAGATORS of the worker, or publish with"
            " what it reads"
        )
    return [Finding(level=WARN, id=number, check="workers", seen=seen, next=next_)]
