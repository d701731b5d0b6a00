"""Spans that are made when somebody looks, compared with the SDK's."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
from opentelemetry import trace as trace_api
from opentelemetry.sdk.resources import Resource

from otel_celery_launcher.compat import (
    lazy_span,
    providers,
    span_starter,
)
from tests.support.spans import (
    KIND,
    SPAN_CONTEXT,
    RecordingProcessor,
    comparable,
    parent_context,
    start_child,
    starter,
)


@pytest.mark.parametrize("flags", [0, 1, 2, 3, 255])
def test_a_span_like_others_is_the_one_that_the_tracer_would_start(flags: int) -> None:
    ours = starter(RecordingProcessor())
    context = parent_context(flags, is_remote=True)
    parent = trace_api.get_current_span(context).get_span_context()
    spans = [start_child(ours, parent, "a", {"k": 1}) for _ in range(2)]
    if not flags & 1:
        assert spans == [None, None]
        return
    first, second = spans
    assert first is not None
    assert second is not None
    theirs = ours._tracer.start_span("a", context, KIND, {"k": 1})
    assert first.get_span_context().span_id != second.get_span_context().span_id
    assert set(vars(first)) == {"_context", "origin"}  # nobody has looked at it
    assert comparable(first) == comparable(second) == comparable(theirs)
    assert set(vars(first)) - {"origin"} == set(vars(theirs))
    first.add_event("e")
    first.add_link(SPAN_CONTEXT)
    first.set_attribute("k", 2)
    first.set_status(trace_api.StatusCode.ERROR, "why")
    first.end()
    assert [len(first.events), len(first.links)] == [1, 1]
    assert comparable(second) == comparable(theirs)
    assert second.is_recording()


def test_a_copied_span_has_the_resource_of_its_process() -> None:
    """A pool child's is set after its fork."""
    provider = providers.ForkableTracerProvider(
        wrap_tracer=lambda *_: None, shutdown_on_exit=False
    )
    provider.add_span_processor(RecordingProcessor())
    ours = span_starter.SpanStarter(provider.get_tracer("t"))
    parent = trace_api.get_current_span(parent_context(1, is_remote=True))
    for name in ("before", "after"):
        resource = Resource({"service.instance.id": name})
        providers.set_resource(provider, resource)
        span = start_child(ours, parent.get_span_context(), "a", {})
        assert span is not None
        assert span.resource is resource


def changed(span: lazy_span.LazySpan, how: str) -> None:
    """Do what an application may do to the current span."""
    if how == "attribute":
        span.set_attribute("new", 1)
    elif how == "another value":
        span.set_attribute("k", "other")
    elif how == "status":
        span.set_status(trace_api.StatusCode.OK)
    elif how == "name":
        span.update_name("other")
    elif how == "event":
        span.add_event("e")
    elif how == "link":
        span.add_link(SPAN_CONTEXT)
    elif how == "end":
        span.end()


@pytest.mark.parametrize(
    "how",
    ["", "attribute", "another value", "status", "name", "event", "link", "end"],
)
def test_only_a_span_that_nobody_looks_at_ends_unheard(how: str) -> None:
    seen = RecordingProcessor()
    parent = trace_api.get_current_span(parent_context(1, is_remote=True))
    attributes = {"k": 1, "l": "x"}
    span = start_child(starter(seen), parent.get_span_context(), "a", attributes)
    assert span is not None
    changed(span, how)
    before = len(seen.names)
    found = span.end_unobserved({"celery.state": "SUCCESS"})
    assert len(seen.names) == before
    if how:
        assert found is None
        assert span.is_recording() is (how != "end")
        assert "celery.state" not in (span.attributes or {})
        return
    assert found is not None
    origin, ended = found
    assert origin is span.origin
    assert ended == span.end_time
    assert ended >= (span.start_time or 0)
    assert not span.is_recording()
    assert span.attributes == {**attributes, "celery.state": "SUCCESS"}
    span.set_attribute("late", 1)  # refused, as by any span that has ended
    assert "late" not in (span.attributes or {})
    assert attributes == {"k": 1, "l": "x"}  # other spans have them, too


def test_of_two_threads_that_look_at_once_neither_loses_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second one is faster."""
    parent = trace_api.get_current_span(parent_context(1, is_remote=True))
    span = start_child(
        starter(RecordingProcessor()), parent.get_span_context(), "a", {"k": 1}
    )
    assert span is not None
    make = lazy_span.SpanTemplate.materialize

    def make_late(*arguments: Any) -> Any:
        monkeypatch.undo()
        second = threading.Thread(target=span.set_attribute, args=("second", 2))
        second.start()
        second.join()
        return make(*arguments)

    monkeypatch.setattr(lazy_span.SpanTemplate, "materialize", make_late)
    span.set_attribute("first", 1)
    assert span.attributes == {"k": 1, "first": 1, "second": 2}


def test_a_copy_of_a_span_is_that_span_so_far() -> None:
    parent = trace_api.get_current_span(parent_context(1, is_remote=True))
    span = start_child(
        starter(RecordingProcessor()), parent.get_span_context(), "a", {"k": 1}
    )
    assert span is not None
    twin = copy.copy(span)
    assert (twin.name, dict(twin.attributes or {})) == ("a", {"k": 1})
    with pytest.raises(AttributeError):
        _ = span.no_such_thing
