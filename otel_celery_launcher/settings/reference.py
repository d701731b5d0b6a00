# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``docs/settings.md``, written from the table of variables by ``make docs``."""

from __future__ import annotations

from typing import Any

from otel_celery_launcher.settings.launcher_variables import OWN
from otel_celery_launcher.settings.standard_variables import STANDARD
from otel_celery_launcher.settings.variable import Variable


def reference() -> str:
    """Return ``docs/settings.md``, written from the table."""
    return "\n".join(
        [
            "# Settings",
            "",
            "Every variable that `otel-celery` reads. `make docs` writes this page from the"
            " tables in `otel_celery_launcher/settings/`; do not edit it.",
            "",
            "An empty value means unset. A bad value never stops a worker: one line says what"
            " is used instead, and that is always the more private and the cheaper side. With"
            " `OTEL_CELERY_STRICT=true` it ends the start with status 78.",
            "",
            "A boolean of our own accepts true, yes, on, 1 and false, no, off, 0, in any case."
            " OpenTelemetry's booleans are true only as `true`, in any case: its specification"
            " makes every other word false. One line names a word that is neither `true` nor"
            " `false`.",
            "",
            "`OTEL_CONFIG_FILE` is not supported yet. If"
            " you set one, the start names it.",
            "",
            *_table("## Our own", OWN),
            *_table("## Standard", STANDARD),
        ]
    )


def _table(title: str, rows: tuple[Variable[Any], ...]) -> list[str]:
    lines = [
        title,
        "",
        "| variable | value | unit | default | a bad value becomes | what it does |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{row.name}` | {row.kind} | {row.unit} | {row.documented_default} | {row.documented_fallback} | {row.help} |"
        for row in rows
    ]
    return [*lines, ""]


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201 - this is the output of `make docs`
