"""The list in opentelemetry-bootstrap that we lean on."""

from __future__ import annotations

from packaging.requirements import Requirement

from otel_celery_launcher.compat import (
    contrib_bootstrap,
)


def test_upstreams_table_can_be_read() -> None:
    rows = contrib_bootstrap.known_instrumentations()
    names = {Requirement(package).name for _, package in rows}
    assert "opentelemetry-instrumentation-celery" in names
    assert all(Requirement(library).specifier is not None for library, _ in rows)
    defaults = map(Requirement, contrib_bootstrap.default_instrumentations())
    assert "opentelemetry-instrumentation-threading" in {each.name for each in defaults}
