# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What the exporter process is started with: a Python, its path and its input.

``sys.executable`` is not always a Python: uWSGI has it in itself, and writes its own path
there. Runs wherever an exporter process is started.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# What is written to the pipe fits its buffer: 16 pages at least on Linux and macOS.
PIPE_BYTES = 16 * 1024


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


def secret_input(text: str) -> int:
    """Return what the exporter process reads from its standard input.

    By a pipe: not in its environment, and in no file. What does not fit is left out.
    """
    if not text or len(text) > PIPE_BYTES:
        return subprocess.DEVNULL
    read, write = os.pipe()
    try:
        os.write(write, text.encode())
    finally:
        os.close(write)
    return read


def application_path() -> list[str]:
    """Return our import path, the working directory last: it comes after the stdlib."""
    path = [str(entry) for entry in sys.path if os.path.isabs(entry)]
    try:
        here = os.getcwd()
    except OSError:  # it was removed
        return path
    return sorted(path, key=lambda entry: entry == here)
