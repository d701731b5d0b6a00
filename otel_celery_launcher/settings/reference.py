# SPDX-FileCopyrightText: The otel-celery authors
# SPDX-License-Identifier: Apache-2.0
"""``docs/settings.md``, written from the table of variables by ``make docs``."""

from __future__ import annotations

from otel_celery_launcher.settings.launcher_variables import OWN
from otel_celery_launcher.settings.standard_variables import STANDARD
from otel_celery_launcher.settings.variable import Variable


def reference() -> str:
    """Return ``docs/settings.md``, written from the table."""
    return "\n".join(
        [
            "# Settings",
            "",
            "Every variable `otel-celery` reads. Written from the table in"
            " `otel_celery_launcher/settings/standard_variables.py` by `make docs`; do not edit.",
            "",
            "An empty value means unset. A bad value never stops a worker: one line"
            " says what is used instead, always the more private and the cheaper"
            " side; `OTEL_CELERY_STRICT=true` makes it exit status 78.",
            "",
            "A boolean of our own is true, yes, on, 1 or false, no, off, 0, in any case. One"
            " of OpenTelemetry's is true only as `true`, in any case: its specification"
            " wants every other word to be false, and one line names a word that is neither"
            " `true` nor `false`.",
            "",
            "Variables of metrics and logs and `OTEL_CONFIG_FILE`"
            " are not handled; those that are set are named when the worker starts.",
            "",
            *_table("## Our own", OWN),
            *_table("## Standard", STANDARD),
        ]
    )


def _table(title: str, rows: tuple[Variable, ...]) -> list[str]:
    lines = [
        title,
        "",
        "| variable | value | unit | default | a bad value becomes | what it does |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{row.name}` | {row.kind} | {row.unit} | {row.default} | {row.fallback} | {row.help} |"
        for row in rows
    ]
    return [*lines, ""]


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201 - this is the output of `make docs`
