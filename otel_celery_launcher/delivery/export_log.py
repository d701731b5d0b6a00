# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Turns the SDK's log records on failed exports into the last error of the process.

Runs in every process that exports. The last record is kept in the shared counters and
is not logged; ``routes/delivery_log.py`` writes the lines about it.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from otel_celery_launcher.errors import describe_failure_briefly

if TYPE_CHECKING:
    from collections.abc import Callable

# Logger of the exporters, which log in the exporting thread (1.30 to 1.45).
EXPORT_LOGGER = "opentelemetry.exporter"

# Loggers of the BatchSpanProcessor, which logs in the task's thread, for each span
# that a full queue drops. `logging` swallows a soft time limit that is raised while it
# makes a record (CPython, LogRecord.__init__), so these loggers are silenced; the loss
# is counted.
HOT_PATH_LOGGERS = (
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.trace.export",
)


# "Transient error StatusCode.UNAVAILABLE … Error details: …" and "Failed to export
# traces to …, error code: StatusCode.UNAVAILABLE, error details: …" (1.30 to 1.45).
# Older ones leave the details out.
_GRPC_FAILURE = re.compile(r"StatusCode\.(\w+)(?:.*error details: (.*))?", re.I | re.S)


# Paths, queries and user info of URLs hold keys; `requests` puts them in its errors.
_URL_REST = re.compile(r"(https?://|url: )\S+")


class ExportLogHandler(logging.Handler):
    """Handles the exporters' log records: each becomes an error, none is written.

    Args:
        on_error: Called with one line of text, in the thread that exports.
        is_ours: Called in that thread. If False, an application's own exporter has
            logged, and the record is logged normally.
    """

    def __init__(
        self,
        on_error: Callable[[str], None],
        is_ours: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(logging.WARNING)
        self._on_error = on_error
        self._is_ours = is_ours

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record as an error."""
        if self._is_ours():
            self._on_error(_text(record))
        else:
            logging.getLogger().handle(record)

    def install(self) -> None:
        """Take the exporters' records, and silence the hot path."""
        exporters = logging.getLogger(EXPORT_LOGGER)
        exporters.handlers[:] = [self]
        exporters.propagate = False
        for name in HOT_PATH_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _text(record: logging.LogRecord) -> str:
    """Return status and details of a gRPC failure, else the whole message."""
    text = record.getMessage()
    if grpc_failure := _GRPC_FAILURE.search(text):
        text = ": ".join(each for each in grpc_failure.groups() if each)
    if record.exc_info and record.exc_info[1] is not None:
        text = f"{text} {record.exc_info[1]!r}"
    return one_line(text)


def error_text(exc: BaseException) -> str:
    """Return an exception's kind and message, on one line and without secrets."""
    return one_line(f"{type(exc).__name__}: {exc}")


def one_line(text: str) -> str:
    """Return a text as one line, without what may be secret in its URLs."""
    return _URL_REST.sub(r"\1…", " ".join(text.split()))


def last_words(exc: BaseException) -> str:
    """Return a text on the exception that ends the exporter process."""
    return f"the exporter process ends: {one_line(describe_failure_briefly(exc))}"
