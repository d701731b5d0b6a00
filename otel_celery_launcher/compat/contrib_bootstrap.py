# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Upstream's table of instrumentations, which is written by a script of its own.

See ``compat/__init__.py``; the tests are in
``tests/unit/compat/test_contrib_bootstrap.py``.
"""

from __future__ import annotations

from opentelemetry.instrumentation import bootstrap_gen


def known_instrumentations() -> list[tuple[str, str]]:
    """Return what each library wants, as requirements: the library, the package.

    All packages of OpenTelemetry's own are of the release that is installed.
    """
    return [(row["library"], row["instrumentation"]) for row in bootstrap_gen.libraries]


def default_instrumentations() -> list[str]:
    """Return packages for parts of Python itself, as requirements."""
    return list(bootstrap_gen.default_instrumentations)
