# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The SDK's exporters: finds, imports and makes them, and prepares each batch for them.

A gRPC exporter opens its channel when it is made, and a channel must not live in a
process that forks afterwards (https://github.com/grpc/grpc/issues/31885). So the
classes are imported before any fork, which opens nothing and spares each child the
import, and the exporters are made after it, which does not touch the network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_celery_launcher.compat import otlp_exporters
from otel_celery_launcher.delivery.answers import (
    CANNOT_BE_SENT,
    TAKEN,
    Answer,
    Verdict,
    grpc_answer,
    http_answer,
    taken_in_part,
)
from otel_celery_launcher.delivery.encoders import own_encoder
from otel_celery_launcher.delivery.export_log import error_text, one_line
from otel_celery_launcher.delivery.redaction import redact_exceptions
from otel_celery_launcher.delivery.sanitizing import sanitize
from otel_celery_launcher.settings.checks import load_component
from otel_celery_launcher.signals import TRACES

if TYPE_CHECKING:
    from otel_celery_launcher.signals import Signal

# Makes of a batch another one.
Preparation = Callable[[Sequence[Any]], Sequence[Any]]


class Preparations(NamedTuple):
    """The functions that prepare a signal's batches.

    Attributes:
        redact: Removes messages of exceptions, if the settings ask for it.
        sanitize: Removes values that no encoder accepts, unless its encoder does.
    """

    redact: Preparation
    sanitize: Preparation


# By number of the signal; a signal without a row passes nothing.
PREPARATIONS = {
    TRACES.number: Preparations(redact=redact_exceptions, sanitize=sanitize)
}


class PreparedExporter:
    """An exporter of the SDK, and what its batches pass before it.

    Args:
        exporter: The exporter that sends.
        preparations: Called with each batch, in order.

    Attributes:
        on_sent: Called after each request: how long it took in seconds, and the answer.
        guard: Returns what it works in: ``fork_gate.py``.
    """

    def __init__(self, exporter: Any, preparations: Sequence[Preparation]) -> None:
        self.on_sent: Callable[[float, Answer], object] | None = None
        self.guard: Callable[[], AbstractContextManager[None]] = nullcontext
        self._exporter = exporter
        self._preparations = preparations
        self._request = otlp_exporters.request_by(exporter)

    def export(self, items: Sequence[Any]) -> bool:
        """Send a batch as the SDK does, with its retries; return whether it was accepted.

        Raises:
            Exception: Any exception of the exporter.
        """
        # Each signal has an enumeration of its own: SpanExportResult, LogExportResult, …
        with self.guard():
            result = self._exporter.export(self._prepare(items))
        return getattr(result, "name", "") == "SUCCESS"

    def limit_timeout(self, seconds: float) -> None:
        """Let one request take so long at most."""
        otlp_exporters.limit_timeout(self._exporter, seconds)

    @property
    def reader(self) -> Any:
        """The SDK's object, if it is no exporter but a reader that is asked (Prometheus)."""
        return None if hasattr(self._exporter, "export") else self._exporter

    def send(self, items: Any) -> Answer:
        """Send a batch once; return what the collector has answered."""
        began = time.perf_counter()
        with self.guard():
            answer = self._send(items)
        if self.on_sent is None:
            return answer
        self.on_sent(time.perf_counter() - began, answer)
        return answer

    def _send(self, items: Any) -> Answer:
        if self._request is None:
            return self._send_by_export(items)
        try:
            response = self._request(self._prepare(items))
        except Exception as exc:  # noqa: BLE001 - an encoder, or the client
            return Answer(Verdict.REFUSED, f"{CANNOT_BE_SENT}: {error_text(exc)}")
        return _answer(response)

    def _send_by_export(self, items: Sequence[Any]) -> Answer:
        """Send through an exporter that says only whether a batch was taken.

        Whether something else is taken shows what its failures mean (``attempts.py``).
        """
        try:
            items = self._prepare(items)
        except Exception as exc:  # noqa: BLE001 - as above
            return Answer(Verdict.REFUSED, f"{CANNOT_BE_SENT}: {error_text(exc)}")
        try:
            result = self._exporter.export(items)
        except OSError as exc:  # nobody listens
            return Answer(Verdict.LATER, error_text(exc))
        except Exception as exc:  # noqa: BLE001 - any exporter
            return Answer(Verdict.REFUSED, error_text(exc))
        is_taken = getattr(result, "name", "") == "SUCCESS"
        return TAKEN if is_taken else Answer(Verdict.REFUSED)

    def _prepare(self, items: Sequence[Any]) -> Sequence[Any]:
        for prepare in self._preparations:
            items = prepare(items)
        return items

    def shutdown(self) -> None:
        """Close the exporter's connection."""
        with self.guard():
            self._exporter.shutdown()

    def close(self) -> None:
        """Close the exporter and its connection; no error of that is raised."""
        with self.guard(), suppress(Exception):
            otlp_exporters.close(self._exporter)


def _answer(response: Any) -> Answer:
    """Return what a response of ``otlp_exporters.request_by`` means."""
    if isinstance(response, otlp_exporters.GrpcStatus):
        answer = grpc_answer(*response)
    elif isinstance(response, otlp_exporters.HttpResponse):
        answer = _http_answer(response)
    else:
        answer = _read_partial_success(response)
    return replace(answer, error=one_line(answer.error)) if answer.error else answer


def _http_answer(response: otlp_exporters.HttpResponse) -> Answer:
    if not response.status:
        return Answer(Verdict.LATER, response.reason, is_unreachable=True)
    if response.status >= HTTPStatus.BAD_REQUEST:
        return http_answer(response.status, response.reason, response.retry_after)
    if not response.content:
        return TAKEN
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceResponse,
    )

    try:  # the responses of all signals have the same fields by number
        return _read_partial_success(
            ExportTraceServiceResponse.FromString(response.content)
        )
    except DecodeError:  # a proxy's page, or JSON
        return TAKEN


def _read_partial_success(response: Any) -> Answer:
    """Read a response message of any signal."""
    if not response.HasField("partial_success"):
        return TAKEN
    fields = {
        field.name: value for field, value in response.partial_success.ListFields()
    }
    message = fields.pop("error_message", "")
    return taken_in_part(sum(fields.values()), message)


def load_exporters(
    signal: Signal,
    names: Sequence[str],
    *,
    redacts_exceptions: bool,
) -> tuple[dict[str, Callable[[], PreparedExporter]], list[str]]:
    """Import the classes of exporters by their entry point names.

    Args:
        signal: The signal.
        names: Names of the entry points.
        redacts_exceptions: Whether messages of exceptions are removed.

    Returns:
        Makers of the exporters, by name, and a line for each that cannot be imported.
    """
    makers: dict[str, Callable[[], PreparedExporter]] = {}
    problems: list[str] = []
    for name in names:
        try:
            make = load_component(signal.exporter_group, name)
        except Exception as exc:  # noqa: BLE001, PERF203 - a third-party module, at start
            problems.append(
                f"the exporter {name} cannot be imported ({exc}): no {signal.items} leave"
                " through it"
            )
        else:
            makers[name] = partial(
                _make, signal, make, redacts_exceptions=redacts_exceptions
            )
            if otlp_exporters.takes_encoder(make):
                own_encoder(signal.number)  # imported and tried once, before any fork
    return makers, problems


def load_exporters_late(
    signal: Signal, names: Sequence[str], *, redacts_exceptions: bool
) -> tuple[dict[str, Callable[[], PreparedExporter]], list[str]]:
    """Like ``load_exporters``, but import a class when it makes its first exporter."""

    def make(name: str) -> PreparedExporter:
        exporter_class = load_component(signal.exporter_group, name)
        return _make(signal, exporter_class, redacts_exceptions=redacts_exceptions)

    return {name: partial(make, name) for name in names}, []


def _make(
    signal: Signal, make: Callable[[], Any], *, redacts_exceptions: bool
) -> PreparedExporter:
    exporter = make()
    otlp_exporters.let_repeated_errors_through()
    takes_ours = otlp_exporters.takes_encoder(type(exporter))
    own = own_encoder(signal.number) if takes_ours else None
    if own is not None:
        otlp_exporters.use_encoder(exporter, own.encode)
    preparations: list[Preparation] = []
    if known := PREPARATIONS.get(signal.number):
        if redacts_exceptions:
            preparations.append(known.redact)
        if not (own is not None or otlp_exporters.is_sanitizing(exporter)):
            preparations.append(known.sanitize)
    return PreparedExporter(exporter, preparations)
