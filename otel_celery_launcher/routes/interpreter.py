# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The Python that runs the exporter process: the one that runs here.

``sys.executable`` is not always a Python: uWSGI has it in itself, and writes its own path
there. Runs wherever an exporter process is started.
"""

from __future__ import annotations

import sys
from pathlib import Path


def python_executable() -> str:
    """Return the path of a Python of this version, of this environment if it has one."""
    if not sys.executable or not Path(sys.executable).name.startswith("uwsgi"):
        return sys.executable
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix):
        for name in (version, "python3", "python"):
            candidate = Path(prefix, "bin", name)
            if candidate.is_file():
                return str(candidate)
    return sys.executable
