"""The shop, which sets itself up: its command line cannot change."""

from __future__ import annotations

from otel_celery_launcher import setup

setup(role="worker")

from shop import app, noop  # noqa: E402, F401
