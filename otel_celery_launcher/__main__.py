# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m otel_celery_launcher``: the same as the ``otel-celery`` script."""

from __future__ import annotations

from otel_celery_launcher.cli import run

if __name__ == "__main__":
    run()
