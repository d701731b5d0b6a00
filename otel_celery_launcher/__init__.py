# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""OpenTelemetry tracing for Celery by its command line: ``otel-celery``.

Importing this package starts nothing and reads no environment.
"""

from __future__ import annotations

__version__ = "0.1.0"


def setup(role: str = "producer") -> None:
    """Set up tracing in this process, as ``otel-celery exec`` does for a whole program.

    For hosts whose command line cannot change (mod_wsgi, uWSGI, a managed runtime). Call
    it before the libraries that are to be traced are imported; a second call does
    nothing, under ``otel-celery`` the first one does neither. Settings come from the
    environment; a problem is a line on standard error, never an exception.

    Args:
        role: The role of this process, for the service's name and ``celery.role``.
            ``worker`` and ``beat`` are for programs that run Celery themselves.

    Raises:
        otel_celery_launcher.errors.LauncherError: A variable has a bad value and
            OTEL_CELERY_STRICT is true.
    """
    from otel_celery_launcher.launch.program import set_up

    set_up(role)
