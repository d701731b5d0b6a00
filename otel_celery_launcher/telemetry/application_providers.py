# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Applications with OpenTelemetry of their own: each span once, nothing lost.

A provider of the application (or one that was set before ours) keeps working: its
processors run, and ours runs after them. Only a processor that exports to our own
endpoint is removed, since the collector would get the same spans twice. So every span,
from any provider, reaches each destination once.

Runs in the process in which the application sets its provider.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from otel_celery_launcher import messages
from otel_celery_launcher.compat import providers
from otel_celery_launcher.delivery.deadline import run_with_deadline
from otel_celery_launcher.settings.otlp_checks import split_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# A collector takes OTLP on both; the same host means the same collector.
OTLP_PORTS = frozenset({4317, 4318})

# Depth to which wrapped providers are searched; known wrappers add one layer.
_LAYERS = 3

# A processor that is left out has nothing to send; its thread ends at once.
RETIRE_SECONDS = 1.0


class CollectorAddress(NamedTuple):
    """Where an OTLP exporter sends; in doubt, two addresses count as different.

    A duplicate span is a nuisance, a missing one is a loss.
    """

    host: str
    port: int
    path: str  # empty for gRPC
    headers: frozenset[tuple[str, str]]

    @classmethod
    def read(cls, endpoint: str, headers: Mapping[str, str]) -> CollectorAddress:
        """Read an endpoint, with or without scheme, and the exporter's headers."""
        parts = split_endpoint(endpoint)
        host = parts.hostname or ""
        return cls(
            "localhost" if host in ("127.0.0.1", "::1") else host,
            parts.port or (80 if parts.scheme == "http" else 443),
            parts.path.rstrip("/"),
            frozenset((key.lower(), value) for key, value in headers.items()),
        )

    def is_same_as(self, other: CollectorAddress) -> bool:
        """Return whether two are one collector: gRPC and HTTP on its two ports."""
        if (self.host, self.headers) != (other.host, other.headers):
            return False
        if {self.port, other.port} == OTLP_PORTS:
            return True
        return (self.port, self.path) == (other.port, other.path)

    @property
    def host_and_port(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port}"


def sdk_provider(provider: object) -> TracerProvider | None:
    """Return the SDK's provider: this one, or the one it wraps (Logfire's ``provider``)."""
    for _ in range(_LAYERS):
        if isinstance(provider, TracerProvider):
            return provider
        provider = getattr(provider, "provider", None)
    return None


class ApplicationProviders:
    """Keeps our processor last in every provider, and duplicates out.

    Args:
        front: Our processor, the last that sees a span.
        address: Where its spans go; None if they do not go to an OTLP receiver.
    """

    def __init__(self, front: SpanProcessor, address: CollectorAddress | None) -> None:
        self._front = front
        self._address = address
        self._kept: list[SpanProcessor] = []
        self._providers: list[TracerProvider] = []
        self.notes: list[str] = []
        self._says_at_once = False

    def say_at_once(self) -> None:
        """Write each note from here on: those from before are in the start's lines."""
        self._says_at_once = True

    def guard(self, provider: TracerProvider) -> None:
        """Keep our processor the last one of a provider, even if others are added."""
        if provider in self._providers:
            return
        present = providers.span_processors(provider)
        providers.replace_span_processors(provider, (self._front,))
        providers.intercept_added_processors(provider, self._add_to_all)
        self._providers.append(provider)
        for processor in (*self._kept, *present):
            self._add_to_all(processor)

    def watch_set_tracer_provider(self) -> None:
        """Adopt what the application hands to ``trace.set_tracer_provider``.

        The API would refuse it with a warning, and its processors would be lost.
        """
        trace.set_tracer_provider = self.adopt

    def adopt(self, tracer_provider: object) -> None:
        """Add our processor to an application's provider, and log that."""
        provider = sdk_provider(tracer_provider)
        if provider is None:
            owner = type(tracer_provider).__module__.partition(".")[0]
            messages.log(
                f"the application's tracer provider is of {owner}: expected one of the"
                " OpenTelemetry SDK; its spans do not pass otel-celery's exporter"
            )
            return
        if provider in self._providers:
            return
        before = len(self.notes)
        self.guard(provider)
        if len(self.notes) == before:
            self._note(
                "the application's own tracer provider runs beside otel-celery's"
            )

    def flushes(self) -> list[Callable[[], object]]:
        """Return calls that send what the application's processors hold."""
        return [each.force_flush for each in self._kept]

    def _add_to_all(self, processor: SpanProcessor) -> None:
        if processor is self._front or not self._accept(processor):
            return
        if processor not in self._kept:
            self._kept.append(processor)
        for provider in self._providers:
            present = providers.span_processors(provider)
            if processor not in present:
                others = tuple(each for each in present if each is not self._front)
                providers.replace_span_processors(
                    provider, (*others, processor, self._front)
                )

    def _accept(self, processor: SpanProcessor) -> bool:
        destination = providers.destination_of(providers.exporter_of(processor))
        if destination is None or self._address is None:
            return True
        address = CollectorAddress.read(*destination)
        if not address.is_same_as(self._address):
            return True
        run_with_deadline([processor.shutdown], RETIRE_SECONDS)
        self._note(
            f"the application exports to {address.host_and_port}, as otel-celery does: its"
            " exporter is left out, so that each span comes once"
        )
        return False

    def _note(self, note: str) -> None:
        self.notes.append(note)
        if self._says_at_once:
            messages.log(note)
