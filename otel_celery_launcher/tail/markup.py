# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""A trace as HTML: for the live page, and for the file of ``--html``.

Everything that came over the wire is escaped. There is no script and no style in it, so
that a page's policy may forbid both.
"""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING

from otel_celery_launcher.tail.display import counted, remarkable
from otel_celery_launcher.tail.log_lines import ERROR, last
from otel_celery_launcher.tail.waterfall import error_of
from otel_celery_launcher.terminal import LINES, escape_controls

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_celery_launcher.tail.display import Summary
    from otel_celery_launcher.tail.log_lines import LogLine
    from otel_celery_launcher.tail.waterfall import WaterfallRow

# The first spans of a trace; the page says what is left out.
ROWS_SHOWN = 1000

# Log records below one span.
LINES_KEPT = 200

# Of each text; a statement is some hundred characters, a stack trace some thousand.
TEXT_SHOWN = 4000

# Of one trace; more is slow to open.
TRACE_CHARACTERS = 4 * 1024 * 1024

# Deeper spans are drawn at this depth; page.css has a class for each.
DEEPEST = 24


def text(received: str, keep: str = "") -> str:
    """Return what was received as text of a page, controls made visible."""
    rest = len(received) - TEXT_SHOWN
    more = f" … ({rest} more characters)" if rest > 0 else ""
    return escape(escape_controls(received[:TEXT_SHOWN], keep) + more)


def badge(label: str, kind: str) -> str:
    """Return a mark; ``kind`` is its class."""
    return f'<em class="{kind}">{escape(label)}</em> '


def badges(summary: Summary) -> str:
    """Return what is remarkable about a trace."""
    return "".join(badge(*mark) for mark in remarkable(summary))


def clock(seconds: float) -> str:
    """Return a time of day; seconds since the epoch."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):  # anybody may send any number
        return "?"


def waterfall(rows: Sequence[WaterfallRow], seconds: float) -> str:
    """Return the spans of a trace as a table.

    Args:
        rows: In their places.
        seconds: From the first start to the last end.
    """
    shown = list(_rows(rows, seconds))
    left_out = len(rows) - len(shown)
    more = f"<p>{left_out} more spans are left out.</p>" if left_out > 0 else ""
    body = "\n".join(shown)
    return f"""\
<table class="waterfall">
<thead><tr><th class="service" scope="col">service<th scope="col">span<th class="when" scope="col">when\
<th class="number" scope="col">took, s<th class="number" scope="col">wait, s<th class="note" scope="col">note</tr></thead>
<tbody>
{body}
</tbody>
</table>{more}"""


def _rows(rows: Sequence[WaterfallRow], seconds: float) -> Iterator[str]:
    """Yield the first rows, as many as one trace may have."""
    room = TRACE_CHARACTERS
    for row in rows[:ROWS_SHOWN]:
        shown = _row(row, seconds)
        room -= len(shown)
        if room < 0:
            return
        yield shown


def _row(row: WaterfallRow, seconds: float) -> str:
    span = row.span
    kind = "error" if row.note in ("LOST", "ERROR") else "orphan"
    note = badge(row.note, kind) if row.note else ""
    why = (
        f"<br><small>{text(f'{row.reason}  {row.place}')}</small>" if row.reason else ""
    )
    waited = "" if row.waited is None else f"{row.waited:.3f}"
    return (
        f"<tr><td>{text(span.service)}"
        f'<td class="depth{min(row.depth, DEEPEST)}">'
        f'<details id="span-{escape(span.span_id)}"><summary>'
        f"{text(span.name)} <small>{escape(span.kind)}</small>{why}</summary>"
        f"<dl>{_details(row)}</dl></details>{_log(row)}"
        f'<td class="when">{_bar(row, seconds)}'
        f'<td class="number">{row.took:.3f}<td class="number">{waited}<td>{note}</tr>'
    )


def _details(row: WaterfallRow) -> str:
    """Return the attributes of a span."""
    span = row.span
    attributes = {**span.attributes, "span_id": span.span_id}
    if span.links:
        attributes["links"] = ", ".join(span.links)
    if span.status_text:
        attributes["status"] = span.status_text
    if stack := error_of(span).stack:
        attributes["stack trace"] = stack
    return "".join(
        f"<dt>{text(str(key))}<dd>{text(str(value), keep=LINES)}"
        for key, value in attributes.items()
    )


def _bar(row: WaterfallRow, seconds: float) -> str:
    """Return wait and run to scale: hundredths of the trace."""
    scale = 100 / seconds if seconds > 0 else 0.0
    left = min(max(row.start * scale, 0), 100)
    width = min(max(row.took * scale, 0.4), 100 - left)
    wait = min((row.waited or 0) * scale, left)
    kind = "bad" if row.span.is_error else "bar"
    waiting = ""
    if wait > 0:
        waiting = f'<rect class="wait" x="{left - wait:.2f}" width="{wait:.2f}" y="1" height="3"/>'
    return (
        '<svg viewBox="0 0 100 5" preserveAspectRatio="none" aria-hidden="true">'
        f'{waiting}<rect class="{kind}" x="{left:.2f}" width="{max(width, 0.4):.2f}"'
        ' y="0.5" height="4"/></svg>'
    )


def _log(row: WaterfallRow) -> str:
    """Return the log records of a span."""
    records, left_out = last(row.lines, LINES_KEPT)
    lines = "".join(map(_line, records))
    if left_out:
        lines = f"<li>{counted(left_out, 'earlier log record')} left out{lines}"
    return f'<ol class="log">{lines}</ol>' if lines else ""


def _line(line: LogLine) -> str:
    mark = ' class="error"' if line.record.severity >= ERROR else ""
    stack = f"<pre>{text(line.stack, keep=LINES)}</pre>" if line.stack else ""
    return (
        f"<li{mark}><time>{line.start:.3f}</time>"
        f" <small>{text(line.severity)} {text(line.record.logger)}</small>"
        f" {text(line.text)}{stack}"
    )
