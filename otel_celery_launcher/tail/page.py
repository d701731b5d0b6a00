# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""Traces as one page of HTML: no script, no network, the keyboard is enough.

Disclosure elements open and close traces and attributes; the check boxes filter by CSS.
Everything that came over the wire is escaped, and the page's own policy forbids it to
load anything.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from otel_celery_launcher.errors import LauncherError
from otel_celery_launcher.tail.display import counted, remarkable
from otel_celery_launcher.tail.log_lines import ERROR, last
from otel_celery_launcher.tail.waterfall import error_of
from otel_celery_launcher.terminal import LINES, escape_controls

if TYPE_CHECKING:
    from otel_celery_launcher.tail.display import Summary, Totals
    from otel_celery_launcher.tail.log_lines import LogLine
    from otel_celery_launcher.tail.traces import Trace
    from otel_celery_launcher.tail.waterfall import WaterfallRow

# The newest traces, and the first spans of each; the page says what is left out.
TRACES_KEPT = 200
ROWS_SHOWN = 1000

# Log records below one span.
LINES_KEPT = 200

# Of each text; a statement is some hundred characters, a stack trace some thousand.
TEXT_SHOWN = 4000

# Of all traces: more is slow to open. Then fewer traces than TRACES_KEPT are kept.
PAGE_CHARACTERS = 16 * 1024 * 1024

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<h1>Traces</h1>
<p class="totals">{totals}</p>
<input type="checkbox" id="errors"><label for="errors">only with errors</label>
<input type="checkbox" id="orphans"><label for="orphans">only with orphans</label>
<main>
{traces}
</main>
</body>
</html>
"""


class Page:
    """The newest traces, and the file they are written to.

    Args:
        path: Of the file; replaced whole, so that a reader never sees half a page.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._traces: OrderedDict[str, str] = OrderedDict()
        self._size = 0  # characters of all
        self._left_out = 0
        self._has_changed = True

    def add(self, trace: Trace, summary: Summary) -> None:
        """Put a trace on the page, in its own place if it was there."""
        self._size -= len(self._traces.get(trace.trace_id, ""))
        self._traces[trace.trace_id] = text = _trace(trace, summary)
        self._size += len(text)
        self._has_changed = True
        while len(self._traces) > TRACES_KEPT or self._size > PAGE_CHARACTERS:
            _, oldest = self._traces.popitem(last=False)
            self._size -= len(oldest)
            self._left_out += 1

    def write(self, totals: Totals) -> None:
        """Write the page if anything has changed.

        Raises:
            LauncherError: It cannot be written.
        """
        if not self._has_changed:
            return
        try:
            self._write(totals)
        except OSError as exc:
            raise LauncherError(
                f"--html is {str(self._path)!r}: expected a file that can be written"
                f" ({exc.strerror})",
                "choose another place",
            ) from exc
        self._has_changed = False

    def _write(self, totals: Totals) -> None:
        text = _PAGE.format(
            title=f"Traces, {time.strftime('%Y-%m-%d %H:%M:%S')}",
            style=files(__package__).joinpath("page.css").read_text(),
            totals=escape(str(totals)) + self._limit(),
            traces="\n".join(reversed(self._traces.values())) or "<p>None yet.</p>",
        )
        part = self._path.with_name(f".{self._path.name}.part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, self._path)

    def _limit(self) -> str:
        """Return how many traces are not on the page any more."""
        if not self._left_out:
            return ""
        return f"; {counted(self._left_out, 'older trace')} left out of this page"


def _trace(trace: Trace, summary: Summary) -> str:
    rows = trace.rows
    marks = remarkable(summary)
    began = time.strftime(
        "%H:%M:%S", time.localtime(min(span.start for span in trace.spans))
    )
    rows_html = _rows(rows[:ROWS_SHOWN], trace.seconds)
    left_out = len(rows) - len(rows_html)
    more = f"<p>{left_out} more spans are left out.</p>" if left_out > 0 else ""
    body = "\n".join(rows_html)
    return f"""\
<details class="trace {" ".join({kind for _, kind in marks})}">
<summary><time>{began}</time> <b>{_text(rows[0].span.name)}</b> \
<span class="took">{trace.seconds:.3f} s</span>, {counted(summary.spans, "span")} \
{"".join(_badge(*mark) for mark in marks)}<code>{escape(trace.trace_id)}</code></summary>
<table>
<thead><tr><th class="service">service<th>span<th class="when">when<th class="number">took, s<th class="number">wait, s<th class="note"></tr></thead>
<tbody>
{body}
</tbody>
</table>{more}
</details>"""


def _rows(rows: list[WaterfallRow], seconds: float) -> list[str]:
    """Return the first rows, as many as one trace may have of the page."""
    texts: list[str] = []
    room = PAGE_CHARACTERS // 4
    for row in rows:
        text = _row(row, seconds)
        room -= len(text)
        if room < 0:
            break
        texts.append(text)
    return texts


def _row(row: WaterfallRow, seconds: float) -> str:
    span = row.span
    scale = 100 / seconds if seconds > 0 else 0.0
    left = min(max(row.start * scale, 0), 100)
    width = min(max(row.took * scale, 0.2), 100)
    wait = min((row.waited or 0) * scale, left)
    attributes = {**span.attributes, "span_id": span.span_id}
    if span.status_text:
        attributes["status"] = span.status_text
    if stack := error_of(span).stack:
        attributes["stack trace"] = stack
    details = "".join(
        f"<dt>{_text(str(key))}<dd>{_text(str(value), keep=LINES)}"
        for key, value in attributes.items()
    )
    kind = "error" if row.note in ("LOST", "ERROR") else "orphan"
    note = _badge(row.note, kind) if row.note else ""
    why = (
        f"<br><small>{_text(f'{row.reason}  {row.place}')}</small>"
        if row.reason
        else ""
    )
    waited = "" if row.waited is None else f"{row.waited:.3f}"
    records, left_out = last(row.lines, LINES_KEPT)
    lines = "".join(map(_line, records))
    if left_out:
        lines = f"<li>{counted(left_out, 'earlier log record')} left out{lines}"
    logged = f'<ol class="log">{lines}</ol>' if lines else ""
    return (
        f"<tr><td>{_text(span.service)}"
        f'<td style="padding-left:{row.depth + 0.5}em"><details><summary>'
        f"{_text(span.name)} <small>{escape(span.kind)}</small>{why}</summary>"
        f"<dl>{details}</dl></details>{logged}"
        f'<td class="when"><i class="wait" style="left:{left - wait:.2f}%;'
        f'width:{wait:.2f}%"></i><i class="{"bad" if span.is_error else "bar"}"'
        f' style="left:{left:.2f}%;width:{min(width, 100 - left):.2f}%"></i>'
        f'<td class="number">{row.took:.3f}<td class="number">{waited}<td>{note}</tr>'
    )


def _line(line: LogLine) -> str:
    """Return a log record."""
    mark = ' class="error"' if line.record.severity >= ERROR else ""
    stack = f"<pre>{_text(line.stack, keep=LINES)}</pre>" if line.stack else ""
    return (
        f"<li{mark}><time>{line.start:.3f}</time>"
        f" <small>{_text(line.severity)} {_text(line.record.logger)}</small>"
        f" {_text(line.text)}{stack}"
    )


def _text(received: str, keep: str = "") -> str:
    """Return what was received as text of the page, controls made visible."""
    rest = len(received) - TEXT_SHOWN
    more = f" … ({rest} more characters)" if rest > 0 else ""
    return escape(escape_controls(received[:TEXT_SHOWN], keep) + more)


def _badge(text: str, kind: str) -> str:
    return f'<em class="{kind}">{escape(text)}</em> '
