# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The SDK's exporters: finds, imports and makes them, and prepares each batch for them.

A gRPC exporter opens its channel when it is made, and a channel must not live in a
process that forks afterwards (https://github.com/grpc/grpc/issues/31885). So the
classes are imported before any fork, which opens nothing and spares each child the
import, and the exporters are made after it, which does not touch the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_celery_launcher.compat import otlp_exporters
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
    """

    def __init__(self, exporter: Any, preparations: Sequence[Preparation]) -> None:
        self._exporter = exporter
        self._preparations = preparations

    def export(self, items: Sequence[Any]) -> bool:
        """Send a batch; return whether it was accepted.

        Raises:
            Exception: Any exception of the exporter.
        """
        for prepare in self._preparations:
            items = prepare(items)
        # Each signal has an enumeration of its own: SpanExportResult, LogExportResult, …
        return getattr(self._exporter.export(items), "name", "") == "SUCCESS"

    def shutdown(self) -> None:
        """Close the exporter's connection."""
        self._exporter.shutdown()


def load_exporters(
    signal: Signal,
    names: Sequence[str],
    *,
    redacts_exceptions: bool,
) -> tuple[list[Callable[[], PreparedExporter]], list[str]]:
    """Import the classes of exporters by their entry point names.

    Args:
        signal: The signal.
        names: Names of the entry points.
        redacts_exceptions: Whether messages of exceptions are removed.

    Returns:
        Makers of the exporters, and a line for each that cannot be imported.
    """
    makers: list[Callable[[], PreparedExporter]] = []
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
            makers.append(
                partial(_make, signal, make, redacts_exceptions=redacts_exceptions)
            )
    return makers, problems


def load_exporters_late(
    signal: Signal, names: Sequence[str], *, redacts_exceptions: bool
) -> tuple[list[Callable[[], PreparedExporter]], list[str]]:
    """Like ``load_exporters``, but import a class when it makes its first exporter."""

    def make(name: str) -> PreparedExporter:
        exporter_class = load_component(signal.exporter_group, name)
        return _make(signal, exporter_class, redacts_exceptions=redacts_exceptions)

    return [partial(make, name) for name in names], []


def _make(
    signal: Signal, make: Callable[[], Any], *, redacts_exceptions: bool
) -> PreparedExporter:
    exporter = make()
    otlp_exporters.let_repeated_errors_through()
    preparations: list[Preparation] = []
    if known := PREPARATIONS.get(signal.number):
        if redacts_exceptions:
            preparations.append(known.redact)
        if not otlp_exporters.is_sanitizing(exporter):
            preparations.append(known.sanitize)
    return PreparedExporter(exporter, preparations)
