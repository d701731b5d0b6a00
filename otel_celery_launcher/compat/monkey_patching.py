# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""gevent and eventlet, which replace parts of the standard library in place.

If ``ssl``, ``urllib3`` or gRPC is imported before they patch, it keeps the originals:
each HTTPS call of urllib3 then ends in RecursionError, and gRPC stops the event loop of
the whole process. So our code imports no such module before the program does. Runs in
programs that are not Celery's; imports neither library unless a variable asks it to
patch.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Pools and servers that run on greenlets are named after the library.
LIBRARIES = ("gevent", "eventlet")

# Read by opentelemetry-instrument, and set by the OpenTelemetry operator
# (opentelemetry/instrumentation/environment_variables.py, 0.54b0 and later).
PATCH_VARIABLE = "OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH"


def may_be_patched() -> bool:
    """Return whether the program could patch: whether a library for it is installed."""
    return any(find_spec(name) is not None for name in LIBRARIES)


def is_patched() -> bool:
    """Return whether the threads of this process are greenlets now.

    Called for each span, so it only looks for the libraries in ``sys.modules``.
    """
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return True
    eventlet = sys.modules.get("eventlet.patcher")
    return eventlet is not None and bool(eventlet.is_monkey_patched("thread"))


def patch_where_asked(environ: Mapping[str, str]) -> list[str]:
    """Patch by gevent where upstream's variable asks for it; before other imports.

    Returns:
        A line if that is not possible.
    """
    value = environ.get(PATCH_VARIABLE)
    if not value:
        return []
    if value != "patch_all":
        return [
            f"{PATCH_VARIABLE} is {value!r}: expected patch_all; nothing is patched"
        ]
    try:
        from gevent import monkey
    except ImportError as exc:
        return [
            f"{PATCH_VARIABLE} is {value!r}: expected gevent to be installed ({exc});"
            " nothing is patched; type: pip install gevent"
        ]
    monkey.patch_all()
    return []
