# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The SDK's side of traces: the span processor that hands spans to the route.

Runs in every process, in the thread that ends a span.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind

from otel_celery_launcher.ipc.span_frames import encode_span
from otel_celery_launcher.routes.route import Outgoing
from otel_celery_launcher.signals import TRACES

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_celery_launcher.routes.route import Route

OUTGOING = Outgoing(
    signal=TRACES,
    encode=encode_span,
    make_queue=BatchSpanProcessor,
    put=BatchSpanProcessor.on_end,
)


class SpanFront(SpanProcessor):
    """The last processor of every provider: hands ended spans to the route.

    Args:
        route: How spans leave this process.

    Attributes:
        route: The current route; replaced if no exporter process can be started.
        in_flight: The state of the record of each run that is about to end, by the id of
            its span.
    """

    def __init__(self, route: Route) -> None:
        self.route = route
        self.in_flight: dict[int, memoryview] = {}

    def on_end(self, span: ReadableSpan) -> None:
        """Hand a span over."""
        context, parent = span.context, span.parent
        if context is None or not context.trace_flags.sampled:
            return
        is_local_root = parent is None or parent.is_remote
        self.route.hand_over(
            TRACES,
            span,
            span.resource,
            ends_work=is_local_root,
            ends_task=is_local_root and span.kind is SpanKind.CONSUMER,
            in_flight=self.in_flight.get(context.span_id) if self.in_flight else None,
        )

    def shutdown(self) -> None:
        """Send what is there: an application's shutdown ends nobody's tracing."""
        self.force_flush()

    def force_flush(self, timeout_millis: int = 5_000) -> bool:
        """Send what is there; return whether that ended in time."""
        return self.route.flush(timeout_millis / 1000, [TRACES])
