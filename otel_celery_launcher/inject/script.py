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
    folder = os.path.dirname(os.path.abspath(__file__))
    instead_of = os.environ.get("_OTEL_CELERY_INSTEAD_OF")  # as in ipc/inherited.py
    if sys.path and os.path.abspath(sys.path[0]) == folder:
        script = os.path.realpath(instead_of or "celery")  # a module: this directory
        sys.path[0] = os.path.dirname(script)
    if instead_of:  # Celery names it in its texts, and executes it at a SIGHUP
        sys.argv[0] = instead_of
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
