"""The application's own spans, compared with those of the SDK."""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import SpanLimits, Tracer, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from otel_celery_launcher.compat import contexts
from otel_celery_launcher.compat.quick_spans import (
    QuickSpan,
    QuickTracer,
    start_as_current_span,
)
from otel_celery_launcher.ipc.span_frames import encode_span
from tests.support.spans import SPAN_CONTEXT, RecordingProcessor, parent_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Span

Act = "Callable[[Span], object]"


class Pair:
    """A tracer of the SDK's, and ours on top of another one; both with one processor."""

    def __init__(self, **options: Any) -> None:
        self.seen, self.front = RecordingProcessor(), RecordingProcessor()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(self.front)
        others = TracerProvider(
            resource=self.provider.resource, shutdown_on_exit=False, **options
        )
        others.add_span_processor(self.seen)
        self.sdk = cast("Tracer", others.get_tracer("t", "1"))
        self.tracer = cast("Tracer", self.provider.get_tracer("t", "1"))
        self.quick = QuickTracer(self.tracer, self.front)

    def start(self, *arguments: Any, flags: int = 1, **named: Any) -> list[Span | None]:
        """Start one span of each kind below the same parent."""
        context = parent_context(flags, is_remote=False)
        parent = trace_api.get_current_span(context).get_span_context()
        kind = named.pop("kind", SpanKind.INTERNAL)
        named.setdefault("start_time", 5)
        return [
            self.quick.start(parent, "a", kind, *arguments, **named),
            self.sdk.start_span("a", context, kind, *arguments, **named),
        ]

    def ended(self) -> list[ReadableSpan]:
        return [*self.front.spans, *self.seen.spans]


def without_id(span: ReadableSpan) -> tuple[Any, ...]:
    assert span.context is not None
    events = [(each.name, dict(each.attributes or {})) for each in span.events]
    links = [(each.context, dict(each.attributes or {})) for each in span.links]
    return (
        span.name, span.context.trace_id, span.context.trace_flags,
        span.context.trace_state, span.parent, span.kind, span.start_time, span.end_time,
        span.status.status_code, span.status.description, dict(span.attributes or {}),
        span.dropped_attributes, events, span.dropped_events, links, span.dropped_links,
        span.resource, span.instrumentation_scope,
    )  # fmt: skip


def fail(span: Span) -> None:
    span.record_exception(ValueError("no"))
    span.set_status(StatusCode.ERROR, "no")


ACTS: dict[str, Callable[[Span], object]] = {
    "nothing": lambda _: None,
    "attribute": lambda span: span.set_attribute("k", "v"),
    "attributes": lambda span: span.set_attributes({f"k{n}": n for n in range(9)}),
    "attribute of no kind": lambda span: span.set_attribute("k", cast("Any", object)),
    "event": lambda span: span.add_event("e", {"k": 1}),
    "events": lambda span: [span.add_event(f"e{number}") for number in range(9)],
    "link": lambda span: span.add_link(SPAN_CONTEXT, {"k": 1}),
    "name": lambda span: span.update_name("b"),
    "status": lambda span: span.set_status(StatusCode.OK),
    "exception": fail,
}


@pytest.mark.parametrize("is_limited", [False, True])
@pytest.mark.parametrize("act", ACTS)
def test_a_span_becomes_what_the_sdk_makes_of_it(act: str, is_limited: bool) -> None:
    limits = SpanLimits(
        max_span_attributes=4, max_events=3, max_links=1, max_span_attribute_length=3
    )
    pair = Pair(span_limits=limits) if is_limited else Pair()
    for span in pair.start({"first": "value", "n": [1, 2]}, kind=SpanKind.CLIENT):
        assert span is not None
        assert span.is_recording()
        ACTS[act](span)
        span.end(9)
        assert not span.is_recording()
        span.set_attribute("late", 1)
        span.add_event("late")
    ours, theirs = pair.ended()
    assert isinstance(ours, QuickSpan)
    assert encode_span(ours)[:1] == encode_span(theirs)[:1]
    assert without_id(ours) == without_id(theirs)
    assert set(vars(ours)) >= set(vars(theirs))


def test_a_span_that_nobody_touches_has_no_part_that_it_does_not_need() -> None:
    pair = Pair()
    span, theirs = pair.start()
    assert span is not None
    assert theirs is not None
    span.end(9)
    theirs.end(9)
    ours, other = pair.ended()
    assert not {"_lock", "_attributes", "_events", "_links"} & set(vars(ours))
    assert without_id(ours) == without_id(other)


def test_a_second_end_is_said_and_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pair = Pair()
    span, _ = pair.start()
    assert span is not None
    span.end(9)
    with caplog.at_level(logging.WARNING):
        span.end(10)
    assert "ended span" in caplog.text
    assert [each.end_time for each in pair.front.spans] == [9]


def test_a_copy_of_a_span_is_a_span() -> None:
    span, _ = Pair().start()
    other = copy.copy(span)
    assert isinstance(other, QuickSpan)
    other.set_attribute("k", 1)
    assert dict(other.attributes or {}) == {"k": 1}


def test_a_span_below_one_that_is_not_sampled_is_not_recorded() -> None:
    ours, theirs = Pair().start(flags=0)
    assert ours is not None
    assert theirs is not None
    assert type(ours) is type(theirs) is trace_api.NonRecordingSpan
    assert not ours.get_span_context().trace_flags.sampled


def test_where_the_sdk_has_to_be_asked_no_span_is_started_here() -> None:
    pair = Pair()
    assert pair.start({}, [trace_api.Link(SPAN_CONTEXT)])[0] is None
    pair.provider.sampler = pair.tracer.sampler = ParentBased(
        ALWAYS_OFF, local_parent_sampled=ALWAYS_OFF
    )
    assert pair.start()[0] is None
    assert Pair(sampler=ALWAYS_OFF).start()[0] is None


def test_a_processor_that_is_added_meanwhile_sees_the_end() -> None:
    pair, added = Pair(), RecordingProcessor()
    span, _ = pair.start()
    assert span is not None
    pair.provider.add_span_processor(added)
    span.end()
    assert pair.front.names == added.names == ["a"]
    assert pair.start()[0] is None


# What ``start_as_current_span`` returns.


class ErrorInBlockError(Exception):
    """Of a block."""


def run(
    start: Callable[..., Any],
    error: BaseException | None,
    context: Context,
    **named: Any,
) -> None:
    with start("a", context, **named) as span:
        assert trace_api.get_current_span() is span
        span.set_attribute("k", 1)
        if error is not None:
            raise error


@pytest.mark.parametrize("sets", [True, False])
@pytest.mark.parametrize("records", [True, False])
@pytest.mark.parametrize(
    "error", [None, ErrorInBlockError("no"), StopIteration(), KeyboardInterrupt()]
)
def test_a_block_ends_as_with_the_sdk(
    error: BaseException | None, records: bool, sets: bool
) -> None:
    pair = Pair()
    context = parent_context(1, is_remote=False)
    before = trace_api.get_current_span()
    for tracer in (pair.tracer, pair.sdk):
        start = (
            start_as_current_span(tracer)
            if tracer is pair.tracer
            else tracer.start_as_current_span
        )
        named = {"record_exception": records, "set_status_on_exception": sets}
        if error is None:
            run(start, error, context, **named)
        else:
            with pytest.raises(type(error)) as caught:
                run(start, error, context, **named)
            assert caught.value is error
        assert trace_api.get_current_span() is before
    ours, theirs = pair.ended()
    assert ours.status.status_code is theirs.status.status_code
    assert ours.status.description == theirs.status.description
    assert [each.name for each in ours.events] == [each.name for each in theirs.events]
    assert dict(ours.attributes or {}) == dict(theirs.attributes or {})


def test_a_block_may_leave_its_span_open() -> None:
    pair = Pair()
    with start_as_current_span(pair.tracer)("a", end_on_exit=False) as span:
        pass
    assert span.is_recording()
    assert pair.front.names == []


def test_a_function_and_a_coroutine_can_be_decorated() -> None:
    pair = Pair()
    start = start_as_current_span(pair.tracer)

    @start("function")  # type: ignore[untyped-decorator]
    def function(value: int) -> int:
        return value + 1

    @start("coroutine")  # type: ignore[untyped-decorator]
    async def coroutine(value: int) -> bool:
        await asyncio.sleep(0)
        return trace_api.get_current_span().is_recording() and value == 1

    assert [function(1), function(2)] == [2, 3]
    assert asyncio.run(coroutine(1))
    assert pair.front.names == ["function", "function", "coroutine"]


def test_an_applications_change_of_the_sdks_class_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = Pair()
    start = start_as_current_span(pair.tracer)  # made before the change
    given: list[dict[str, Any]] = []
    of_the_sdk = Tracer.start_span

    def start_span(self: Tracer, *args: Any, **named: Any) -> Span:
        given.append(named)
        return of_the_sdk(self, *args, **named)

    monkeypatch.setattr(Tracer, "start_span", start_span)
    with start("a", attributes={"k": 1}):
        pass
    assert given[0]["attributes"] == {"k": 1}
    pair.quick._known = pair.quick._look()
    context = parent_context(1, is_remote=False)
    parent = trace_api.get_current_span(context).get_span_context()
    assert pair.quick.start(parent, "a", SpanKind.INTERNAL) is None
    own = object()
    monkeypatch.setattr(Tracer, "start_as_current_span", lambda *_, **__: own)
    assert start("a") is own


def test_a_wrapper_of_the_tracers_own_start_gets_names() -> None:
    """As the SDK gives them."""
    pair = Pair()
    given: list[dict[str, Any]] = []
    of_the_sdk = pair.tracer.start_span

    def start_span(*args: Any, **named: Any) -> Span:
        given.append(named)
        assert args == ()
        return of_the_sdk(**named)

    pair.tracer.start_span = start_span  # type: ignore[method-assign]
    with start_as_current_span(pair.tracer)("a", attributes={"k": 1}):
        pass
    assert given[0]["attributes"] == {"k": 1}


def test_a_block_that_is_never_left_ends_when_it_is_forgotten() -> None:
    """As the SDK's, which is a generator."""
    pair = Pair()
    before = trace_api.get_current_span()
    for start in (start_as_current_span(pair.tracer), pair.sdk.start_as_current_span):
        manager = start("a")
        manager.__enter__()
        del manager
        assert trace_api.get_current_span() is before
    assert [each.name for each in pair.ended()] == ["a", "a"]


def test_a_limit_within_the_end_of_a_block_is_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = Pair()

    def limit(token: object) -> None:
        contexts._reset(token)
        raise ErrorInBlockError("limit")

    monkeypatch.setattr(contexts, "detach", limit)
    start = start_as_current_span(pair.tracer)
    with pytest.raises(ErrorInBlockError):
        run(start, None, parent_context(1, is_remote=False))
    (span,) = pair.front.spans
    assert span.status.status_code is StatusCode.ERROR


def test_two_threads_that_end_a_span_hand_it_over_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pair = Pair()
    for has_changed in (False, True):
        span, _ = pair.start()
        assert span is not None
        if has_changed:
            span.set_attribute("k", 1)
        ready = threading.Barrier(8)

        def end(span: Span = span, ready: threading.Barrier = ready) -> None:
            ready.wait()
            span.end()

        threads = [threading.Thread(target=end) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert pair.front.names == ["a", "a"]
    assert caplog.text.count("ended span") == 14
