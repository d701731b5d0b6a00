# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Whether what an application logs by loguru, which is no ``logging``, comes to ``logging``.

See ``compat/__init__.py``; the tests are in ``tests/unit/compat/test_loguru_sinks.py``.
Verified with loguru 0.7.
"""

from __future__ import annotations

import sys
from typing import Any


def is_loguru_apart() -> bool:
    """Return whether loguru is imported, and none of its sinks is a handler of ``logging``."""
    module: Any = sys.modules.get("loguru")
    logger = getattr(module, "logger", None)
    if logger is None:
        return False
    handlers = getattr(getattr(logger, "_core", None), "handlers", {})
    sinks = [type(getattr(each, "_sink", None)) for each in dict(handlers).values()]
    return all(sink.__name__ != "StandardSink" for sink in sinks)
