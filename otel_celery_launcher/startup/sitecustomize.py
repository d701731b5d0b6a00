# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Run by Python at the start of each process below ``otel-celery exec``.

Its folder is on ``PYTHONPATH``, so it runs before the program's first import. It
decides whether this process is the program to trace, removes its folder from
``sys.path``, and runs the ``sitecustomize`` that it hid. Any Python from 3.7 on may run
this file, so it imports nothing but the standard library until that is decided.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _doctor() -> Callable[[str, str], None] | None:
    """Return what ``exec --doctor`` does at the start of the program, if it is on."""
    if "_OTEL_CELERY_DOCTOR" not in os.environ:
        return None

    def examine(role: str, service: str) -> None:
        from otel_celery_launcher.doctor.program import examine_at_the_start_of_celery

        examine_at_the_start_of_celery(role, service)

    return examine


def _start() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [each for each in sys.path if os.path.abspath(each) != folder]
    try:
        from otel_celery_launcher.launch.program import start_program
    except (ImportError, OSError) as exc:  # OSError: too many open files
        if "_OTEL_CELERY_PROGRAM" not in os.environ:
            os.environ["_OTEL_CELERY_PROGRAM"] = ":" + str(os.getpid())
            sys.stderr.write(
                f"otel-celery: {sys.executable} cannot import otel_celery_launcher ({exc}): the program"
                " runs untraced; install otel-celery-launcher there\n"
            )
    else:
        start_program(folder, _doctor())
    own = sys.modules.pop("sitecustomize")
    try:
        importlib.import_module("sitecustomize")
    except ModuleNotFoundError as exc:
        if exc.name != "sitecustomize":
            raise
    finally:
        sys.modules.setdefault("sitecustomize", own)  # the import system looks for it


_start()
