# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The share of traces kept by task, decided where a trace begins (OTEL_CELERY_SAMPLE).

Wraps the configured sampler: a task's ratio decides about its root spans, the
configured sampler about all other spans. Runs at the start of each span.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult, TraceIdRatioBased

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind, TraceState
    from opentelemetry.util.types import Attributes

    from otel_celery_launcher.settings.task_globs import TaskGlobs


class TaskSampler(Sampler):
    """Decides for traces that begin with a task.

    Args:
        ratios: From 0 to 1, by task.
        other: Decides about all other spans.
    """

    def __init__(self, ratios: TaskGlobs[float], other: Sampler) -> None:
        self._ratios = ratios
        self._other = other

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide about one span."""
        sampler: Sampler = self._other
        if not trace.get_current_span(parent_context).get_span_context().is_valid:
            task_name = (attributes or {}).get("celery.task_name", "")
            ratio = self._ratios.get(str(task_name))
            if ratio is not None:
                sampler = TraceIdRatioBased(ratio)
        return sampler.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        """Describe the sampler, for the SDK."""
        return f"TaskSampler{{{self._other.get_description()}}}"
