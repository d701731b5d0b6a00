"""Private names of the SDK's metrics."""

from __future__ import annotations

from dataclasses import fields

from otel_celery_launcher.compat.metric_points import Exemplar


def test_an_exemplar_has_the_fields_that_we_give() -> None:
    assert [field.name for field in fields(Exemplar)] == [
        "filtered_attributes",
        "value",
        "time_unix_nano",
        "span_id",
        "trace_id",
    ]
