"""What may be shown of an endpoint."""

from __future__ import annotations

import pytest

from otel_celery_launcher.settings.advice import printable_endpoint
from tests.support.hostile_values import PRIVATE_KEY


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("https://me:s3cret@host:1/x", "https://host:1"),
        ("https://me:s3@cret@host/x", "https://host"),
        ("me:s3cret@host:4317", "host:4317"),
        ("https://host/v1/traces?api_key=s3cret", "https://host"),
        ("http://host:4317", "http://host:4317"),
        ("http://me:s3cret@[::1]:4317/x", "http://[::1]:4317"),
        ("[::1]:4317", "[::1]:4317"),
        ("ipv4:10.0.0.1:4317,10.0.0.2:4317", "ipv4:10.0.0.1:4317,10.0.0.2:4317"),
        ("unix:///run/otel.sock", "unix:///run/otel.sock"),
        ("dns://me:s3cret@8.8.8.8/host:4317", "dns:(not shown)"),
        (PRIVATE_KEY, "(not shown)"),
    ],
)
def test_keys_in_endpoints_are_not_shown(endpoint: str, shown: str) -> None:
    assert printable_endpoint(endpoint) == shown
