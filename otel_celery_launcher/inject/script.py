# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The command of an injected tree: executed instead of ``celery``, or by hand.

``otel-celery inject`` puts this file at the top of the tree, as ``otel-celery``. By hand:
``PYTHONPATH=/otel python /otel/otel-celery doctor -A app``. ``sitecustomize.py`` has set
the path. Runs in the process that is Celery's.
"""

from __future__ import annotations

import os
import sys


def run() -> None:
    """Run the command with the path that its Celery would have had."""
    first = os.environ.get("_OTEL_CELERY_FIRST_PATH")  # as in ipc/inherited.py
    folder = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.abspath(sys.path[0]) == folder:
        sys.path[:1] = [first] if first else []
    try:
        from otel_celery_launcher.cli import run
    except ImportError as exc:
        sys.exit(
            f"otel-celery: the injected tree {folder} does not fit here ({exc}): expected"
            f" {folder} in PYTHONPATH, and one of the tree's Pythons"
        )
    run()


if __name__ == "__main__":
    run()
