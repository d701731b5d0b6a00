# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""What is around a view: the head of the page, its navigation, its filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_celery_launcher.tail.markup import text
from otel_celery_launcher.tail.web.views import STATES, VIEWS

if TYPE_CHECKING:
    from otel_celery_launcher.tail.web.views import Query

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · otel-celery</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/page.css">
<script src="/live.js" defer></script>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
<nav aria-label="Views">{links}</nav>
<p class="totals" id="totals">{totals}</p>
<button type="button" id="pause" aria-pressed="false" hidden>Pause</button>
</header>
<main id="main" tabindex="-1">
<h1>{heading}</h1>
{filters}
<div id="live">
{body}
</div>
</main>
</body>
</html>
"""


def page(path: str, heading: str, totals: str, filters: str, body: str) -> str:
    """Return a whole page.

    Args:
        path: Of the view, for the navigation.
        heading: Its heading: text that was received.
        totals: The sums over all that came.
        filters: What is above the view: HTML.
        body: The view: HTML.
    """
    links = "".join(
        f'<a href="{address}"{_current(address == path)}>{name}</a>'
        for address, (name, _) in VIEWS.items()
    )
    return _PAGE.format(
        title=text(heading),
        heading=text(heading),
        links=links,
        totals=text(totals),
        filters=filters,
        body=body,
    )


def _current(is_it: bool) -> str:
    return ' aria-current="page"' if is_it else ""


def filters(path: str, query: Query) -> str:
    """Return the form above a view; empty for one that has none."""
    if path == "/":
        hidden = "".join(
            f'<input type="hidden" name="{name}" value="{text(value)}">'
            for name, value in (("sort", query.sort), ("order", query.order))
        )
        return _form(path, hidden + _field("text", "name", query.text))
    if path != "/traces":
        return ""
    options = "".join(
        f'<option value="{value}"{" selected" if value == query.state else ""}>{words}'
        for value, words in STATES
    )
    state = f'<label>state <select name="state">{options}</select></label>'
    return _form(
        path,
        _field("text", "text or id", query.text)
        + _field("task", "task", query.task)
        + _field("service", "service", query.service)
        + state
        + _field("slow", "longer than, s", query.slow, 'inputmode="decimal" size="6"'),
    )


def _form(path: str, inner: str) -> str:
    clear = f'<a href="{path}">clear</a>'
    return (
        f'<form method="get" action="{path}" role="search">{inner}'
        f'<button type="submit">Filter</button> {clear}</form>'
    )


def _field(name: str, label: str, value: str, more: str = "") -> str:
    return f'<label>{label} <input name="{name}" value="{text(value)}" {more}></label>'
