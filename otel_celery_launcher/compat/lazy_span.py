# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Private names of OpenTelemetry's spans: one that is made when somebody looks at it.

What ``compat/providers.py`` says of itself holds here; the tests are in the same file.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import Tracer, _Span

from otel_celery_launcher.compat.span_fields import FLAGS, MadeLate, valid_context

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.attributes import BoundedAttributes
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Span
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

# What a child's flags take over from its parent's; older SDKs know one flag.
_KEPT_FLAGS = trace_api.TraceFlags.SAMPLED | getattr(
    trace_api.TraceFlags, "RANDOM_TRACE_ID", 0
)


class Begun(NamedTuple):
    """What a span is made of, unless somebody changes it."""

    pattern: Pattern
    name: str
    context: trace_api.SpanContext
    parent: trace_api.SpanContext
    start: int  # nanoseconds since the epoch
    common: Mapping[str, Any]  # attributes, shared with other spans
    own: Mapping[str, Any]  # attributes, after these


class LeanSpan(MadeLate, _Span):
    """A span that is no more than its context until somebody asks for anything else.

    Nobody looks at most runs of tasks.
    """

    begun: Begun

    def whole_span(self) -> Span:
        """Return the span that ``Tracer.start_span`` would have made."""
        fields = vars(self)
        fields.setdefault("_end_time", None)  # from here on it does not end unheard
        return self.begun.pattern.whole(self.begun, fields.get("changes", {}))

    def end_unseen(self, changes: dict[str, Any]) -> int:
        """End a span that nobody has looked at, without telling any processor.

        Args:
            changes: Attributes that it ends with, too.

        Returns:
            When; nanoseconds since the epoch. 0 where somebody has looked at it: nothing
            was done.
        """
        fields = vars(self)
        if "_end_time" in fields:
            return 0
        fields["changes"] = changes
        ended = time.time_ns()
        return ended if fields.setdefault("_end_time", ended) is ended else 0


class Pattern:
    """What all spans of one kind of a tracer have in common.

    Args:
        tracer: The tracer.
        kind: Of the spans.
        most_attributes: How many a span may have; None for any number.
    """

    def __init__(
        self, tracer: Tracer, kind: trace_api.SpanKind, most_attributes: int | None
    ) -> None:
        self._tracer = tracer
        self._kind = kind
        self._new_id = tracer.id_generator.generate_span_id
        self._most_attributes = 2**31 if most_attributes is None else most_attributes
        self.kind: int = kind.value
        self.resource: Resource = tracer.resource
        self.scope: InstrumentationScope = tracer._instrumentation_scope

    @classmethod
    def of(cls, tracer: Tracer, kind: trace_api.SpanKind) -> Pattern | None:
        """Return the pattern; None where long values would have to be cut."""
        span = new_span(tracer, "", trace_api.INVALID_SPAN_CONTEXT, None, kind, ())
        bounded = cast("BoundedAttributes", span._attributes)
        if bounded.max_value_len is not None:
            return None
        return cls(tracer, kind, bounded.maxlen)

    def span(
        self,
        parent: trace_api.SpanContext,
        name: str,
        common: Mapping[str, Any],
        own: Mapping[str, Any],
    ) -> LeanSpan | None:
        """Return a span that has started.

        Args:
            parent: Valid, sampled.
            name: Of the span.
            common: Attributes that other spans have, too; never changed.
            own: Attributes after these; never changed.

        Returns:
            None where some of the attributes would have to be left out.
        """
        if len(common) + len(own) >= self._most_attributes:  # one comes at the end
            return None
        context = child_context(parent, self._new_id())
        begun = Begun(self, name, context, parent, time.time_ns(), common, own)
        span: LeanSpan = object.__new__(LeanSpan)
        span.__dict__ = {"_context": context, "begun": begun}
        return span

    def whole(self, begun: Begun, changes: Mapping[str, Any]) -> Span:
        """Return the SDK's span, as it began and with the attributes it ended with."""
        span: Any = new_span(
            self._tracer, begun.name, begun.context, begun.parent, self._kind, ()
        )
        span._start_time = begun.start
        span._attributes._dict.update({**begun.common, **begun.own, **changes})
        return cast("Span", span)


def child_context(parent: trace_api.SpanContext, new_id: int) -> trace_api.SpanContext:
    """Return the context of a span below a valid one, sampled as that is."""
    trace_id, _, _, flags, state, _ = parent  # a tuple by declaration
    kept = FLAGS[flags & _KEPT_FLAGS]
    return valid_context(trace_id, new_id, kept, state, is_remote=False)


def new_span(
    tracer: Tracer,
    name: str,
    context: trace_api.SpanContext,
    parent: trace_api.SpanContext | None,
    kind: trace_api.SpanKind,
    links: Sequence[trace_api.Link],
) -> Span:
    """Return a span that has not started, as ``Tracer.start_span`` makes it."""
    return _Span(
        name=name,
        context=context,
        parent=parent,
        sampler=tracer.sampler,
        resource=tracer.resource,
        span_processor=tracer.span_processor,
        kind=kind,
        links=links,
        instrumentation_info=tracer.instrumentation_info,
        limits=tracer._span_limits,
        instrumentation_scope=tracer._instrumentation_scope,
    )
