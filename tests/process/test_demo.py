"""`otel-celery demo`: the trace of a real task."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from otel_celery_launcher.demo.command import EXPECTED, check, expected_paths
from otel_celery_launcher.receiver.spans import ReceivedSpan
from otel_celery_launcher.tail.screen import Screen
from otel_celery_launcher.tail.waterfall import arrange

if TYPE_CHECKING:
    from tests.support.harness import Launcher


def test_demo_shows_a_whole_trace_within_twenty_seconds(launcher: Launcher) -> None:
    """README: `otel-celery demo` needs no broker, no collector and no network."""
    start = time.monotonic()
    found = launcher.run("demo")
    assert found.returncode == 0, found.stdout
    assert time.monotonic() - start < 20
    lines = found.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines if "spans, 1 trace" not in line)
    marks = [line.split()[-1] for line in lines if line]
    assert (marks.count("retry"), marks.count("ERROR")) == (1, 1)
    assert "tenant_id=acme request_source=web" in found.stdout


def test_demo_does_not_use_the_users_settings(launcher: Launcher) -> None:
    found = launcher.run(
        "demo",
        OTEL_SDK_DISABLED="true",
        OTEL_TRACES_SAMPLER="always_off",
        CELERY_BROKER_URL="redis://127.0.0.1:9",
    )
    assert found.returncode == 0, found.stdout


def spans() -> list[ReceivedSpan]:
    """Return what the demo should receive."""
    found: list[ReceivedSpan] = []
    above: list[ReceivedSpan] = []
    for index, line in enumerate(EXPECTED.splitlines()):
        depth = len(line) - len(line.lstrip())
        name = line.strip()
        attributes = {}
        if name == "run/charge_card" and not any(s.name == name for s in found):
            attributes["celery.retry.reason"] = "busy"
        if name == "run/send_email":
            attributes = {
                "demo.baggage.tenant_id": "acme",
                "demo.baggage.request_source": "web",
            }
        span = ReceivedSpan(
            name=name, kind="INTERNAL", trace_id="1", span_id=str(index),
            parent_id=above[depth - 1].span_id if depth else "",
            start=index, end=index + 0.5, is_error=name == "run/update_search",
            status_text="", attributes=attributes, events=(), links=(),
            resource={"service.name": "shop"}, scope="",
        )  # fmt: skip
        found.append(span)
        above = [*above[:depth], span]
    return found


def test_check_accepts_the_whole_trace() -> None:
    assert check(arrange(spans())) == []


def test_check_names_each_missing_span() -> None:
    """A demo that cannot fail proves nothing."""
    for index, path in enumerate(expected_paths()):
        found = spans()
        del found[index]
        assert f"missing: {path}" in check(arrange(found))


def test_check_refuses_wrong_parents_second_spans_and_lost_baggage() -> None:
    found = spans()
    found[-1] = replace(found[-1], parent_id=found[0].span_id)
    assert len(check(arrange(found))) == 2
    found = spans()
    assert check(arrange([*found, replace(found[-1], span_id="again")])) != []
    found = spans()
    found[9] = replace(found[9], attributes={})
    assert len(check(arrange(found))) == 2
    found = spans()
    found[-1] = replace(found[-1], is_error=False)
    assert check(arrange(found)) == ["run/update_search is not marked ERROR"]


def test_waterfall_fits_80_columns_whatever_the_names() -> None:
    long = [
        replace(span, name=span.name * 9, resource={"service.name": "s" * 99})
        for span in spans()
    ]
    assert all(len(line) <= 80 for line in Screen().plain(arrange(long)))
