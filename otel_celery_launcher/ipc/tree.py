# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The part of an injected tree that only the exporter process imports.

``launch/injected.py`` says what a tree is. Runs in any process below one, and in
``otel-celery inject``; imports nothing of OpenTelemetry.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata

from otel_celery_launcher.ipc import inherited

# What a tree has for each Python: this package, and what else is pure Python.
LAUNCHER = "launcher"
PURE = ("sdk", "conventions", "instrumentations", "packages")


def exporter_path() -> list[str]:
    """Return the path of the exporter process; empty where there is no tree.

    Nothing of the application's: which gRPC and protobuf it has does not matter.
    """
    home = os.environ.get(inherited.TREE)
    if not home:
        return []
    return [
        os.path.join(home, LAUNCHER),
        exporter_folder(home),
        *(os.path.join(home, each) for each in PURE),
    ]


def exporter_folder(
    home: str, library: str | None = None, machine: str | None = None
) -> str:
    """Return where a tree has what is compiled for a machine and its C library.

    Args:
        home: The part of the tree that is for this Python.
        library: ``glibc`` or ``musl``; this Python's if left out.
        machine: As ``uname -m`` has it; this one if left out.
    """
    name = f"exporter-{library or c_library()}-{machine or os.uname().machine}"
    return os.path.join(home, name)


def c_library() -> str:
    """Return ``glibc`` or ``musl``: what this Python was built for."""
    try:
        is_glibc = bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (OSError, ValueError):  # musl does not know the name
        is_glibc = False
    return "glibc" if is_glibc or sys.platform != "linux" else "musl"


def has_component(group: str, name: str) -> bool:
    """Return whether the exporter process's part has a component of an entry point group."""
    home = os.environ.get(inherited.TREE)
    if not home:
        return False
    path = [exporter_folder(home)]
    return any(
        each.entry_points.select(group=group, name=name)
        for each in metadata.distributions(path=path)
    )
