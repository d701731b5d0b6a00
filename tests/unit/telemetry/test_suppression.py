"""Spans that are not begun."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.instrumentation.utils import (
    is_instrumentation_enabled,
    suppress_instrumentation,
)
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    Decision,
    Sampler,
    SamplingResult,
)

from otel_celery_launcher.compat import (
    contexts,
    providers,
)
from otel_celery_launcher.ipc.counters import Counters
from otel_celery_launcher.telemetry.suppression import (
    CELERY_SCOPE,
    LEFT_OUT,
    SpanSuppressor,
)


def tracer_of(scope: str, **rules: Any) -> tuple[trace.Tracer, list[str]]:
    left_out: list[str] = []
    given: dict[str, Any] = {
        "client_roots": "never", "has_own_clients": False, "has_duplicates": False,
        "roots_per_second": 0.0,
    }  # fmt: skip
    suppressor = SpanSuppressor(**(given | rules), on_left_out=left_out.append)
    provider = providers.ForkableTracerProvider(
        wrap_tracer=suppressor.wrap, shutdown_on_exit=False
    )
    return provider.get_tracer(scope), left_out


def test_the_rules_stand_before_both_ways_to_start_a_span() -> None:
    tracer, _ = tracer_of("client")
    client = trace.SpanKind.CLIENT
    assert not tracer.start_span("a", kind=client).is_recording()
    assert not tracer.start_span("a", None, client).is_recording()
    with tracer.start_as_current_span("a", kind=client) as span:
        assert span is LEFT_OUT
    with tracer.start_as_current_span("work"):
        assert tracer.start_span("a", None, client).is_recording()
    with_parent = trace.set_span_in_context(tracer.start_span("work"))
    assert tracer.start_span("a", with_parent, client).is_recording()


def test_the_spans_of_celery_do_not_pass_the_rules() -> None:
    tracer, _ = tracer_of(CELERY_SCOPE)
    assert tracer.start_span("a", kind=trace.SpanKind.CLIENT).is_recording()


def test_what_is_over_the_budget_is_told_by_name() -> None:
    tracer, left_out = tracer_of("own", roots_per_second=1.0)
    spans = [tracer.start_span(f"span {number}") for number in range(12)]
    assert [span.is_recording() for span in spans] == [True] * 10 + [False] * 2
    assert left_out == ["span 10", "span 11"]


def test_instrumentations_heed_what_suppresses_them() -> None:
    token = context_api.attach(contexts.suppressing(outside_spans_only=False))
    assert not is_instrumentation_enabled()
    assert contexts.is_suppressed(None, is_below_a_span=True)
    inner = context_api.attach(contexts.unsuppressed())
    assert is_instrumentation_enabled()
    assert not contexts.is_suppressed(None, is_below_a_span=False)
    context_api.detach(inner)
    context_api.detach(token)
    assert is_instrumentation_enabled()
    assert not contexts.is_suppressed(None, is_below_a_span=False)


def test_where_suppressing_ends_at_a_span_the_given_context_counts() -> None:
    tracer, _ = tracer_of("client", client_roots="always")
    with_parent = trace.set_span_in_context(tracer.start_span("work"))
    token = context_api.attach(contexts.suppressing(outside_spans_only=True))
    client = trace.SpanKind.CLIENT
    assert not tracer.start_span("a", kind=client).is_recording()
    assert tracer.start_span("a", with_parent, client).is_recording()
    context_api.detach(token)


def test_an_application_that_suppresses_others_keeps_its_own_spans() -> None:
    tracer, _ = tracer_of("own", client_roots="always")
    with tracer.start_as_current_span("work"), suppress_instrumentation():
        span = tracer.start_span("call", kind=trace.SpanKind.CLIENT)
    assert span.is_recording()


def test_what_is_inside_a_span_that_is_left_out_is_left_out_with_it() -> None:
    tracer, left_out = tracer_of("own", roots_per_second=0.1)
    tracer.start_span("takes the budget")
    with tracer.start_as_current_span("job"):
        assert not tracer.start_span("step").is_recording()
    assert left_out == ["job"]
    server = tracer.start_span("request", kind=trace.SpanKind.SERVER)
    assert server.is_recording()


def test_names_that_are_none_are_counted_all_the_same() -> None:
    counters = Counters()
    counters.rows[0].add_left_out(7)
    counters.rows[0].add_left_out("\ud800" * 200)
    assert counters.left_out == 2


def test_a_tracer_may_be_asked_for_in_any_way() -> None:
    provider = providers.ForkableTracerProvider(
        wrap_tracer=lambda *_: None, shutdown_on_exit=False
    )
    tracers = (
        provider.get_tracer(instrumenting_module_name=""),
        provider.get_tracer("a"),
    )
    assert all(each.start_span("b").is_recording() for each in tracers)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_driver_is_quiet_below_a_statement_that_is_not_sampled(keeps: bool) -> None:
    suppressor = SpanSuppressor(
        client_roots="always", has_own_clients=True, has_duplicates=False,
        roots_per_second=0.0, on_left_out=lambda _: None,
    )  # fmt: skip
    provider = providers.ForkableTracerProvider(
        wrap_tracer=suppressor.wrap, shutdown_on_exit=False,
        sampler=ALWAYS_ON if keeps else OnlyDrivers(),
    )  # fmt: skip
    outer = provider.get_tracer("opentelemetry.instrumentation.sqlalchemy")
    driver = provider.get_tracer("opentelemetry.instrumentation.sqlite3")
    client = trace.SpanKind.CLIENT
    statement = outer.start_span("select", kind=client)
    assert not driver.start_span("select", kind=client).is_recording()
    statement.end()
    assert driver.start_span("select", kind=client).is_recording()


class OnlyDrivers(Sampler):
    """Keeps every second span."""

    def __init__(self) -> None:
        self._count = 0

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        self._count += 1
        kept = self._count % 2 == 0
        return SamplingResult(Decision.RECORD_AND_SAMPLE if kept else Decision.DROP)

    def get_description(self) -> str:
        return "every second"


def test_a_suppressed_client_is_below_nothing_new() -> None:
    tracer, _ = tracer_of("client", client_roots="always")
    with tracer.start_as_current_span("work") as work:
        token = context_api.attach(contexts.suppressing(outside_spans_only=False))
        span = tracer.start_span("a", kind=trace.SpanKind.CLIENT)
        context_api.detach(token)
    assert not span.is_recording()
    assert span.get_span_context() == work.get_span_context()
