# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The views of the live page as one file of HTML: no script, no network.

Disclosure elements open and close traces and attributes; the check boxes filter by CSS.
Everything that came over the wire is escaped, and the page's own policy forbids it to
load anything.
"""

from __future__ import annotations

import os
import re
import time
from collections import OrderedDict
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from otel_celery_launcher.errors import LauncherError
from otel_celery_launcher.tail.display import counted, remarkable
from otel_celery_launcher.tail.markup import badges, clock, text, waterfall
from otel_celery_launcher.tail.web.views import Query, problems, tasks, workers

if TYPE_CHECKING:
    from otel_celery_launcher.tail.display import Summary, Totals
    from otel_celery_launcher.tail.traces import Trace
    from otel_celery_launcher.tail.web.store import Store

# The newest traces; the page says what is left out.
TRACES_KEPT = 200

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
<header><p class="totals">{totals}</p></header>
<main>
<h1>Tasks</h1>
{tasks}
<h1>Problems</h1>
{problems}
<h1>Who reports</h1>
{workers}
<h1>Traces</h1>
<input type="checkbox" id="errors"><label for="errors">only with errors</label>
<input type="checkbox" id="orphans"><label for="orphans">only with orphans</label>
<section>
{traces}
</section>
</main>
</body>
</html>
"""


class Page:
    """The newest traces, and the file they are written to.

    Args:
        path: Of the file; replaced whole, so that a reader never sees half a page.
        store: What the views besides the traces show.
    """

    def __init__(self, path: Path, store: Store) -> None:
        self._path = path
        self._store = store
        self._traces: OrderedDict[str, str] = OrderedDict()
        self._size = 0  # characters of all
        self._left_out = 0
        self._has_changed = True

    def add(self, trace: Trace, summary: Summary) -> None:
        """Put a trace on the page, in its own place if it was there."""
        self._size -= len(self._traces.get(trace.trace_id, ""))
        self._traces[trace.trace_id] = shown = _trace(trace, summary)
        self._size += len(shown)
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
        store, query = self._store, Query()
        whole = _PAGE.format(
            title=f"Traces, {time.strftime('%Y-%m-%d %H:%M:%S')}",
            style=files(__package__).joinpath("page.css").read_text(),
            totals=escape(str(totals)) + self._limit(),
            tasks=_frozen(tasks(store, query)),
            problems=_frozen(problems(store, query)),
            workers=_frozen(workers(store, query)),
            traces="\n".join(reversed(self._traces.values())) or "<p>None yet.</p>",
        )
        part = self._path.with_name(f".{self._path.name}.part")
        part.write_text(whole, encoding="utf-8")
        os.replace(part, self._path)

    def _limit(self) -> str:
        """Return how many traces are not on the page any more."""
        if not self._left_out:
            return ""
        return f"; {counted(self._left_out, 'older trace')} left out of this page"


def _trace(trace: Trace, summary: Summary) -> str:
    rows = trace.rows
    began = clock(min(span.start for span in trace.spans))
    kinds = " ".join({kind for _, kind in remarkable(summary)})
    return f"""\
<details class="trace {kinds}" id="trace-{escape(trace.trace_id)}">
<summary><time>{began}</time> <b>{text(rows[0].span.name)}</b> \
<span class="took">{trace.seconds:.3f} s</span>, {counted(summary.spans, "span")} \
{badges(summary)}<code>{escape(trace.trace_id)}</code></summary>
{waterfall(rows, trace.seconds)}
</details>"""


# In a file, there is no other page to go to: a trace is further down.
_TO_TRACE = re.compile(r'href="/trace/([0-9a-f]+)"')
_ELSEWHERE = re.compile(r'<a href="/[^"]*"[^>]*>(.*?)</a>', re.DOTALL)


def _frozen(view: str) -> str:
    """Return a view of the live page as part of a file."""
    return _ELSEWHERE.sub(r"\1", _TO_TRACE.sub(r'href="#trace-\1"', view))
