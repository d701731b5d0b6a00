# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""The views of the live page: each a function of what is kept and of the query.

They run in the server's threads. Each returns the part of the page that changes; without
a script it is the whole answer, and a script replaces it as it changes.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from otel_celery_launcher.tail.display import counted
from otel_celery_launcher.tail.markup import badge, badges, clock, text, waterfall
from otel_celery_launcher.tail.screen import duration
from otel_celery_launcher.tail.task_figures import (
    INTERVAL_SECONDS,
    NAME_CHARACTERS,
    OTHERS,
)
from otel_celery_launcher.tail.web.store import LOST, ORPHAN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from otel_celery_launcher.tail.task_figures import Interval, TaskRow
    from otel_celery_launcher.tail.web.store import Entry, Problem, Source, Store

# The newest traces of a list, and rows of any other table.
TRACES_SHOWN = 200
ROWS_SHOWN = 500

# Columns of the table of tasks: key of the query, heading, what is sorted by.
TASK_COLUMNS: tuple[tuple[str, str, Callable[[TaskRow], Any]], ...] = (
    ("task", "task", lambda row: row.name),
    ("runs", "runs", lambda row: row.runs),
    ("rate", "runs/s", lambda row: row.rate),
    ("failed", "failed", lambda row: row.failed),
    ("retried", "retried", lambda row: row.retried),
    ("lost", "lost", lambda row: row.lost),
    ("queue", "in queue", lambda row: row.in_queue or 0),
    ("open", "not ended", lambda row: row.open),
    ("p50", "p50", lambda row: row.p50 or 0.0),
    ("p95", "p95", lambda row: row.p95 or 0.0),
    ("wait", "wait p95", lambda row: row.wait_p95 or 0.0),
)

# What a trace of the list may have: value of the query, its words.
STATES = (
    ("", "any state"),
    ("ERROR", "failed"),
    ("LOST", "lost"),
    ("retry", "retried"),
    ("open", "not ended"),
    ("ORPHAN", "without a parent"),
    ("ROOT", "without a publish"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is asked of a view; all of it comes from a browser's address line."""

    task: str = ""
    state: str = ""
    service: str = ""
    text: str = ""
    slow: str = ""
    sort: str = "runs"
    order: str = "down"

    @classmethod
    def read(cls, pairs: Mapping[str, str]) -> Query:
        """Return the query of some pairs; unknown ones are ignored."""
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in pairs.items() if key in known})

    @property
    def slow_seconds(self) -> float:
        """The number of ``slow``; 0 for any other text."""
        try:
            seconds = float(self.slow)
        except ValueError:
            return 0.0
        return seconds if math.isfinite(seconds) else 0.0

    def fits(self, entry: Entry) -> bool:
        """Return whether a trace is one of those that are asked for."""
        return (
            (not self.task or self.task in entry.tasks)
            and (not self.state or self.state in entry.notes)
            and (not self.service or self.service in entry.services)
            and (not self.text or self.text.lower() in entry.text)
            and entry.seconds >= self.slow_seconds
        )


def link(path: str, label: str, **query: str) -> str:
    """Return a link; the label is text that was received."""
    return f'<a href="{text(_address(path, query))}">{_short(label) or "(no name)"}</a>'


def _short(received: str) -> str:
    """Return a name in a list of many: its beginning."""
    more = "…" if len(received) > NAME_CHARACTERS else ""
    return text(received[:NAME_CHARACTERS] + more)


def _address(path: str, query: Mapping[str, str]) -> str:
    pairs = {key: value for key, value in query.items() if value}
    return f"{path}?{urlencode(pairs)}" if pairs else path


def _table(heads: Iterable[str], rows: Sequence[str], caption: str) -> str:
    head = "".join(heads)
    body = "\n".join(rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table class="list"><caption class="hidden">{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _heads(*names: str) -> list[str]:
    return [f'<th scope="col">{name}' for name in names]


def _seconds(value: float | None) -> str:
    return "" if value is None else duration(value)


# Tasks.


def tasks(store: Store, query: Query) -> str:
    """Return the table of tasks: a row for each name."""
    rows = [row for row in store.tasks() if query.text.lower() in row.name.lower()]
    columns = {name: by for name, _, by in TASK_COLUMNS}
    by = columns.get(query.sort, columns["runs"])
    rows.sort(key=by, reverse=query.order != "up")
    if not rows:
        return "<p>No task has run yet.</p>"
    most = max(each.runs for row in rows for each in row.intervals)
    heads = [_sorting_head(query, name, label) for name, label, _ in TASK_COLUMNS]
    heads.append(f'<th scope="col">last {_window(rows[0].intervals)}')
    shown = [_task(row, max(most, 1)) for row in rows[:ROWS_SHOWN]]
    return _table(heads, shown, "Tasks")


def _window(intervals: Sequence[Interval]) -> str:
    return f"{len(intervals) * INTERVAL_SECONDS // 60} minutes"


def _sorting_head(query: Query, name: str, label: str) -> str:
    is_sorted = query.sort == name
    order = "up" if is_sorted and query.order != "up" else "down"
    state = ""
    if is_sorted:
        direction = "ascending" if query.order == "up" else "descending"
        state = f' aria-sort="{direction}"'
    address = _address("/", {"text": query.text, "sort": name, "order": order})
    return f'<th scope="col"{state}><a href="{text(address)}">{label}</a>'


def _task(row: TaskRow, most: int) -> str:
    cells = [
        f"{row.runs:,}", f"{row.rate:.1f}", _bad(row.failed), f"{row.retried:,}",
        _bad(row.lost), _number(row.in_queue), f"{row.open:,}",
        *map(_seconds, (row.p50, row.p95, row.wait_p95)),
    ]  # fmt: skip
    numbers = "".join(f'<td class="number">{cell}' for cell in cells)
    name = text(OTHERS)  # which no trace has
    if row.name != OTHERS:
        name = link("/traces", row.name, task=row.name)
    return f'<tr><th scope="row">{name}{numbers}<td>{_spark(row.intervals, most)}</tr>'


def _bad(count: int) -> str:
    return f'<span class="error">{count:,}</span>' if count else "0"


def _spark(intervals: Sequence[Interval], most: int) -> str:
    """Return runs and failures of the last minutes; each bar leads to a trace."""
    bars = []
    for number, each in enumerate(intervals):
        if not each.runs:
            continue
        height = max(1.0, 20 * each.runs / most)
        bad = 20 * each.failed / most
        title = (
            f"{counted(each.runs, 'run')}, {each.failed} failed, slowest"
            f" {duration(each.slowest)}"
        )
        bars.append(
            f'<a href="/trace/{text(each.trace_id)}" tabindex="-1"><title>{title}</title>'
            f'<rect class="bar" x="{number}" width="0.8" y="{20 - height:.1f}"'
            f' height="{height:.1f}"/><rect class="bad" x="{number}" width="0.8"'
            f' y="{20 - bad:.1f}" height="{bad:.1f}"/></a>'
        )
    slowest = max(intervals, key=lambda each: each.slowest, default=None)
    more = ""
    if slowest is not None and slowest.trace_id:
        more = link(
            f"/trace/{slowest.trace_id}", f"slowest {duration(slowest.slowest)}"
        )
    return (
        f'<svg class="spark" viewBox="0 0 {len(intervals)} 20" aria-hidden="true"'
        f' preserveAspectRatio="none">{"".join(bars)}</svg> <small>{more}</small>'
    )


# Traces.


def traces(store: Store, query: Query) -> str:
    """Return the list of traces, the newest first."""
    found = [entry for entry in store.entries() if query.fits(entry)]
    if not found:
        return "<p>No such trace has come.</p>"
    shown = [_trace_line(entry) for entry in found[:TRACES_SHOWN]]
    heads = _heads("began", "trace", "services", "spans", "took", "note")
    rest = len(found) - len(shown)
    more = f"<p>{counted(rest, 'older trace')} not shown.</p>" if rest > 0 else ""
    return _table(heads, shown, "Traces") + more


def _trace_line(entry: Entry) -> str:
    marks = badges(entry.summary)
    if entry.summary.open:
        marks += badge(f"{entry.summary.open} not ended", "open")
    return (
        f"<tr><td><time>{clock(entry.began)}</time>"
        f'<th scope="row">{link(f"/trace/{entry.trace.trace_id}", entry.name)}'
        f"<td>{_short(', '.join(entry.services))}"
        f'<td class="number">{entry.summary.spans}'
        f'<td class="number">{_seconds(entry.seconds)}<td>{marks}</tr>'
    )


def trace(store: Store, trace_id: str) -> str | None:
    """Return one trace; None if it is not, or no longer, kept."""
    entry = store.entry(trace_id)
    if entry is None:
        return None
    rows = entry.trace.rows
    return (
        f'<p class="totals"><time>{clock(entry.began)}</time>,'
        f" {counted(entry.summary.spans, 'span')}, {_seconds(entry.seconds)}"
        f" {badges(entry.summary)}<code>{text(trace_id)}</code></p>"
        f"{waterfall(rows, entry.seconds)}"
    )


# Problems.


def problems(store: Store, _: Query) -> str:
    """Return lost tasks, and spans without what caused them."""
    return "\n".join(
        f"<h2>{title}</h2>{_problems(store.problems(kind), none, title)}"
        for kind, title, none in (
            (LOST, "Lost tasks", "No task was lost."),
            (ORPHAN, "Orphans", "Each span has its parent, and each run its publish."),
        )
    )


def _problems(found: Sequence[Problem], none: str, title: str) -> str:
    if not found:
        return f"<p>{none}</p>"
    rows = [
        f"<tr><td><time>{clock(each.when)}</time>"
        f'<th scope="row">{link(f"/trace/{each.trace_id}", each.name)}'
        f"<td>{text(each.service)}<td>{text(each.why)}</tr>"
        for each in found
    ]
    return _table(_heads("when", "span", "service", "why"), rows, title)


# Workers.


def workers(store: Store, _: Query) -> str:
    """Return who reports, what they say of their own delivery, and of queues."""
    found = sorted(store.sources(), key=lambda each: (each.service, each.instance))
    if not found:
        return "<p>Nothing has come yet.</p>"
    heads = _heads(
        "service", "instance", "role", "mode", "seen", "spans here", "exported", "lost",
        "queued", "pool", "restarts",
    )  # fmt: skip
    shown = _table(heads, [_source(each) for each in found], "Who reports")
    queues = [
        f'<tr><th scope="row">{text(each.name)}<td class="number">'
        f'{_number(each.messages)}<td class="number">{_number(each.consumers)}</tr>'
        for each in sorted(store.queues(), key=lambda each: each.name)
    ]
    if not queues:
        return shown
    table = _table(_heads("queue", "messages", "consumers"), queues, "Queues")
    return f"{shown}<h2>Queues</h2>{table}"


def _source(source: Source) -> str:
    pool = ""
    if source.pool_limit is not None:
        pool = f"{source.pool_usage or 0:.0f} of {source.pool_limit:.0f}"
    lost = "" if source.lost is None else _bad(int(source.lost))
    numbers = (
        _number(source.spans or None), _number(source.exported), lost,
        _number(source.queued), pool, _number(source.restarts),
    )  # fmt: skip
    cells = "".join(f'<td class="number">{each}' for each in numbers)
    ago = max(0.0, time.time() - source.seen)
    return (
        f'<tr><th scope="row">{link("/traces", source.service, service=source.service)}'
        f"<td><code>{text(source.instance)}</code><td>{text(source.role)}<td>{source.mode}"
        f'<td class="number">{duration(ago)} ago{cells}</tr>'
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


# By the path of their address.
VIEWS: dict[str, tuple[str, Callable[[Store, Query], str]]] = {
    "/": ("Tasks", tasks),
    "/traces": ("Traces", traces),
    "/problems": ("Problems", problems),
    "/workers": ("Workers", workers),
}
