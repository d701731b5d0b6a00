# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The descriptors that Celery closes: ``--detach``, ``-B``, and a SIGHUP."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Modules in which Celery closes unknown descriptors: ``--detach``, ``-B``, SIGHUP.
_CLOSERS = frozenset({"celery.platforms", "celery.beat", "celery.apps.worker"})


def keep_descriptors_open(descriptors: Callable[[], Sequence[int]]) -> None:
    """Make Celery's ``close_open_fds`` (``-B``, ``--detach``) spare our descriptors.

    Directly before it executes itself (SIGHUP), it closes nothing: the kernel does that,
    once the threads are gone. gRPC's abort the process if their descriptors are closed
    under them, and the worker was gone (1 restart in 30).

    An application that calls it gets Celery's own.
    """
    from celery import platforms

    close = platforms.close_open_fds

    def close_open_fds(keep: Sequence[Any] | None = None) -> None:
        caller = sys._getframe(1).f_globals.get("__name__")
        if caller not in _CLOSERS:
            close(keep)
            return
        spared = [*(keep or ()), *descriptors()]
        if caller != "celery.apps.worker" or not _close_at_exec(spared):
            close(spared)

    platforms.close_open_fds = close_open_fds


def _close_at_exec(spared: Sequence[Any]) -> bool:
    """Have the kernel close all descriptors but some at an exec; False if it cannot."""
    from kombu.utils.compat import maybe_fileno

    if sys.platform not in ("linux", "darwin"):  # others may list three in /dev/fd
        return False
    try:
        descriptors = {int(name) for name in os.listdir("/dev/fd") if name.isdigit()}
    except OSError:
        return False
    for descriptor in descriptors.difference(map(maybe_fileno, spared)):
        with suppress(OSError):  # the folder's own
            os.set_inheritable(descriptor, False)
    return True
