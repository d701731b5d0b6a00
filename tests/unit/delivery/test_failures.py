"""What an exporter's error means, in words: texts of the libraries that exporters use."""

from __future__ import annotations

import pytest

from otel_celery_launcher.delivery.failures import explain


@pytest.mark.parametrize(
    "text",
    [
        "UNAVAILABLE: DNS resolution failed for c:4317: C-ares status is not ARES_SUCCESS",
        # grpc 1.80 and later
        "UNAVAILABLE: errors resolving c:443: [field:hostname lookup error:address"
        " lookup failed for c:443: Domain name not found]",
        "NameResolutionError: Failed to resolve 'c' ([Errno -2] Name or service not known)",
    ],
)
def test_a_name_that_is_not_known(text: str) -> None:
    failure = explain(text, "/v1/traces")
    assert failure.id == "OC304"
    assert "cannot be resolved" in failure.reason
    assert "no DNS or no way out" in failure.advice
