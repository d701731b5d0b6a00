# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Replaces values that no encoder accepts: lone surrogates, and integers over 64 bits.

In an attribute, such a value costs the attribute and a log line of the exporter; in a
name or a status, it makes protobuf refuse the whole batch. Runs where spans are
exported: in the exporter process, or in the thread of the BatchSpanProcessor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from otel_celery_launcher.ipc.span_decoder import map_span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

_INT64 = range(-(2**63), 2**63)


def sanitize(spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
    """Return the spans; a span with such a value is replaced by a sanitized copy."""
    return [
        span
        if _is_clean_span(span)
        else map_span(span, sanitize_value, sanitize_value, sanitize_value)
        for span in spans
    ]


def sanitize_value(value: Any) -> Any:
    """Return a value that every encoder takes."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value in _INT64 else str(value)
    if isinstance(value, Mapping):
        return {
            sanitize_value(key): sanitize_value(each) for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [sanitize_value(each) for each in value]
    return value


def _is_clean(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() or _is_unicode(value)
    if isinstance(value, int):
        return value in _INT64
    if isinstance(value, Mapping):
        return all(_is_clean(key) and _is_clean(each) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_clean, value))
    return True


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_clean_span(span: ReadableSpan) -> bool:
    return (
        _is_clean(span.name)
        and _is_clean(span.status.description)
        and _is_clean(span.attributes)
        and all(_is_clean(e.name) and _is_clean(e.attributes) for e in span.events)
        and all(_is_clean(each.attributes) for each in span.links)
    )
