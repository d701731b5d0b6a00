# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Inline until the first fork, an exporter process from then on.

For programs that are not Celery's: nobody can know whether they fork. One that does not
carries its own exporter and nothing else. At a fork the exporter is closed before, so
that no gRPC is in the memory that is copied, and an exporter process is started, which
serves this process and all that is forked from it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import SpanProcessor

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan

    from otel_celery_launcher.exporter.inline import InlineExport
    from otel_celery_launcher.handoff.processor import ProcessExport

# How long the first fork may wait for spans that are on their way.
FORK_SECONDS = 1.0


class AdaptiveExport(SpanProcessor):
    """The same interface as the two exports it stands for.

    Args:
        inline: Exports until the first fork.
        make_process: Makes what exports from then on.
    """

    failure = ""  # where no exporter process can be started it goes on inline

    def __init__(
        self, inline: InlineExport, make_process: Callable[[], ProcessExport]
    ) -> None:
        self._export: InlineExport | ProcessExport = inline
        self._make_process = make_process
        self._has_forked = False
        os.register_at_fork(before=self._before_fork)

    # The span processor.

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""
        self._export.on_end(span)

    def shutdown(self) -> None:
        """Send what is there: an application's shutdown ends nobody's tracing."""
        self._export.shutdown()

    def force_flush(self, timeout_millis: int = 5_000) -> bool:
        """Send what is there; return whether that ended in time."""
        return self._export.force_flush(timeout_millis)

    # The life of a process.

    @property
    def restarts(self) -> int:
        """How many times the exporter process was replaced."""
        return self._export.restarts

    @property
    def child_share(self) -> float:
        """The share of the time a stop may take that is a child's."""
        return self._export.child_share

    def main_started(self, *, forks: bool) -> None:
        """Export from here; whether this forks, the first fork decides."""
        self._export.main_started(forks=forks)

    def child_started(self, row: int) -> None:
        """Count into a row of this process's own."""
        self._export.child_started(row)

    def poll(self) -> None:
        """Send what is held and write due lines."""
        self._export.poll()

    def close(self, seconds: float) -> bool:
        """Send what is there within so many seconds; the last act of a process."""
        self._has_forked = True  # a program that ends starts nothing any more
        return self._export.close(seconds)

    def _before_fork(self) -> None:
        if self._has_forked:
            return
        self._has_forked = True
        try:
            process = self._make_process()
        except OSError:  # no descriptor is left
            return
        process.main_started(forks=True)
        if process.failure:
            return
        before, self._export = self._export, process
        before.close(FORK_SECONDS)
