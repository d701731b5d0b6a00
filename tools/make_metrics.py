"""The table of docs/metrics.md, from the code: python -m tools.make_metrics"""

from __future__ import annotations

import re
from pathlib import Path

from otel_celery_launcher.metrics.builtin import BUILTINS
from otel_celery_launcher.metrics.layout import Kind

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
KINDS = {
    Kind.COUNTER: "counter",
    Kind.ABSOLUTE: "counter",
    Kind.HISTOGRAM: "histogram",
    Kind.GAUGE: "gauge",
    Kind.SINCE: "gauge",
    Kind.OBSERVED_UP_DOWN: "up-down counter",
}


def table() -> str:
    """Return the rows of the built-in metrics."""
    lines = [
        "| metric | kind, unit | what it says | attributes | recorded by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, builtin in BUILTINS.items():
        described = builtin.description
        attributes = ", ".join(f"`{each}`" for each in builtin.attributes) or "-"
        unit = f"{KINDS[described.kind]}, `{described.unit}`"
        lines.append(
            f"| `{name}` | {unit} | {described.description} | {attributes} |"
            f" {builtin.process} |"
        )
    return "\n".join(lines)


def page() -> str:
    """Return the page with the present table."""
    text = PAGE.read_text()
    return re.sub(
        r"<!-- table -->.*<!-- /table -->",
        lambda _: f"<!-- table -->\n{table()}\n<!-- /table -->",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    PAGE.write_text(page())
