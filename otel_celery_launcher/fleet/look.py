# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""One look at the workers of some brokers.

A worker that otel-celery did not launch writes a line into its log when it is asked for
what it does not know. So each is asked once, however often the command looks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery
from kombu.utils.url import maybe_sanitize_url

from otel_celery_launcher.delivery.deadline import run_with_deadline
from otel_celery_launcher.errors import MALFORMED_ERRORS
from otel_celery_launcher.launch.inspect_status import NAME
from otel_celery_launcher.launch.worker_answers import (
    ask,
    find_workers,
    release_of,
    status_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

PLAIN, DELIVERS, IDLE, LOSES, FAILS, SILENT, UNREADABLE = (
    "plain",  # not launched by otel-celery
    "delivers",
    "idle",  # it has had nothing to deliver
    "has lost",
    "fails",
    "silent",  # it has answered a ping, and no more in time
    "unreadable",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """What a worker has answered.

    Attributes:
        broker: Its URL, without a password.
        node: Name of the worker.
        state: One of the words above.
        release: Of otel-celery; empty where it is not there.
        role: ``worker``.
        service: Name of its service.
        mode: ``process`` or ``inline``.
        exported: Spans that the collector took.
        lost: Spans that were dropped or refused.
        waiting: Spans that wait.
        error: The last failure of an export.
    """

    broker: str
    node: str
    state: str
    release: str = ""
    role: str = ""
    service: str = ""
    mode: str = ""
    exported: int = 0
    lost: int = 0
    waiting: int = 0
    error: str = ""

    @property
    def order(self) -> tuple[Any, ...]:
        """The oldest first: those without a release are older than all."""
        numbers = [int(part) for part in self.release.split(".") if part.isdecimal()]
        return (numbers, self.broker, self.node)


@dataclass(frozen=True, slots=True)
class View:
    """What one look has seen.

    Attributes:
        workers: The oldest first.
        unreached: Why a broker cannot be asked, by its URL without a password.
    """

    workers: list[Worker]
    unreached: dict[str, str]

    @property
    def is_well(self) -> bool:
        """Whether all brokers were asked, and there are workers and all deliver."""
        are_well = all(each.state in (DELIVERS, IDLE) for each in self.workers)
        return bool(self.workers) and are_well and not self.unreached

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "is_well": self.is_well,
            "workers": [asdict(each) for each in self.workers],
            "unreached": self.unreached,
        }


@dataclass(slots=True)
class Fleet:
    """The brokers, and what is known of their workers.

    Args:
        apps: An application for each broker.
        seconds: How long to wait for the next answer.
    """

    apps: Sequence[Celery]
    seconds: float
    _plain: set[tuple[str, str]] = field(default_factory=set)

    def look(self) -> View:
        """Ask all brokers at the same time."""
        view = View([], dict.fromkeys(map(name_of, self.apps), "no answer"))
        calls = [partial(self._look_at, app, view) for app in self.apps]
        run_with_deadline(calls, 4 * self.seconds + CONNECT_SECONDS)
        workers = sorted(view.workers, key=lambda each: each.order)
        return View(workers, dict(view.unreached))

    def _look_at(self, app: Celery, view: View) -> None:
        """Add the workers of a broker, or why it cannot be asked."""
        broker = name_of(app)
        try:
            view.workers.extend(self._ask(app, broker))
            del view.unreached[broker]
        except Exception as exc:  # noqa: BLE001 - transports raise anything
            view.unreached[broker] = " ".join(f"{type(exc).__name__}: {exc}".split())

    def _ask(self, app: Celery, broker: str) -> list[Worker]:
        nodes = find_workers(app, self.seconds)
        self._plain &= {(broker, node) for node in nodes} | {
            each for each in self._plain if each[0] != broker
        }
        asked = [node for node in nodes if (broker, node) not in self._plain]
        answers = ask(app, NAME, self.seconds, asked) if asked else {}
        workers = [
            read_worker(broker, node, answers.get(node))
            if node in asked
            else Worker(broker=broker, node=node, state=PLAIN)
            for node in nodes
        ]
        self._plain |= {(broker, each.node) for each in workers if each.state == PLAIN}
        return workers


# To connect to a broker.
CONNECT_SECONDS = 5.0


def make_app(broker: str) -> Celery:
    """Return an application that is nobody's, to ask the workers of a broker."""
    app = Celery("otel-celery-fleet", broker=broker, set_as_current=False)
    app.conf.broker_connection_timeout = CONNECT_SECONDS
    app.conf.broker_connection_retry = False
    app.conf.broker_transport_options = {
        "max_retries": 0,
        "socket_connect_timeout": CONNECT_SECONDS,
    }
    return app


def name_of(app: Celery) -> str:
    """Return the URL of a broker without its password."""
    url = str(app.conf.broker_write_url or app.conf.broker_url or "the broker")
    try:
        return str(maybe_sanitize_url(url))
    except ValueError:  # a port that is no number
        return f"({len(url)} characters, not shown)"


def read_worker(broker: str, node: str, answer: Any) -> Worker:
    """Return what a worker has answered; whoever is on the broker can answer."""
    status = status_of(answer)
    if not status:  # plain Celery answers what it does not know with an error
        state = SILENT if answer is None else PLAIN
        return Worker(broker=broker, node=node, state=state)
    try:
        lost = sum(map(int, status["dropped"].values()))
        exported, error = int(status["exported"]), str(status["last_error"])
        is_failing = status.get("is_failing", bool(error) and not exported)
        state = DELIVERS if exported else IDLE
        if lost:
            state = LOSES
        return Worker(
            broker=broker,
            node=node,
            state=FAILS if is_failing else state,
            release=release_of(status),
            role=str(status["role"]),
            service=str(status["service_name"]),
            mode=str(status["mode"]),
            exported=exported,
            lost=lost,
            waiting=int(status.get("queued", 0)),
            error=error if is_failing or lost else "",
        )
    except MALFORMED_ERRORS:
        return Worker(broker=broker, node=node, state=UNREADABLE)
