# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``OTEL_CELERY_HEALTH_FILE``: a file that is new while the worker works.

Touched when the worker is ready and every two seconds from then on by a timer of its
consumer: Celery's own heartbeats come from the same timer. A worker that hangs, or has
lost its broker, touches nothing; one that ends removes the file. So a probe needs no
broker: ``launch/healthcheck.py``.

Runs in the worker's main process.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.utils.nodenames import node_format

from otel_celery_launcher import messages
from otel_celery_launcher.compat import celery_private
from otel_celery_launcher.settings.checks import safe_repr

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_celery_launcher.ipc.process_claim import ProcessClaim

# Celery's own interval of heartbeats (celery/worker/heartbeat.py).
TOUCH_SECONDS = 2.0

# Not through a link that somebody else has put there.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class HealthFile:
    """Touches and removes the file; its path may hold ``%n``, ``%h``, ``%d``.

    Args:
        path: As set by the user, in the notation of Celery's ``--pidfile``.
        main: Which process is the main one: it alone touches and removes.
        log: Says that the file cannot be written, once.
    """

    def __init__(
        self,
        path: str,
        main: ProcessClaim,
        log: Callable[[str], None] = messages.log,
    ) -> None:
        self._template = path
        self._path = ""
        self._log = log
        self._is_ready = False
        self._main = main

    def connect(self) -> None:
        """Connect to the worker's signals (launcher)."""
        signals.worker_init.connect(self._worker_init, weak=False)
        signals.worker_ready.connect(self._worker_ready, weak=False)
        signals.worker_shutdown.connect(self.remove, weak=False)

    def touch(self) -> None:
        """Set the file's time of change to now."""
        if not self._is_ready or not self._main.is_this():
            return
        try:
            descriptor = os.open(self._path, _FLAGS, 0o644)
            try:
                os.utime(descriptor)
            finally:
                os.close(descriptor)
        except OSError as exc:
            self._is_ready = False
            self._log(
                f"OTEL_CELERY_HEALTH_FILE is {safe_repr(self._template)}: expected a file that"
                f" can be written ({exc.strerror}): it is not touched; probes that look"
                " at it will fail"
            )

    def remove(self, **_: Any) -> None:
        """Remove the file, if it is the empty one that ``touch`` made."""
        if not self._is_ready or not self._main.is_this():
            return
        self._is_ready = False
        try:
            if os.lstat(self._path).st_size == 0:
                os.unlink(self._path)
        except OSError:
            pass  # somebody else has removed it

    def _worker_init(self, sender: Any = None, **_: Any) -> None:
        self._path = node_format(self._template, sender.hostname)
        celery_private.add_timer(sender.app, "health", TOUCH_SECONDS, self.touch)

    def _worker_ready(self, **_: Any) -> None:
        self._is_ready = True
        self.touch()
